"""Which fields a citation supports, how surely and why.

Evidence has three parts: how the value stands in the cited text, how near the field's name is, and
how many other fields of its object stand in the line. A field keeps its best evidence; a value that
several fields share goes to the one whose name or row it stands with.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

from batchata_prefect.content.citations.context import said
from batchata_prefect.content.citations.fields import Leaf
from batchata_prefect.content.citations.matching import Naming, Passage, Spot, loose_spot, naming

Confidence: TypeAlias = Literal["high", "medium", "low"]

_EXACT, _LOOSE, _IN_ANSWER, _NAME_ONLY = 4, 3, 2, 1


@dataclass(frozen=True, slots=True)
class Source:
    """A citation as the matcher sees it.

    Attributes:
        cited: The cited text.
        sentence: The words of the answer that the citation is attached to, without any JSON.
        path: The field, object or list that the model itself named for it.
    """

    cited: Passage
    sentence: Passage
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """That the citation at the place `source` supports a field, how surely, and why."""

    source: int
    confidence: Confidence
    reason: str


@dataclass(frozen=True, slots=True)
class _Evidence:
    source: int
    at: int
    strength: int
    name: Naming
    row: int
    what: str
    quoted: bool = False
    elsewhere: bool = False
    """Whether another name stands right before the value, as in `Landlord: Ann Lee`."""

    @property
    def rank(self) -> tuple[float, int]:
        """How well it is told apart from other places with the same value."""
        return (self.name.weight if self.name.grade else 0.0, self.row)


class _Place:
    """What several fields of one value have at one place."""

    def __init__(self, found: Sequence[_Evidence]) -> None:
        self.ranks = sorted(one.rank for one in found)
        self.clearest = {
            strength: max(one.rank for one in found if one.strength >= strength)
            for strength in {one.strength for one in found}
        }

    def lost(self, one: _Evidence) -> bool:
        """Whether another field is told more clearly here."""
        return self.clearest[one.strength] > one.rank

    def sharing(self, one: _Evidence) -> int:
        """How many other fields are told at least as clearly."""
        return len(self.ranks) - bisect_left(self.ranks, one.rank) - 1


def supports(leaves: Sequence[Leaf], sources: Sequence[Source]) -> dict[str, list[Support]]:
    """Path of each supported field -> its citations, surest first.

    Once the work that they may cost is done, no citation is sure: the better place was not read.
    """
    objects: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        objects.setdefault(leaf.parent, []).append(leaf)
    shared = Counter(leaf.key for leaf in leaves if leaf.truth is None)
    evidence = [
        _evidence(leaf, objects[leaf.parent], sources, shared[leaf.key] > 1) for leaf in leaves
    ]
    there: dict[tuple[object, int, int], list[_Evidence]] = {}
    for leaf, found in zip(leaves, evidence, strict=True):
        for one in found if shared[leaf.key] > 1 else ():
            there.setdefault((leaf.key, one.source, one.at), []).append(one)
    places = {place: _Place(found) for place, found in there.items()}
    whole = all(source.cited.work.left > 0 for source in sources[:1])
    result: dict[str, list[Support]] = {}
    for leaf, found in zip(leaves, evidence, strict=True):
        contested = [(one, places.get((leaf.key, one.source, one.at))) for one in found]
        chosen = _chosen(leaf, contested, shared[leaf.key] > 1)
        # Of places as sure as each other, those with the field's name come first.
        chosen.sort(key=lambda pair: (-pair[0].name.grade, pair[0].source))
        judged = [_judged(leaf, one, place) for one, place in chosen]
        judged = judged if whole else [replace(one, confidence="low") for one in judged]
        if judged:
            result[leaf.path] = sorted(judged, key=lambda one: _ORDER[one.confidence])
    return result


_ORDER = {"high": 0, "medium": 1, "low": 2}


def _evidence(
    leaf: Leaf, fellows: Sequence[Leaf], sources: Sequence[Source], shared: bool
) -> list[_Evidence]:
    """Evidence of a value as it is in the cited texts, or else in other ways."""
    asked = [
        (index, source)
        for index, source in enumerate(sources)
        if source.path is None or leaf.is_within(source.path)
    ]

    def each(how: Callable[[int, Source], _Evidence | None], steps: int) -> list[_Evidence]:
        found = [how(*one) for one in asked if one[1].cited.work.goes_on(steps)]
        return [one for one in found if one is not None]

    if leaf.truth is not None:
        return each(partial(_truth, leaf, leaf.truth), 1)
    return each(partial(_exact, leaf, fellows, shared), 1) or each(partial(_other, leaf), 20)


def _exact(
    leaf: Leaf, fellows: Sequence[Leaf], shared: bool, index: int, source: Source
) -> _Evidence | None:
    """The best evidence of the value as it is in the cited text."""
    spots = [spot for spot in source.cited.spots(leaf) if shared or spot.need != "share"]
    seen = [_seen(leaf, fellows, index, source, spot) for spot in spots]
    kept = [one for one in seen if one is not None]
    return max(kept, key=lambda one: (one.strength, one.rank), default=None)


def _seen(
    leaf: Leaf, fellows: Sequence[Leaf], index: int, source: Source, spot: Spot
) -> _Evidence | None:
    name = _named(leaf, source, spot)
    row = 0
    if spot.need == "row" or leaf.parent:
        source.cited.work.goes_on(2 * len(fellows))
        row = _row(leaf, fellows, source.cited, spot)
    alone = not (name.grade or row)
    missing = (spot.need == "name" and not name.grade) or (spot.need == "row" and not row)
    if missing or name.denied or (alone and _is_in_other_row(leaf, fellows, source.cited, spot)):
        return None
    return _Evidence(
        index,
        spot.start,
        _LOOSE if spot.how else _EXACT,
        name,
        # The fields at the top are no row of a table.
        row if leaf.parent else 0,
        _what(spot, source.cited),
        source.path is not None,
        alone and _is_labelled(source.cited, spot),
    )


def _what(spot: Spot, passage: Passage, where: str = "the cited text") -> str:
    shown = passage.text[spot.start : spot.end]
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{spot.how or 'value'} {shown!r} in {where}"


def _named(leaf: Leaf, source: Source, spot: Spot) -> Naming:
    """The field's name beside the spot, or else in the answer's sentence beside the value."""
    cited = naming(leaf, source.cited, spot)
    if cited.grade == 2 or cited.denied:
        return cited
    told = [naming(leaf, source.sentence, again) for again in source.sentence.spots(leaf)]
    if not told:
        # The sentence may say the value in other words.
        name = naming(leaf, source.sentence, None)
        told = [name._replace(grade=min(name.grade, 1), weight=name.weight - 1)]
    return max(cited, *told, key=lambda one: one[:2])


def _row(leaf: Leaf, fellows: Sequence[Leaf], passage: Passage, spot: Spot) -> int:
    """How many other values of the same object stand in the spot's line."""
    start, end = passage.line(spot)
    count = 0
    for other in fellows:
        if other.path == leaf.path or other.key == leaf.key:
            continue
        places = [place for place in passage.spots(other) if start <= place.start < end]
        if places and (other.texts or not places[0].need):
            count += 2 if other.distinctive else 1
        elif places:
            count += 1
    return count


