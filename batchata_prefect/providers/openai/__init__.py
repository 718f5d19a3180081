"""The wire of OpenAI's batch API."""

from batchata_prefect.providers.openai.batches import OpenAI as OpenAI
