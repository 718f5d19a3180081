"""Sums over results: how many, why they failed, what they took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any, cast


@dataclass(slots=True)
class Tally:
    """Sums over some results.

    Attributes:
        counts: Status -> jobs.
        failures: Error code -> jobs, with the id and the error of one of them.
        input_tokens: Of the last attempt of each job.
        output_tokens: The same.
        citations_dropped: Quotes that stand in none of the documents.
        by_tag: Tag -> jobs, those that completed, cost in USD (None where unknown), tokens.
    """

    counts: dict[str, int] = field(
        default_factory=lambda: {"completed": 0, "failed": 0, "cancelled": 0}
    )
    failures: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    input_tokens: int = 0
    output_tokens: int = 0
    citations_dropped: int = 0
    by_tag: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.counts[row["status"]] += 1
        self.input_tokens += row["input_tokens"]
        self.output_tokens += row["output_tokens"]
        # Answers that an earlier version left behind do not have it.
        self.citations_dropped += row.get("citations_dropped", 0)
        if row["error_code"] is not None:
            group = self.failures.setdefault(
                row["error_code"],
                {"count": 0, "example_job_id": row["job_id"], "example": row["error"]},
            )
            group["count"] += 1
        if tags := row.get("tags", ()):
            self.add_tags(
                tags,
                completed=row["status"] == "completed",
                cost_usd=row["cost_usd"],
                input_tokens=row["input_tokens"],
                output_tokens=row["output_tokens"],
            )

    def add_tags(
        self,
        tags: Iterable[str],
        *,
        completed: bool,
        cost_usd: float | None,
        input_tokens: int,
        output_tokens: int,
    ) -> None:
        """Count one row under each of its tags."""
        for tag in tags:
            sums = self._tag(tag)
            so_far: Decimal | None = sums["cost_usd"]
            sums["jobs"] += 1
            sums["completed"] += completed
            if so_far is not None:
                sums["cost_usd"] = None if cost_usd is None else so_far + Decimal(str(cost_usd))
            sums["input_tokens"] += input_tokens
            sums["output_tokens"] += output_tokens

    def _tag(self, tag: str) -> dict[str, Any]:
        return self.by_tag.setdefault(
            tag,
            {"jobs": 0, "completed": 0, "cost_usd": Decimal(0)}
            | {"input_tokens": 0, "output_tokens": 0},
        )

    def merge(self, other: Tally) -> None:
        """Count what another one has counted."""
        for status, count in other.counts.items():
            self.counts[status] += count
        for code, group in other.failures.items():
            mine = self.failures.setdefault(code, {**group, "count": 0})
            mine["count"] += group["count"]
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.citations_dropped += other.citations_dropped
        for tag, sums in other.by_tag.items():
            mine = self._tag(tag)
            for name, value in sums.items():
                so_far = mine[name]
                mine[name] = None if so_far is None or value is None else so_far + value

    def to_dict(self) -> dict[str, Any]:
        """It as JSON values; `from_dict` gives it back."""
        by_tag = {
            tag: {**sums, "cost_usd": None if sums["cost_usd"] is None else str(sums["cost_usd"])}
            for tag, sums in self.by_tag.items()
        }
        return {**asdict(self), "by_tag": by_tag}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """What `to_dict` gave."""
        tally = cls(**values)
        for sums in cast("Iterable[dict[str, Any]]", tally.by_tag.values()):
            if sums["cost_usd"] is not None:
                sums["cost_usd"] = Decimal(sums["cost_usd"])
        return tally