_LABEL = re.compile(r"(?:^|[\n.;,])\s*[^\W\d_][^\n:;.,]{1,30}:\s*[\"']?$")


def _is_labelled(passage: Passage, spot: Spot) -> bool:
    """Whether a name and a colon stand right before the spot, in its line."""
    start, _ = passage.line(spot)
    return _LABEL.search(passage.text[max(start, spot.start - 40) : spot.start]) is not None


def _is_in_other_row(leaf: Leaf, fellows: Sequence[Leaf], passage: Passage, spot: Spot) -> bool:
    """Whether a short value stands in one line and the rest of its object in others."""
    if not leaf.parent or leaf.distinctive:
        return False
    start, end = passage.line(spot)
    places = [
        place.start
        for other in fellows
        if other.key != leaf.key and other.distinctive
        for place in passage.spots(other)
        if not place.need
    ]
    return bool(places) and not any(start <= place < end for place in places)


def _truth(leaf: Leaf, truth: bool, index: int, source: Source) -> _Evidence | None:
    """Evidence of a yes or no: the field's name, with or without a word that denies it."""
    for passage, strength in ((source.cited, _EXACT), (source.sentence, _IN_ANSWER)):
        name = naming(leaf, passage, None)
        if name.grade < 2:
            continue
        own = {word for label in leaf.labels for word in label}
        told = {said(passage.text, *place, own) for place in passage.places(name.words)}
        if told == {None} and truth:
            what = "the field's name, and nothing denies it"
            return _Evidence(index, -1, _NAME_ONLY, name, 0, what)
        if told - {None} == {truth}:
            where = "the cited text" if strength == _EXACT else "the answer's sentence"
            return _Evidence(index, -1, strength, name, 0, f"{'yes' if truth else 'no'} in {where}")
    return None


def _other(leaf: Leaf, index: int, source: Source) -> _Evidence | None:
    """Evidence of a value that stands in no cited text as it is."""
    # In this order: what the document says goes before what the answer says of it.
    return (
        _loosely(leaf, index, source)
        or _in_sentence(leaf, index, source)
        or _by_name(leaf, index, source)
    )


