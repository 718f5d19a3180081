"""One model answers, a second one of another provider judges the answers.

    python flows/evaluate.py

Needs ANTHROPIC_API_KEY and OPENAI_API_KEY, or a sandbox (`batchata sandbox`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel, Field

from batchata_prefect import Batch
from batchata_prefect.jobs.sources import read_rows


class Verdict(BaseModel):
    """What the judge says of an answer."""

    score: int = Field(ge=1, le=5, description="5 is right and complete, 1 is wrong")
    reason: str


@flow(name="evaluate")
def evaluate(
    questions: str = str(Path(__file__).parent / "data" / "tickets.csv"),
    answering_model: str = "gpt-6-luna",
    judging_model: str = "claude-haiku-5-5",
    results_dir: str = "results/evaluation",
    cost_limit_usd: float = 1.0,
) -> dict[str, Any]:
    """Answer every ticket, then have each answer judged.

    Args:
        questions: CSV with the columns id and text.
        answering_model: Model whose answers are judged.
        judging_model: Model that judges; better one of another provider.
        results_dir: Under it, `answers` and `verdicts`.
        cost_limit_usd: USD that each of the two runs never passes.

    Returns:
        Mean score, number of verdicts and the ids that scored 2 or less.
    """
    answers = Batch(Path(results_dir) / "answers").add_cost_limit(usd=cost_limit_usd)
    answers.set_default_params(model=answering_model, system="Answer as a friendly support agent.")
    for row in read_rows(questions):
        answers.add_job(id=row["id"], prompt=row["text"], metadata={"question": row["text"]})

    verdicts = Batch(Path(results_dir) / "verdicts", max_reasks=1).add_cost_limit(cost_limit_usd)
    verdicts.set_default_params(model=judging_model, response_model=Verdict)
    for answer in answers.run(print_status=True).iter_results():
        if answer.is_success:
            asked = answer.metadata["question"]
            prompt = f"Question:\n{asked}\n\nAnswer:\n{answer.raw_response}\n\nJudge the answer."
            verdicts.add_job(id=answer.job_id, prompt=prompt)
    scores = {
        result.job_id: result.parsed_response.score
        for result in verdicts.run(print_status=True).iter_results()
        if isinstance(result.parsed_response, Verdict)
    }
    mean = sum(scores.values()) / len(scores) if scores else None
    poor = [job_id for job_id, score in scores.items() if score <= 2]
    return {"mean": mean, "judged": len(scores), "poor": poor}


if __name__ == "__main__":
    print(evaluate())
