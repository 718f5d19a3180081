"""What a suspended run waits for, so that whoever finds it can tell when to wake it.

Two things are written down. In the run's records stands what it waits for: the ids of its provider
batches, and when it has to go on in any case. At the Prefect server a Variable for each deployed
run that may suspend says where those records are; it is there from the run's start to its end, so
that a run whose process died is found as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from batchata_prefect.files import fields_in
from batchata_prefect.records import variables

_HEAD = "batchata-waiting-"


@dataclass(frozen=True, slots=True)
class Watched:
    """A provider batch whose end a run waits for.

    Attributes:
        provider: Name of the provider.
        batch_id: The provider's id.
        created_at: When it was created.
    """

    provider: str
    batch_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a suspended run waits for.

    Attributes:
        flow_run_id: The deployed flow run that is to be resumed.
        batch_run_id: The flow run of the batch inside of it.
        since: When it went to sleep.
        resume_at: When it has to go on, whatever the providers say.
        costs_seconds: What a process takes to come to where it can collect.
        batches: The provider batches.
        credentials: Name of a provider -> credentials block that its key is in.
        accounts: Name -> table of each account; without secrets.
    """

    flow_run_id: str
    batch_run_id: str | None
    since: datetime
    resume_at: datetime
    costs_seconds: float
    batches: tuple[Watched, ...]
    credentials: Mapping[str, str]
    accounts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        values = asdict(self)
        values["since"] = self.since.isoformat()
        values["resume_at"] = self.resume_at.isoformat()
        values["batches"] = [
            [each.provider, each.batch_id, each.created_at.isoformat()] for each in self.batches
        ]
        values["credentials"] = dict(self.credentials)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Waiting:
        """What `to_dict` gave."""
        batches = tuple(
            Watched(provider, batch_id, datetime.fromisoformat(created_at))
            for provider, batch_id, created_at in values["batches"]
        )
        since, resume_at = map(datetime.fromisoformat, (values["since"], values["resume_at"]))
        return cls(**fields_in(values, cls, since=since, resume_at=resume_at, batches=batches))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the records of a deployed run are that may suspend.

    Attributes:
        flow_run_id: The deployed flow run.
        run_key: The run key.
        state: Where the records are, as in `Batch.set_state`.
        on_cancel: What becomes of its provider batches when it is cancelled.
        revived: Times that it was started again after its process had died.
        heard: Of the process that works on it, what was heard last.
        heard_at: When that was heard first.
    """

    flow_run_id: str
    run_key: str
    state: str | None
    on_cancel: str
    revived: int = 0
    heard: str | None = None
    heard_at: str | None = None


async def register(place: Place) -> None:
    """Make a run known to the collector; what the collector has counted stays.

    Raises:
        Exception: Prefect does not answer.
    """
    there = await variables.get(_HEAD + place.flow_run_id)
    if there is not None and (before := _place(there)) is not None:
        place = replace(place, revived=before.revived)
    await write(place)


async def write(place: Place) -> None:
    """Write a run's Variable.

    Raises:
        Exception: Prefect does not answer.
    """
    value = {key: value for key, value in asdict(place).items() if key != "flow_run_id"}
    await variables.put(_HEAD + place.flow_run_id, value)


async def forget(flow_run_id: str) -> None:
    """Remove a run's Variable, if there is one.

    Raises:
        Exception: Prefect does not answer.
    """
    await variables.drop(_HEAD + flow_run_id)


async def places() -> list[Place]:
    """All runs that may be suspended.

    Raises:
        Exception: Prefect does not answer.
    """
    return [place for each in await variables.headed(_HEAD) if (place := _place(each)) is not None]


def _place(variable: Mapping[str, Any]) -> Place | None:
    """The place in one of our Variables; None where it is not one of ours."""
    try:
        name = str(variable["name"]).removeprefix(_HEAD)
        return Place(**fields_in(variable["value"], Place, flow_run_id=name))
    except TypeError:
        return None
