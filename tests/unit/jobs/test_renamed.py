"""Jobs that have another id than in the records: found by their requests, each for one."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchata_prefect.answers import Usage
from batchata_prefect.jobs.spool import IN_FLIGHT, Spool
from batchata_prefect.jobs.spool.renamed import Renamed
from batchata_prefect.models import Estimate, Job, Request
from batchata_prefect.money.ledger import FINGERPRINT_BYTES, Ending

Jobs = Sequence[tuple[str, str]]
"""Id and request; an id of None is made from the request, as the package does."""


class Start:
    """A start of a run: the jobs that it has, and what the records say of them."""

    def __init__(self, parent: Path, jobs: Jobs, ledger: Sequence[Chunk] = ()) -> None:
        self.spool = Spool.create(parent)
        for job_id, asked in jobs:
            named = not job_id.startswith("made-")
            request = Request("p", "/x", "m", asked.encode(), Estimate(1, 2, 3))
            self.spool.add(Job(id=job_id, model="m", prompt="x"), request, named=named)
        self.spool.seal()
        self.members: list[Sequence[int]] = []
        renamed = Renamed(self.spool)
        for sequence, chunk in enumerate(ledger):
            ordinals = self.spool.locate(chunk.members)
            self.members.append(ordinals)
            renamed.note(sequence, chunk.members, chunk.requests, ordinals, chunk.ending)
        renamed.find(self.members)

    def send(self, marks: str | None, count: int = 99) -> Chunk:
        """What the records say of the jobs that wait, once they are sent."""
        (family,) = self.spool.families()
        rows = list(self.spool.waiting(family, 0))[:count]
        reader = self.spool.reader()
        requests = b"".join(reader.requests([row.ordinal for row in rows]))
        reader.close()
        return Chunk(b"".join(row.fingerprint for row in rows), requests, marks)

    def close(self) -> None:
        self.spool.close()


class Chunk:
    def __init__(self, members: bytes, requests: bytes, marks: str | None) -> None:
        self.members, self.requests, self.ending = members, requests, None
        if marks is not None:
            count = len(members) // FINGERPRINT_BYTES
            marks = (marks * count)[:count]
            self.ending = Ending("ended", marks, None, Usage(), datetime.now(UTC))


def found(parent: Path, old: Jobs, marks: str | None, new: Jobs) -> list[int]:
    """Place of each old job among the new ones, -1 where it is gone."""
    first = Start(parent, old)
    second = Start(parent, new, [first.send(marks)])
    for start in (first, second):
        start.close()
    return list(second.members[0])


@pytest.mark.parametrize(
    ("old", "marks", "new", "places"),
    [
        # An id column later, and none any more.
        ([("made-x", "x"), ("made-y", "y")], "a", [("1", "x"), ("2", "y")], [0, 1]),
        ([("1", "x"), ("2", "y")], "a", [("made-y", "y"), ("made-x", "x")], [1, 0]),
        # Of the same request each for one, in their order.
        ([("made-x", "x")] * 3, "a", [("1", "x"), ("2", "x")], [0, 1, -1]),
        ([("1", "x"), ("2", "x")], "a", [("made-x", "x")] * 3, [0, 1]),
        # What is the same in both comes first, wherever it stands.
        ([("1", "x"), ("2", "x")], "a", [("3", "x"), ("1", "x")], [1, 0]),
        ([("1", "x"), ("2", "x")], "a", [("2", "x"), ("4", "y")], [-1, 0]),
        # The id alone is nothing.
        ([("1", "x")], "a", [("1", "y")], [-1]),
        ([("1", "x"), ("2", "y")], "a", [("2", "x"), ("1", "y")], [0, 1]),
        # An answer is not lost for a failure beside it, nor what is paid for what is not.
        ([("1", "x"), ("2", "x")], "fa", [("3", "x")], [-1, 0]),
        ([("1", "x"), ("2", "x")], "rx", [("3", "x")], [-1, 0]),
        ([("1", "x"), ("2", "x"), ("3", "x")], "arf", [("4", "x"), ("5", "x")], [0, -1, 1]),
        ([("1", "x"), ("2", "y")], None, [("3", "y"), ("4", "x")], [1, 0]),
    ],
)
def test_found_by_their_requests(
    tmp_path: Path, old: Jobs, marks: str | None, new: Jobs, places: list[int]
) -> None:
    assert found(tmp_path, old, marks, new) == places


def test_what_is_in_flight_goes_before_what_failed(tmp_path: Path) -> None:
    first = Start(tmp_path, [("1", "x"), ("2", "x")])
    whole = first.send(None)
    half = FINGERPRINT_BYTES
    failed = Chunk(whole.members[:half], whole.requests[:half], "f")
    flies = Chunk(whole.members[half:], whole.requests[half:], None)
    second = Start(tmp_path, [("3", "x")], [failed, flies])
    assert [list(each) for each in second.members] == [[-1], [0]]
    first.close()
    second.close()


def test_records_of_earlier_versions_know_no_requests(tmp_path: Path) -> None:
    """Their jobs are found by id and request alone, as before."""
    first = Start(tmp_path, [("1", "x"), ("2", "y")])
    chunk = first.send("a")
    chunk.requests = b""
    second = Start(tmp_path, [("3", "x"), ("2", "y")], [chunk])
    assert list(second.members[0]) == [-1, 1]
    first.close()
    second.close()


JOBS = st.lists(st.tuples(st.sampled_from("123456789"), st.sampled_from("xyz")), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    old=JOBS.filter(lambda jobs: bool(jobs)),
    new=JOBS,
    marks=st.one_of(st.none(), st.text("afrx", min_size=1, max_size=8)),
    later=st.sampled_from(["a", "r", None]),
)
def test_each_for_one_and_at_every_start_the_same(
    old: Jobs, new: Jobs, marks: str | None, later: str | None
) -> None:
    """Also where some of them were sent again under their new id, and the process died."""
    old, new = [list(dict(jobs).items()) for jobs in (old, new)]
    with tempfile.TemporaryDirectory() as folder:
        parent = Path(folder)
        first = Start(parent, old)
        ledger = [first.send(marks)]
        second = Start(parent, new, ledger)
        (places,) = second.members
        pairs = [(old[at], new[place]) for at, place in enumerate(places) if place >= 0]
        taken = [place for place in places if place >= 0]
        assert len(set(taken)) == len(taken), "one answer for one job"
        assert all(one[1] == other[1] for one, other in pairs), "the same request"
        for job in set(old) & set(new):
            assert (job, job) in pairs, "id and request first"
        had, want = (Counter(asked for _, asked in jobs) for jobs in (old, new))
        assert len(pairs) == sum((had & want).values()), "as many as can be"
        if new:
            second.spool.states.move(places, IN_FLIGHT)
            ledger.append(second.send(later, 2))
            # Of those that the records know, one that was to be sent again was sent again.
            second.spool.reset()
            third = Start(parent, new, ledger)
            fourth = Start(parent, new, ledger)
            assert list(third.members[0]) == list(places)
            assert list(map(list, third.members)) == list(map(list, fourth.members))
            third.close()
            fourth.close()
        first.close()
        second.close()


def test_what_is_sent_again_goes_under_the_print_that_is_known(tmp_path: Path) -> None:
    """Else the next start would take its attempts for those of two jobs."""
    first = Start(tmp_path, [("1", "x"), ("2", "y")])
    ledger = [first.send("r")]
    second = Start(tmp_path, [("3", "y"), ("4", "x"), ("5", "x")], ledger)
    ledger.append(second.send("a"))
    size = FINGERPRINT_BYTES
    again = [ledger[1].members[at : at + size] for at in range(0, 3 * size, size)]
    assert again[:2] == [ledger[0].members[size:], ledger[0].members[:size]]
    third = Start(tmp_path, [("3", "y"), ("4", "x"), ("5", "x")], ledger)
    assert [list(each) for each in third.members] == [[1, 0], [0, 1, 2]]
    second.spool.reset()
    assert second.send("a").members[:size] != again[0], "told anew at each start"
    for start in (first, second, third):
        start.close()
