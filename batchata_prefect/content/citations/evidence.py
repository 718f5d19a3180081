"""Which fields a citation supports, how surely and why.

Evidence of a field and a citation has three parts: how the value stands in the cited text (as it
is, in other words, only in the sentence of the answer, not at all), how near the field's name is,
and how many other fields of the same object stand in the same line. A field keeps its best
evidence; a value that several fields share goes to the field whose name or row it stands with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
        path: The field, or the object or list of fields, that the model itself named for it; None
            where it named none.
    """

    cited: Passage
    sentence: Passage
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """That a citation supports a field.

    Attributes:
        source: Place of the citation in the sources.
        confidence: How sure that is.
        reason: Why, for a person.
    """

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


def supports(leaves: Sequence[Leaf], sources: Sequence[Source]) -> dict[str, list[Support]]:
    """Path of each supported field -> its citations, surest first."""
    objects: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        objects.setdefault(leaf.parent, []).append(leaf)
    evidence = [
        _exact(leaf, objects[leaf.parent], sources) or _otherwise(leaf, sources) for leaf in leaves
    ]
    shared = Counter(leaf.key for leaf in leaves if leaf.truth is None)
    places: dict[tuple[object, int, int], list[_Evidence]] = {}
    for leaf, found in zip(leaves, evidence, strict=True):
        for one in found if shared[leaf.key] > 1 else ():
            places.setdefault((leaf.key, one.source, one.at), []).append(one)
    result: dict[str, list[Support]] = {}
    for leaf, found in zip(leaves, evidence, strict=True):
        rivals = [
            [other for other in places.get((leaf.key, one.source, one.at), ()) if other is not one]
            for one in found
        ]
        chosen = _chosen(leaf, list(zip(found, rivals, strict=True)), shared[leaf.key] > 1)
        # Of places as sure as each other, those with the field's name come first.
        chosen.sort(key=lambda pair: (-pair[0].name.grade, pair[0].source))
        judged = [_judged(leaf, one, others) for one, others in chosen]
        if judged:
            result[leaf.path] = sorted(judged, key=lambda one: _ORDER[one.confidence])
    return result


_ORDER = {"high": 0, "medium": 1, "low": 2}


def _exact(leaf: Leaf, fellows: Sequence[Leaf], sources: Sequence[Source]) -> list[_Evidence]:
    """Evidence of the value as it is in the cited text."""
    found: list[_Evidence] = []
    for index, source in enumerate(sources):
        if not _may_support(source, leaf):
            continue
        if leaf.truth is not None:
            truth = _truth(leaf, leaf.truth, index, source)
            found += [truth] if truth is not None else []
            continue
        best: _Evidence | None = None
        for spot in source.cited.spots(leaf):
            name = _named(leaf, source, spot)
            row = 0
            if spot.need == "row" or leaf.parent:
                row = _row(leaf, fellows, source.cited, spot)
            if (spot.need == "name" and not name.grade) or (spot.need == "row" and not row):
                continue
            if not (name.grade or row) and _is_in_other_row(leaf, fellows, source.cited, spot):
                continue
            # The fields at the top are no row of a table.
            row = row if leaf.parent else 0
            strength = _LOOSE if spot.how else _EXACT
            what = _what(spot, source.cited)
            quoted = source.path is not None
            elsewhere = not (name.grade or row) and _is_labelled(source.cited, spot)
            one = _Evidence(index, spot.start, strength, name, row, what, quoted, elsewhere)
            if best is None or (one.strength, one.rank) > (best.strength, best.rank):
                best = one
        if best is not None:
            found.append(best)
    return found


def _may_support(source: Source, leaf: Leaf) -> bool:
    path = source.path
    return path is None or leaf.path == path or leaf.path.startswith((f"{path}.", f"{path}["))


def _what(spot: Spot, passage: Passage, where: str = "the cited text") -> str:
    shown = passage.text[spot.start : spot.end]
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{spot.how or 'value'} {shown!r} in {where}"


def _named(leaf: Leaf, source: Source, spot: Spot) -> Naming:
    """The field's name beside the spot, or else in the answer's sentence beside the value."""
    cited = naming(leaf, source.cited, spot)
    if cited.grade == 2:
        return cited
    said = [naming(leaf, source.sentence, again) for again in source.sentence.spots(leaf)]
    if not said:
        # The sentence may say the value in other words.
        said = [_at_most_near(naming(leaf, source.sentence, None))]
    return max(cited, *said, key=lambda one: one[:2])


def _at_most_near(name: Naming) -> Naming:
    return name._replace(grade=min(name.grade, 1), weight=name.weight - 1)


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


_YES = frozenset(["yes", "true", "ja", "oui", "sí", "si", "sim", "on", "checked", "included", "x"])
_NO = frozenset(["no", "not", "false", "nein", "nicht", "non", "não", "never", "without", "none"])
_NO_SIGNS = ("\u2610", "\u2717", "\u2718", "[ ]", "n't", "n/a")
_YES_SIGNS = ("\u2611", "\u2713", "\u2714", "[x]")


def _truth(leaf: Leaf, truth: bool, index: int, source: Source) -> _Evidence | None:
    """Evidence of a yes or no: the field's name, with or without a word that denies it."""
    for passage, strength in ((source.cited, _EXACT), (source.sentence, _IN_ANSWER)):
        name = naming(leaf, passage, None)
        if name.grade < 2:
            continue
        said = _said(passage, name.words)
        if said is None and truth:
            return _Evidence(
                index, -1, _NAME_ONLY, name, 0, "the field's name, and nothing denies it"
            )
        if said is truth:
            where = "the cited text" if strength == _EXACT else "the answer's sentence"
            return _Evidence(index, -1, strength, name, 0, f"{'yes' if truth else 'no'} in {where}")
    return None


