"""What became of each job, as a state machine: any job set, any prices, any ending, any restart."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batchata_prefect.answers import Usage
from batchata_prefect.engine.endings import moves
from batchata_prefect.engine.pace import Pace
from batchata_prefect.engine.session import Session, Settings
from batchata_prefect.jobs import chunks
from batchata_prefect.jobs.spool import (
    ANSWERED,
    CANCELED,
    FAILED,
    HELD,
    IN_FLIGHT,
    WAITING,
    Spool,
)
from batchata_prefect.models import Estimate, Job, Request
from batchata_prefect.money import ledger
from batchata_prefect.money.ledger import Ending
from batchata_prefect.providers import price_book

MAX_ATTEMPTS = 3
MODELS = ("m", "n")
MARKS = (
    ledger.ANSWERED,
    ledger.FAILED,
    ledger.CANCELED,
    ledger.NOT_AS_ASKED,
    ledger.AGAIN,
)
STATUSES = ("ended", "expired", "canceled", "failed", "turned_away", "never_created")

A_JOB = st.tuples(
    st.integers(0, 11),  # what it asks: changed, it is another job
    st.sampled_from(MODELS),
    st.integers(1, 9),  # what it may cost at most
)
A_JOB_SET = st.lists(A_JOB, min_size=1, max_size=12, unique_by=lambda job: job[0])


@dataclass
class Sent:
    """A chunk, as the records keep it."""

    members: bytes
    jobs: list[tuple[int, str, int]]
    ending: Ending | None = None


class JobStates(RuleBasedStateMachine):
    """A plain model beside the spool: for each job its state and the times it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger: list[Sent] = []
        self.spool: Spool | None = None

    @initialize(jobs=A_JOB_SET)
    def begin(self, jobs) -> None:
        self.start(jobs)

    def start(self, jobs: list[tuple[int, str, int]]) -> None:
        """A process begins with this job set, and learns from the records what is done."""
        if self.spool is not None:
            self.spool.close()
        self.jobs = jobs
        self.places = {job: ordinal for ordinal, job in enumerate(jobs)}
        self.spool = Spool.create(Path(self.folder.name))
        for number, model, price in jobs:
            body = f"{number} {model} {price}".encode()
            request = Request("p", "/v1/x", model, body, Estimate(1, price, 1))
            job_id = f"j{number}"
            self.spool.add(Job(id=job_id, model=model, prompt="x"), request, named=True)
        self.spool.seal()
        told = Settings(
            results_dir=self.folder.name,
            run_key="k",
            jobs=len(jobs),
            max_parallel_batches=1,
            items_per_batch=1,
            max_attempts=MAX_ATTEMPTS,
        )
        self.run = Session(told, self.spool, price_book(None), {}, Pace())
        self.model = dict.fromkeys(jobs, (WAITING, 0))
        for sent in self.ledger:
            ordinals = self.spool.locate(sent.members)
            assert list(ordinals) == [self.places.get(job, -1) for job in sent.jobs]
            self.spool.states.move(ordinals, IN_FLIGHT)
            self.fly(sent)
            if sent.ending is not None:
                marked = moves(self.run, ordinals, sent.ending, resumed=True)
                self.spool.states.mark(marked)
                self.land(sent, resumed=True)

    def fly(self, sent: Sent) -> None:
        for job in sent.jobs:
            if job in self.model:
                self.model[job] = (IN_FLIGHT, self.model[job][1])

    def land(self, sent: Sent, *, resumed: bool) -> None:
        assert sent.ending is not None
        for job, letter in zip(sent.jobs, sent.ending.marks, strict=True):
            if job not in self.model:
                continue
            attempts = self.model[job][1]
            again = sent.ending.status not in ledger.NEVER_SENT
            self.model[job] = {
                ledger.ANSWERED: (ANSWERED, attempts),
                ledger.FAILED: (FAILED, attempts),
                ledger.CANCELED: (WAITING if resumed else CANCELED, attempts),
                ledger.NOT_AS_ASKED: (FAILED, attempts + 1),
                ledger.AGAIN: (
                    FAILED if again and attempts + 1 >= MAX_ATTEMPTS else WAITING,
                    attempts + again,
                ),
            }[letter]

    @rule(
        model=st.integers(0, 1),
        attempts=st.integers(0, MAX_ATTEMPTS - 1),
        room=st.none() | st.integers(0, 30),
        items=st.integers(1, 5),
    )
    def send(self, model: int, attempts: int, room: int | None, items: int) -> None:
        """Cut a chunk, as far as the budget goes."""
        families = self.spool.families()
        family = families[model % len(families)]
        cut = chunks.cut(
            self.spool.waiting(family, attempts),
            max_requests=items,
            max_bytes=10**9,
            max_tokens=None,
            line_bytes=0,
            wire_bytes=lambda size, count: size + count,
            bound=lambda tokens, _: Decimal(tokens),
            room=None if room is None else Decimal(room),
        )
        if not cut.ordinals:
            return
        jobs = [self.jobs[ordinal] for ordinal in cut.ordinals]
        assert all(self.model[job] == (WAITING, attempts) for job in jobs)
        assert room is None or sum(price for *_, price in jobs) <= room
        self.spool.states.move(cut.ordinals, IN_FLIGHT)
        self.ledger.append(Sent(cut.members, jobs))
        self.fly(self.ledger[-1])

    @precondition(lambda self: any(sent.ending is None for sent in self.ledger))
    @rule(status=st.sampled_from(STATUSES), data=st.data())
    def end(self, status, data) -> None:
        """A batch comes to any of its endings, with any mark for each job."""
        sent = next(sent for sent in self.ledger if sent.ending is None)
        size = len(sent.jobs)
        marks = "".join(data.draw(st.lists(st.sampled_from(MARKS), min_size=size, max_size=size)))
        sent.ending = Ending(status, marks, Decimal(0), Usage(), datetime.now(UTC))
        ordinals = [self.places.get(job, -1) for job in sent.jobs]
        self.spool.states.mark(moves(self.run, ordinals, sent.ending))
        self.land(sent, resumed=False)

    @rule(kept=st.sets(st.integers(0, 11)))
    def canary(self, kept: set[int]) -> None:
        """Some jobs go first, and the others are let go after them."""
        waiting = {job for job, (state, _) in self.model.items() if state == WAITING}
        first = [self.places[job] for job in waiting if job[0] in kept]
        self.spool.states.hold_back(first)
        assert self.spool.states.counts[HELD] == len(waiting) - len(first)
        self.spool.states.let_go()

    @rule(changed=A_JOB_SET)
    def another_job_set(self, changed) -> None:
        """The next process has other jobs: some changed, added, removed, in another order."""
        self.start(changed)

    @rule(data=st.data())
    def same_jobs_in_another_order(self, data) -> None:
        self.start(data.draw(st.permutations(self.jobs)))

    @rule(job=A_JOB)
    def a_job_in_front(self, job) -> None:
        self.start([job, *(other for other in self.jobs if other[0] != job[0])])

    @invariant()
    def the_spool_says_the_same(self) -> None:
        if self.spool is None:
            return
        states = self.spool.states
        for job, (state, attempts) in self.model.items():
            assert states.state(self.places[job]) == state
            assert states.attempts(self.places[job]) == attempts
        assert +states.counts == +Counter(state for state, _ in self.model.values())

    @rule(model=st.integers(0, 1), attempts=st.integers(0, MAX_ATTEMPTS - 1))
    def look(self, model: int, attempts: int) -> None:
        """Those that wait are found; not after each step, as looking is remembered."""
        families = self.spool.families()
        family = families[model % len(families)]
        wait = [
            self.places[job]
            for job in self.jobs
            if job[1] == family.model and self.model[job] == (WAITING, attempts)
        ]
        assert self.spool.states.waiting(family.id, attempts) == len(wait)
        assert [row.ordinal for row in self.spool.waiting(family, attempts)] == wait

    def teardown(self) -> None:
        if self.spool is not None:
            self.spool.close()
        self.folder.cleanup()


TestJobStates = JobStates.TestCase
TestJobStates.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
