"""The wire of Anthropic's batch API."""

from batchata_prefect.providers.anthropic.batches import Anthropic as Anthropic
