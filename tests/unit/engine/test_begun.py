"""From when the time limit of a job set counts, over restarts and over nights."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from prefect.filesystems import LocalFileSystem

from batchata_prefect import Batch
from batchata_prefect.engine.finish import MANIFEST_FORMAT
from batchata_prefect.engine.session import Pace, Session, Settings
from batchata_prefect.engine.start import _begun  # pyright: ignore[reportPrivateUsage]
from batchata_prefect.models import Chunk
from batchata_prefect.money.ledger import Entry
from batchata_prefect.providers import price_book
from batchata_prefect.records.store import Records

FIRST = datetime(2026, 11, 1, 2, tzinfo=UTC)
LAST_NIGHT, TONIGHT = FIRST + timedelta(days=20), FIRST + timedelta(days=21)


def entry(sequence: int, since: datetime) -> Entry:
    chunk = Chunk(sequence, 0, "ab" * 32, "openai", "/v1/responses", "gpt-6-luna", 2, 9, 3, 4, None)
    return Entry(chunk, since)


@pytest.mark.parametrize(
    ("manifest", "sent", "begun"),
    [
        pytest.param(None, [TONIGHT], FIRST, id="nothing was finished yet"),
        pytest.param({"records": "other"}, [TONIGHT], FIRST, id="finished under other records"),
        pytest.param({"job_set": "same"}, [LAST_NIGHT], LAST_NIGHT, id="the same job set again"),
        pytest.param({"status": "failed"}, [LAST_NIGHT], LAST_NIGHT, id="last night is not over"),
        pytest.param({}, [LAST_NIGHT, TONIGHT], TONIGHT, id="killed tonight, after one batch"),
        pytest.param(
            {},
            [LAST_NIGHT, TONIGHT + timedelta(hours=1), TONIGHT],
            TONIGHT,
            id="killed tonight, after two, by clocks that differ",
        ),
        pytest.param({}, [LAST_NIGHT], None, id="killed tonight, before anything was sent"),
    ],
)
def test_a_time_limit_counts_from_the_first_start_of_its_job_set(
    tmp_path: Path, manifest: dict[str, Any] | None, sent: list[datetime], begun: datetime | None
) -> None:
    """What was sent after the last job set was finished is of the night that was killed."""
    batch = Batch(tmp_path).set_default_params(model="gpt-6-luna").add_job(prompt="x")
    spool = batch._intake.spool  # pyright: ignore[reportPrivateUsage]
    assert spool is not None
    spool.seal()
    told = Settings(results_dir=str(tmp_path), run_key="k", jobs=1)
    run = Session(told, spool, price_book(None), {}, Pace())
    run.records = Records(LocalFileSystem(basepath=str(tmp_path / "rec")), "k")
    run.records.id = "ours"
    run.started_at = FIRST
    run.ledger.extend(entry(number, since) for number, since in enumerate(sent))
    if manifest is not None:
        values = {
            "format": MANIFEST_FORMAT,
            "records": "ours",
            "status": "completed",
            "job_set": "another",
            "started_at": LAST_NIGHT.isoformat(),
            "ledger": ["digest", 1],
            **manifest,
        }
        if values["job_set"] == "same":
            values["job_set"] = spool.digest
        (tmp_path / "manifest.json").write_bytes(orjson.dumps(values))
    before = datetime.now(UTC)
    found = _begun(run)
    assert before <= found <= datetime.now(UTC) if begun is None else found == begun