def _loosely(leaf: Leaf, index: int, source: Source) -> _Evidence | None:
    """Evidence of a text that the cited text has in other words, or a part of it."""
    spot = loose_spot(leaf, source.cited)
    if spot is None or spot.need == "share":
        return None
    name = _named(leaf, source, spot)
    if spot.need and not name.grade:
        return None
    what = _what(spot, source.cited)
    return _Evidence(index, spot.start, _LOOSE, name, 0, what, source.path is not None)


def _in_sentence(leaf: Leaf, index: int, source: Source) -> _Evidence | None:
    """Evidence of a value that only the answer's own sentence says."""
    spots = [one for one in source.sentence.spots(leaf) if one.need not in ("share", "row")]
    told = [(naming(leaf, source.sentence, one), one) for one in spots]
    told = [one for one in told if not one[0].denied]
    if not told:
        return None
    name, spot = max(told, key=lambda one: one[0][:2])
    if name.grade < 2 and not (leaf.distinctive and (name.grade or not spot.need)):
        return None
    what = _what(spot, source.sentence, "the answer's sentence")
    return _Evidence(index, -1, _IN_ANSWER, name, 0, what, source.path is not None)


def _by_name(leaf: Leaf, index: int, source: Source) -> _Evidence | None:
    """Evidence of the field's name alone, where nothing says another value."""
    if source.cited is source.sentence or source.cited.spots(leaf):
        return None
    if leaf.path in source.cited.denied or leaf.path in source.sentence.denied:
        return None
    name = naming(leaf, source.sentence, None)
    # A number or a date that is nowhere is not supported by its name.
    if source.path != leaf.path and not (leaf.is_text and name.grade == 2):
        return None
    what = "no value, only the field's name"
    return _Evidence(index, -1, _NAME_ONLY, name, 0, what, source.path is not None)


_Contested: TypeAlias = "tuple[_Evidence, _Place | None]"
"""Evidence, and what other fields with the same value have at the same place."""


def _chosen(leaf: Leaf, evidence: list[_Contested], shared: bool) -> list[_Contested]:
    """The evidence to keep: the strongest kind, without places that belong to other fields."""
    strongest = max((one.strength for one, _ in evidence), default=0)
    kept = [pair for pair in evidence if pair[0].strength == strongest]
    kept = [(one, place) for one, place in kept if place is None or not place.lost(one)] or kept
    if told := _telling([one for one, _ in kept]):
        # A long text is not found by chance: its other places count too.
        alone = bool(leaf.texts) and leaf.distinctive and not shared
        return [
            pair for pair in kept if pair[0].source in told or (alone and not pair[0].elsewhere)
        ]
    # Without a name a short value is a guess, and among many places no guess at all.
    return kept if leaf.distinctive or len(kept) <= 2 else []


def _telling(evidence: Sequence[_Evidence]) -> set[int]:
    """Citations that say the field's name; or else those with most of its row, or part of it."""
    told = {one.source for one in evidence if one.name.grade == 2 or one.quoted}
    if not told:
        most = max((one.row for one in evidence), default=0)
        told = {one.source for one in evidence if (one.row == most if most else one.name.grade)}
    return told


def _judged(leaf: Leaf, one: _Evidence, place: _Place | None) -> Support:
    """The evidence with its confidence and its reason."""
    reason = one.what
    lost = place is not None and place.lost(one)
    sharing = 0 if place is None else place.sharing(one)
    if one.name.grade == 2 and one.strength != _NAME_ONLY:
        reason += f", beside {one.name.words!r}"
    elif one.name.grade == 1:
        reason += f", {one.name.words!r} near it"
    if one.row and one.name.grade < 2:
        reason += ", in the row of its object"
    if lost or (sharing and one.name.grade < 2 and not one.row):
        reason += f"; {sharing + 1} fields have this value"
    if one.quoted:
        reason += ", quoted for this field"
    confidence = "low" if lost else _confidence(leaf, one, bool(sharing))
    return Support(one.source, confidence, reason)


def _confidence(leaf: Leaf, one: _Evidence, shared: bool) -> Confidence:
    if one.strength == _EXACT:
        return _exact_confidence(leaf, one, shared)
    if one.strength == _LOOSE:
        return "medium" if one.name.grade or one.row or one.quoted else "low"
    return "medium" if one.strength == _IN_ANSWER and one.name.grade == 2 else "low"


def _exact_confidence(leaf: Leaf, one: _Evidence, shared: bool) -> Confidence:
    if one.name.grade == 2 or one.quoted or (one.row and leaf.distinctive):
        return "high"
    if shared and not one.row:
        # Both fields may hold the same words, while one amount is not another.
        return "medium" if leaf.is_text and leaf.distinctive else "low"
    if not leaf.distinctive:
        return "medium" if one.row or (one.name.grade and one.name.whole) else "low"
    if leaf.is_text:
        return "medium" if one.elsewhere else "high"
    return "medium"
