"""The wire of Gemini's batch API."""

from batchata_prefect.providers.gemini.batches import Gemini as Gemini