def _said(passage: Passage, words: str) -> bool | None:
    """What the words around a name say: yes, no, or nothing."""
    at = passage.text.find(words)
    before = passage.text[max(0, at - 25) : at].rpartition("\n")[2]
    after = passage.text[at + len(words) : at + len(words) + 25].partition("\n")[0]
    denied = any(sign in before + after for sign in _NO_SIGNS)
    for word in re.findall(r"[^\W_]+", after):
        if word in _YES and not denied:
            return True
        if word in _NO:
            return False
    if denied or any(word in _NO for word in re.findall(r"[^\W_]+", before)):
        return False
    return True if any(sign in before + after for sign in _YES_SIGNS) else None


def _otherwise(leaf: Leaf, sources: Sequence[Source]) -> list[_Evidence]:
    """Evidence of a value that stands in no cited text as it is."""
    found: list[_Evidence] = []
    for index, source in enumerate(sources):
        if not _may_support(source, leaf) or leaf.truth is not None:
            continue
        quoted = source.path is not None
        spot = loose_spot(leaf, source.cited)
        if spot is not None:
            name = _named(leaf, source, spot)
            if name.grade or not spot.need:
                what = _what(spot, source.cited)
                found.append(_Evidence(index, spot.start, _LOOSE, name, 0, what, quoted))
                continue
        said = [(naming(leaf, source.sentence, one), one) for one in source.sentence.spots(leaf)]
        if said:
            name, spot = max(said, key=lambda one: one[0][:2])
            if name.grade == 2 or (leaf.distinctive and (name.grade or not spot.need)):
                what = _what(spot, source.sentence, "the answer's sentence")
                found.append(_Evidence(index, -1, _IN_ANSWER, name, 0, what, quoted))
                continue
        name = naming(leaf, source.sentence, None)
        # A number or a date that is nowhere is not supported by its name.
        textual = leaf.texts and leaf.number is None and leaf.day is None
        if source.path == leaf.path or (textual and name.grade == 2):
            what = "no value, only the field's name"
            found.append(_Evidence(index, -1, _NAME_ONLY, name, 0, what, quoted))
    return found


_Contested: TypeAlias = "tuple[_Evidence, Sequence[_Evidence]]"
"""Evidence, and that of other fields with the same value at the same place."""


def _chosen(leaf: Leaf, evidence: list[_Contested], shared: bool) -> list[_Contested]:
    """The evidence to keep: the strongest kind, without places that belong to other fields."""
    strongest = max((one.strength for one, _ in evidence), default=0)
    kept = [pair for pair in evidence if pair[0].strength == strongest]
    kept = [pair for pair in kept if not _lost(*pair)] or kept
    most = max((one.row for one, _ in kept), default=0)
    told = {one.source for one, _ in kept if one.name.grade == 2 or one.quoted}
    if not told:
        told = {one.source for one, _ in kept if (one.row == most if most else one.name.grade)}
    if told:
        # A long text is not found by chance: its other places count too.
        alone = bool(leaf.texts) and leaf.distinctive and not shared
        return [
            (one, rivals)
            for one, rivals in kept
            if one.source in told or (alone and not one.elsewhere)
        ]
    # Without a name a short value is a guess, and among many places no guess at all.
    return kept if leaf.distinctive or len(kept) <= 2 else []


def _lost(one: _Evidence, rivals: Sequence[_Evidence]) -> bool:
    """Whether another field of the same value is told more clearly at the same place."""
    return any(other.strength >= one.strength and _is_clearer(other, one) for other in rivals)


def _is_clearer(one: _Evidence, other: _Evidence) -> bool:
    return one.rank > other.rank


def _judged(leaf: Leaf, one: _Evidence, rivals: Sequence[_Evidence]) -> Support:
    """The evidence with its confidence and its reason."""
    reason = one.what
    lost = _lost(one, rivals)
    if one.name.grade == 2 and one.strength != _NAME_ONLY:
        reason += f", beside {one.name.words!r}"
    elif one.name.grade == 1:
        reason += f", {one.name.words!r} near it"
    if one.row and one.name.grade < 2:
        reason += ", in the row of its object"
    sharing = sum(not _is_clearer(one, other) for other in rivals)
    if lost or (sharing and one.name.grade < 2 and not one.row):
        reason += f"; {sharing + 1} fields have this value"
    if one.quoted:
        reason += ", quoted for this field"
    confidence = "low" if lost else _confidence(leaf, one, bool(sharing))
    return Support(one.source, confidence, reason)


def _confidence(leaf: Leaf, one: _Evidence, shared: bool) -> Confidence:
    text = bool(leaf.texts) and leaf.number is None and leaf.day is None
    if one.strength == _EXACT:
        if one.name.grade == 2 or one.quoted or (one.row and leaf.distinctive):
            return "high"
        if shared and not one.row:
            # Both fields may hold the same words, while one amount is not another.
            return "medium" if text and leaf.distinctive else "low"
        if one.row or one.name.grade:
            if leaf.distinctive:
                return "high"
            return "medium" if one.row or one.name.whole else "low"
        if not leaf.distinctive:
            return "low"
        return "high" if text and not one.elsewhere else "medium"
    if one.strength == _LOOSE:
        return "medium" if one.name.grade or one.row or one.quoted else "low"
    if one.strength == _IN_ANSWER:
        return "medium" if one.name.grade == 2 else "low"
    return "low"
