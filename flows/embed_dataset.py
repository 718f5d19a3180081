"""A vector for each text of a dataset, and the nearest texts to a question.

    python flows/embed_dataset.py "What does the tenant repair?"

Needs OPENAI_API_KEY, or a sandbox (`batchata sandbox`), whose vectors mean nothing.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from prefect import flow

from batchata_prefect import Batch
from batchata_prefect.jobs.sources import read_rows


@flow(name="embed-dataset")
def embed_dataset(
    question: str = "What does the tenant repair?",
    dataset: str = str(Path(__file__).parent / "data" / "passages.jsonl"),
    model: str = "text-embedding-3-small",
    results_dir: str = "results/embeddings",
    cost_limit_usd: float = 1.0,
) -> list[tuple[float, str]]:
    """Embed every text of a file, and one question, and rank the texts.

    Args:
        question: What is looked for.
        dataset: .jsonl, .csv or .parquet with the columns key and text.
        model: Id of an embeddings model.
        results_dir: Where the vectors go; those that are there are not bought again.
        cost_limit_usd: USD that the run never passes.

    Returns:
        Nearness from -1 to 1 and key of each text, the nearest first.
    """
    batch = Batch(results_dir=results_dir).set_default_params(model=model, provider="openai")
    batch.add_cost_limit(usd=cost_limit_usd)
    batch.add_job(id="question", prompt=question)
    for row in read_rows(dataset):
        batch.add_job(id=row["key"], prompt=row["text"])
    run = batch.run(print_status=True)
    results = run.iter_results()
    asked = next(results).embedding
    if asked is None:
        raise RuntimeError(f"the question was not embedded: {run.get_failed_jobs()['question']}")
    # For millions of vectors read results.jsonl into an index instead.
    ranked = [(nearness(asked, each.embedding), each.job_id) for each in results if each.embedding]
    return sorted(ranked, reverse=True)


def nearness(one: list[float], other: list[float]) -> float:
    """The cosine between two vectors."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


if __name__ == "__main__":
    for near, key in embed_dataset(*sys.argv[1:2]):
        print(f"{near:6.3f}  {key}")
