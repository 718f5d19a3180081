"""What became of each job so far: four bytes a job in memory, and what is counted of them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import ne

from batchata_prefect.jobs.spool.layout import (
    ATTEMPT_MASK,
    FAILED,
    FAMILY_SHIFT,
    HELD,
    MOST_ATTEMPTS,
    ONE_ATTEMPT,
    STATE_BITS,
    STATE_MASK,
    WAITING,
)

_TOGETHER = 1_000


class States:
    """State, family and attempts of every job.

    Attributes:
        codes: For each job its family, the times it was sent and not answered, and its state.
        counts: State -> jobs.
        sizes: Id of a family -> jobs.
        refused: Id of the family of the rows that make no job, which failed before anything was
            sent; None where there are none.
    """

    def __init__(self) -> None:
        self.refused: int | None = None
        self.codes = array("I")
        self.counts: Counter[int] = Counter()
        self.sizes: Counter[int] = Counter()
        self._waiting: Counter[int] = Counter()
        self._first: dict[int, int] = {}

    def add(self, families: array[int]) -> None:
        """More jobs, of the families with these ids, which wait."""
        sizes = Counter(families)
        self.sizes.update(sizes)
        self._count_new(sizes)
        self.codes.extend(map(self._new_codes(sizes).__getitem__, families))

    def _new_codes(self, families: Iterable[int]) -> dict[int, int]:
        """Family -> code of its jobs before anything is sent."""
        return {
            family: family << FAMILY_SHIFT | (FAILED if family == self.refused else WAITING)
            for family in families
        }

    def _count_new(self, sizes: Mapping[int, int]) -> None:
        for family, code in self._new_codes(sizes).items():
            self.counts[code & STATE_MASK] += sizes[family]
            if code & STATE_MASK == WAITING:
                self._waiting[code] += sizes[family]

    def refuse(self, ordinal: int) -> None:
        """Have a job that was added be one that makes none."""
        assert self.refused is not None
        before, after = self.codes[ordinal], self.refused << FAMILY_SHIFT | FAILED
        self.sizes[before >> FAMILY_SHIFT] -= 1
        self.sizes[self.refused] += 1
        self.codes[ordinal] = after
        self._count({(before, after): 1})

    def refused_jobs(self) -> Iterator[int]:
        """The rows that make no job, in order."""
        if self.refused is not None:
            code, at = self.refused << FAMILY_SHIFT | FAILED, -1
            for _ in range(self.sizes[self.refused]):
                at = self.codes.index(code, at + 1)
                yield at

    def reset(self) -> bool:
        """Have all jobs wait as if they were new; False where they do."""
        new = self._new_codes(self.sizes)
        refused = 0 if self.refused is None else self.sizes[self.refused]
        if {code for code, count in self._waiting.items() if count} <= set(new.values()) and (
            self.counts[WAITING] + refused == len(self.codes)
        ):
            return False
        for ordinal, code in enumerate(self.codes):
            self.codes[ordinal] = new[code >> FAMILY_SHIFT]
        self._first.clear()
        self._waiting.clear()
        self.counts.clear()
        self._count_new(self.sizes)
        return True

    def runs(self, family: int, attempts: int) -> Iterator[tuple[int, int]]:
        """The waiting jobs of a family that were sent `attempts` times, in order.

        Yields:
            The first of some jobs that follow each other, and how many they are.
        """
        code = family << FAMILY_SHIFT | attempts << STATE_BITS
        codes, left = self.codes, self._waiting[code]
        together = array("I", [code]) * min(_TOGETHER, left)
        at = self._first.get(code, 0)
        if left:
            self._first[code] = at = codes.index(code, at)
        while left:
            count = min(len(together), left)
            if codes[at : at + count] != together[:count]:
                count = 1
            yield at, count
            left -= count
            if left:
                at = codes.index(code, at + count)

    def waiting(self, family: int, attempts: int) -> int:
        """How many of a family's jobs that were sent `attempts` times wait."""
        return self._waiting[family << FAMILY_SHIFT | attempts << STATE_BITS]

    def move(self, ordinals: Sequence[int], state: int) -> None:
        """Give jobs the same new state; an ordinal of -1 is of a job that is gone.

        A chunk of a large run holds jobs that follow each other and are in the same state, and
        those are moved as one.
        """
        count = len(ordinals)
        first = ordinals[0] if count else -1
        codes = self.codes[first : first + count] if first >= 0 else self.codes[:0]
        alike = len(codes) == count > 0 and codes.count(codes[0]) == count
        if not alike or state == WAITING or any(map(ne, ordinals, range(first, first + count))):
            self.mark((state, 0, ordinal) for ordinal in ordinals if ordinal >= 0)
            return
        before = codes[0]
        after = (before & ~STATE_MASK) + state
        self.codes[first : first + count] = array("I", [after]) * count
        self._count({(before, after): count})

    def mark(self, changes: Iterable[tuple[int, int, int]]) -> None:
        """Give jobs their new state: (state, attempts to add, ordinal)."""
        codes, first = self.codes, self._first
        moved: Counter[tuple[int, int]] = Counter()
        for state, more, ordinal in changes:
            before = codes[ordinal]
            after = (before & ~STATE_MASK) + state + more * ONE_ATTEMPT
            codes[ordinal] = after
            moved[before, after] += 1
            # Where none of this code was looked for yet, others may wait before this one.
            if state == WAITING and ordinal < first.get(after, 0):
                first[after] = ordinal
        self._count(moved)

    def _count(self, moved: Mapping[tuple[int, int], int]) -> None:
        """Count moves, (code before, code after) -> jobs: each by itself would cost too much."""
        for (before, after), count in moved.items():
            self.counts[before & STATE_MASK] -= count
            self.counts[after & STATE_MASK] += count
            if before & STATE_MASK == WAITING:
                self._waiting[before] -= count
            if after & STATE_MASK == WAITING:
                self._waiting[after] += count

    def sample(self, wanted: Callable[[int], int]) -> array[int]:
        """Jobs that stand for the others: spread evenly over the waiting jobs of each family.

        Args:
            wanted: Waiting jobs of a family -> how many of them; at least one is taken.
        """
        sizes: Counter[int] = Counter()
        for code, count in self._waiting.items():
            sizes[code >> FAMILY_SHIFT] += count
        numbers = {family: min(size, max(1, wanted(size))) for family, size in sizes.items()}
        seen: Counter[int] = Counter()
        found = array("q")
        for ordinal, code in enumerate(self.codes):
            if code & STATE_MASK != WAITING:
                continue
            family = code >> FAMILY_SHIFT
            nth, number, size = seen[family], numbers[family], sizes[family]
            seen[family] += 1
            # Evenly as pixels on a line: the rounded share grows by one at `number` places.
            if (2 * (nth + 1) * number + size) // (2 * size) > (2 * nth * number + size) // (
                2 * size
            ):
                found.append(ordinal)
        return found

    def hold_back(self, but: Iterable[int]) -> None:
        """Have all waiting jobs but these wait until `let_go`."""
        kept = set(but)
        self.mark(
            (HELD, 0, ordinal)
            for ordinal, code in enumerate(self.codes)
            if code & STATE_MASK == WAITING and ordinal not in kept
        )

    def let_go(self) -> None:
        """Have the jobs that were held back wait to be sent."""
        self.mark(
            (WAITING, 0, ordinal)
            for ordinal, code in enumerate(self.codes)
            if code & STATE_MASK == HELD
        )

    def state(self, ordinal: int) -> int:
        """What became of a job so far."""
        return self.codes[ordinal] & STATE_MASK

    def family_id(self, ordinal: int) -> int:
        """Id of the family of a job."""
        return self.codes[ordinal] >> FAMILY_SHIFT

    def attempts(self, ordinal: int) -> int:
        """Times that a job was sent and not answered."""
        return self.codes[ordinal] >> STATE_BITS & ATTEMPT_MASK

    def held(self, family: int) -> int:
        """How many jobs of a family are held back."""
        code = family << FAMILY_SHIFT | HELD
        return sum(
            self.codes.count(code | attempts << STATE_BITS) for attempts in range(MOST_ATTEMPTS)
        )
