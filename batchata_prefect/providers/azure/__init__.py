"""The wire of Azure OpenAI's batch API."""

from batchata_prefect.providers.azure.batches import Azure as Azure
