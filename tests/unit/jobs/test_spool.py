"""The spool: jobs on disk, recognised again, and their states."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchata_prefect.errors import ValidationError
from batchata_prefect.jobs.spool import ANSWERED, FAILED, IN_FLIGHT, WAITING, Spool, sweep
from batchata_prefect.jobs.spool.layout import fingerprint
from batchata_prefect.models import Estimate, Job, Request


def request(body: bytes, model: str = "m", provider: str = "p") -> Request:
    return Request(provider, "/v1/x", model, body, Estimate(1, 2, 3), sources=("a.pdf",))


def filled(parent: Path, jobs: list[tuple[str, bytes]], *, named: bool = True) -> Spool:
    spool = Spool.create(parent)
    for job_id, body in jobs:
        job = Job(id=job_id, model="m", prompt="x", metadata={"n": job_id})
        spool.add(job, request(body), named=named)
    spool.seal()
    return spool


def test_a_job_is_recognised_by_its_id_and_its_request(tmp_path: Path) -> None:
    """The same id and body are found again in another spool, in any order; a change is not."""
    first = filled(tmp_path, [("a", b"1"), ("b", b"2"), ("c", b"3")])
    (family,) = first.families()
    members = b"".join(row.fingerprint for row in first.waiting(family, 0))
    second = filled(tmp_path, [("c", b"3"), ("b", b"changed"), ("a", b"1")])
    assert list(second.locate(members)) == [2, -1, 0]
    first.close()
    second.close()


def test_bodies_come_back_byte_for_byte(tmp_path: Path) -> None:
    """What was added is what is read, whatever the bytes."""
    bodies = [b"{}", b"\n\x00\xff", "né 漢".encode() * 1000]
    spool = filled(tmp_path, [(str(n), body) for n, body in enumerate(bodies)])
    reader = spool.reader()
    assert list(reader.bodies([0, 1, 2])) == bodies
    reader.close()
    spool.close()


def test_large_requests_among_small_ones_are_recognised_as_well(tmp_path: Path) -> None:
    """Those are hashed beside the others, and each gets the fingerprint of its own request."""
    jobs = [(str(n), bytes([n]) * (1 if n % 3 else 300_000)) for n in range(13)]
    first = filled(tmp_path, jobs)
    (family,) = first.families()
    rows = list(first.waiting(family, 0))
    assert [row.fingerprint for row in rows] == [
        fingerprint(job_id, b"\0p\0/v1/x\0", body) for job_id, body in jobs
    ]
    second = filled(tmp_path, jobs[::-1])
    members = b"".join(row.fingerprint for row in rows)
    assert list(second.locate(members)) == list(range(12, -1, -1))
    first.close()
    second.close()


def test_ids_given_twice_are_refused_together(tmp_path: Path) -> None:
    """All repeated ids stand in one error."""
    with pytest.raises(ValidationError) as raised:
        filled(tmp_path, [("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"4"), ("c", b"5")])
    assert raised.value.faults == (
        "job id 'a' is given 2 times",
        "job id 'b' is given 2 times",
    )


def test_repeated_content_without_ids_is_numbered_the_same_each_time(tmp_path: Path) -> None:
    """Jobs with one content and no id stay separate jobs, and are recognised again."""
    spools = [
        filled(tmp_path, [("job-x", b"1"), ("job-y", b"2"), ("job-x", b"1")], named=False)
        for _ in range(2)
    ]
    reader = spools[0].reader()
    assert [reader.context(n).job_id for n in range(3)] == ["job-x", "job-y", "job-x-2"]
    (family,) = spools[0].families()
    members = b"".join(row.fingerprint for row in spools[0].waiting(family, 0))
    assert list(spools[1].locate(members)) == [0, 1, 2]
    reader.close()
    for spool in spools:
        spool.close()


def test_a_numbered_job_stays_the_same_when_more_are_added(tmp_path: Path) -> None:
    """Numbered once more, it would be another job to the records."""
    spool = filled(tmp_path, [("job-x", b"1"), ("job-x", b"1")], named=False)
    (family,) = spool.families()
    before = [row.fingerprint for row in spool.waiting(family, 0)]
    spool.add(Job(id="job-x", model="m", prompt="x"), request(b"1"), named=False)
    spool.seal()
    first, second, third = (row.fingerprint for row in spool.waiting(family, 0))
    assert [first, second] == before
    assert third not in before
    reader = spool.reader()
    assert [reader.context(n).job_id for n in range(3)] == ["job-x", "job-x-2", "job-x-3"]
    reader.close()
    spool.close()


def test_a_numbered_job_is_recognised_wherever_it_stands(tmp_path: Path) -> None:
    """Far from where it was, it is looked up, and by what it is since it was numbered."""
    twins, others = [("job-x", b"1")] * 2, [(f"job-{n}", b"%d" % n) for n in range(20, 32)]
    first = filled(tmp_path, [*twins, *others], named=False)
    (family,) = first.families()
    members = b"".join(row.fingerprint for row in first.waiting(family, 0))
    second = filled(tmp_path, [twins[0], *others, twins[1]], named=False)
    assert list(second.locate(members)) == [0, 13, *range(1, 13)]
    first.close()
    second.close()


def test_states_are_counted_as_they_change(tmp_path: Path) -> None:
    """Counts follow the jobs, and a job sent back to wait is found under its next attempt."""
    spool = filled(tmp_path, [(str(n), b"%d" % n) for n in range(4)])
    (family,) = spool.families()
    spool.states.move([0, 1, 2], IN_FLIGHT)
    assert +spool.states.counts == {WAITING: 1, IN_FLIGHT: 3}
    spool.states.mark([(ANSWERED, 0, 0), (FAILED, 1, 1), (WAITING, 1, 2)])
    assert +spool.states.counts == {WAITING: 2, ANSWERED: 1, FAILED: 1}
    assert [row.ordinal for row in spool.waiting(family, 0)] == [3]
    assert [row.ordinal for row in spool.waiting(family, 1)] == [2]
    spool.reset()
    assert +spool.states.counts == {WAITING: 4}
    assert [row.ordinal for row in spool.waiting(family, 0)] == [0, 1, 2, 3]
    spool.close()


def test_more_jobs_can_be_added_after_a_run(tmp_path: Path) -> None:
    """A sealed spool takes jobs again; the ones before stay as they were."""
    spool = filled(tmp_path, [("a", b"1")])
    digest = spool.digest
    spool.add(Job(id="b", model="m", prompt="x"), request(b"22"), named=True)
    spool.seal()
    reader = spool.reader()
    assert list(reader.bodies([0, 1])) == [b"1", b"22"]
    assert spool.digest != digest
    reader.close()
    spool.close()


def test_spools_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    """A killed process leaves its spool; the next run removes it."""
    code = (
        "import os, pathlib; from batchata_prefect.jobs.spool import Spool;"
        f"Spool.create(pathlib.Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    alive = filled(tmp_path, [("a", b"1")])
    assert len(list(tmp_path.glob("spool-*"))) == 2
    sweep(tmp_path)
    assert list(tmp_path.glob("spool-*")) == [alive.directory]
    alive.close()


@settings(deadline=None)
@given(
    start=st.integers(-1, 6),
    count=st.integers(0, 8),
    holes=st.sets(st.integers(0, 8)),
    before=st.lists(st.sampled_from([WAITING, IN_FLIGHT, FAILED]), min_size=10, max_size=10),
    state=st.sampled_from([WAITING, IN_FLIGHT, ANSWERED]),
)
def test_jobs_moved_together_are_where_they_are_moved_to_one_by_one(
    start, count, holes, before, state
) -> None:
    """Whatever the jobs and their states were, moving them as one leaves the same spool."""
    ordinals = [n for n in range(start, start + count) if n not in holes and n < 10]
    seen: list[object] = []
    for together in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            spool = filled(Path(folder), [(str(n), b"%d" % n) for n in range(10)])
            spool.states.mark((to, 1 if to == WAITING else 0, n) for n, to in enumerate(before))
            if together:
                spool.states.move(ordinals, state)
            else:
                spool.states.mark((state, 0, n) for n in ordinals if n >= 0)
            (family,) = spool.families()
            waiting = [[row.ordinal for row in spool.waiting(family, n)] for n in (0, 1)]
            states = {state: count for state, count in spool.states.counts.items() if count}
            seen.append((waiting, states, [spool.states.state(n) for n in range(10)]))
            spool.close()
    assert seen[0] == seen[1]


def test_many_jobs_are_recognised_though_some_are_new_and_some_are_gone(tmp_path: Path) -> None:
    """Among thousands in their order, those taken out, put in and moved are told apart."""
    names = [str(n) for n in range(5_000)]
    first = filled(tmp_path, [(name, name.encode()) for name in names])
    (family,) = first.families()
    members = b"".join(row.fingerprint for row in first.waiting(family, 0))
    changed = ["new", *names[:2_100], *names[2_103:4_999], "newer", names[2_100], names[4_999]]
    second = filled(tmp_path, [(name, name.encode()) for name in changed])
    places = {name: place for place, name in enumerate(changed)}
    assert list(second.locate(members)) == [places.get(name, -1) for name in names]
    first.close()
    second.close()


@pytest.mark.parametrize("moves", [[], [(WAITING, 1, 0), (ANSWERED, 0, 1), (WAITING, 1, 2)]])
def test_a_spool_that_was_used_is_like_new_after_a_reset(tmp_path: Path, moves) -> None:
    """After a reset all jobs wait, none was sent, and none has a changed request."""
    spool = filled(tmp_path, [(str(n), b"%d" % n) for n in range(4)])
    (family,) = spool.families()
    spool.reset()
    spool.states.mark(moves)
    spool.amend(2, b"changed", (1, 2, 3))
    spool.reset()
    assert [row.ordinal for row in spool.waiting(family, 0)] == [0, 1, 2, 3]
    assert not spool.states.waiting(family.id, 1)
    reader = spool.reader()
    assert list(reader.bodies(range(4))) == [b"0", b"1", b"2", b"3"]
    reader.close()
    spool.close()


def test_more_may_come_behind_rows_that_were_refused(tmp_path: Path) -> None:
    """Ids are looked through again: those of the rows before, and of what is added behind them."""
    spool = Spool.create(tmp_path)

    def add(*ids: str, named: bool = True) -> None:
        for job_id in ids:
            job = Job(id=job_id, model="m", prompt="x")
            spool.add(job, request(b"%d" % spool.count), named=named)

    def skip(first: int) -> None:
        spool.refuse_repeats(first, lambda ordinal, job_id: (f"row-{ordinal}", f"as {job_id}"))

    add("job-x", "job-x", named=False)
    skip(0)
    spool.refuse("a", "is bad", named=True)
    add("a", "b", "row-6", "a")
    spool.refuse("b", "is bad too", named=True)
    skip(2)
    add("job-x", named=False)
    add("c")
    spool.seal()
    reader = spool.reader()
    found = [reader.context(n).job_id for n in range(spool.count)]
    assert found == [
        "job-x",
        "job-x-2",
        "row-2",
        "a",
        "b",
        "row-6",
        "row-6-2",
        "row-7",
        "job-x-3",
        "c",
    ]
    assert list(spool.faults()) == ["is bad", "as a", "is bad too"]
    assert +spool.states.counts == {WAITING: 7, FAILED: 3}
    (family,) = spool.families()
    assert [row.ordinal for row in spool.waiting(family, 0)] == [0, 1, 3, 4, 5, 8, 9]
    assert list(reader.bodies([4, 5, 9])) == [b"4", b"5", b"9"]
    members = b"".join(row.fingerprint for row in spool.waiting(family, 0))
    assert list(spool.locate(members)) == [0, 1, 3, 4, 5, 8, 9]
    reader.close()
    spool.close()
