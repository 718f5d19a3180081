"""Finding a field in a text: its value in any written form, and its name beside the value."""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

from batchata_prefect.content.bounds import Work
from batchata_prefect.content.citations.context import AMOUNTS, is_against, is_neighbours, is_owed
from batchata_prefect.content.citations.context import NO as _NO
from batchata_prefect.content.citations.dates import Day, days, times
from batchata_prefect.content.citations.fields import Label, Leaf, stem
from batchata_prefect.content.citations.written import Number, is_masked, normal, numbers

_GENERIC_WORDS = "name value text data info field item number id date amount type code year"
_GENERIC = frozenset([*_GENERIC_WORDS.split(), "detail"])
"""Name words that stand beside many values: alone they say little of a longer name."""
_SCORES = ("score", "rating", "grade", "mark", "point", "rank", "star", "page", "step", "part")
_MOST = re.compile(r"/\d{1,3}(?:\.\d+)?(?![\d/])")
_RATES = ("percent", "rate", "tax", "vat", "discount", "margin", "share", "growth", "interest")


class Spot(NamedTuple):
    """A place from `start` to before `end` of a passage where a value stands.

    Attributes:
        need: What must stand beside it, as in `Number`.
        how: How it stands there, for the reason; empty where it is the value itself.
    """

    start: int
    end: int
    need: str = ""
    how: str = ""


class Naming(NamedTuple):
    """A field's name in a passage, as seen from a spot.

    Attributes:
        grade: 2 beside the spot, 1 near it or only partly, 0 not there.
        weight: How much of the name is there, and whether beside it.
        words: The words as they stand there.
        whole: Whether most of the name is there, and it is not that of a nearer value.
        denied: Whether the passage gives the name another value.
    """

    grade: int
    weight: float
    words: str
    whole: bool = True
    denied: bool = False


_WORD = re.compile(r"[^\W_]+")
_MOST_SPOTS = 50
_UNNAMED = Naming(0, 0.0, "")


class Passage:
    """A text to look for values in, read once and only as far as asked."""

    def __init__(self, raw: str, work: Work) -> None:
        self.work = work
        self.raw = raw
        self.text = normal(raw)
        self.flat = self.text.replace("\n", " ")
        self._labels: dict[Label, list[tuple[float, int, int]]] = {}
        self._spots: dict[str, list[Spot]] = {}
        self.denied: set[str] = set()

    @cached_property
    def days(self) -> list[Day]:
        """All readings of the dates in it."""
        return days(self.text)

    @cached_property
    def numbers(self) -> dict[Decimal, list[Number]]:
        """Value -> the numbers in it that may stand for the value."""
        found: dict[Decimal, list[Number]] = {}
        for number in numbers(self.text, self.days):
            found.setdefault(number.value, []).append(number)
        return found

    @cached_property
    def number_starts(self) -> list[int]:
        """Where numbers start that are no part of a date, in order."""
        found = (number for numbers in self.numbers.values() for number in numbers)
        return sorted({number.start for number in found if not number.in_date})

    @cached_property
    def day_starts(self) -> list[int]:
        """Where dates start, in order."""
        return sorted({day.start for day in self.days})

    @cached_property
    def words(self) -> dict[str, list[tuple[int, int]]]:
        """Stem -> places of its words."""
        found: dict[str, list[tuple[int, int]]] = {}
        for match in _WORD.finditer(self.text):
            if not self.text.startswith("sub-", max(0, match.start() - 4)):
                found.setdefault(stem(match[0]), []).append(match.span())
        return found

    def places(self, words: str) -> list[tuple[int, int]]:
        """Where some words stand as they are."""
        return [match.span() for match in re.finditer(rf"\b{re.escape(words)}\b", self.text)]

    def line(self, spot: Spot) -> tuple[int, int]:
        """Start and end of the line around a spot."""
        start = self.text.rfind("\n", 0, spot.start) + 1
        end = self.text.find("\n", spot.end)
        return start, len(self.text) if end < 0 else end

    def spots(self, leaf: Leaf) -> list[Spot]:
        """The places where the leaf's value stands, in any of its usual written forms."""
        if leaf.path not in self._spots:
            self._spots[leaf.path] = _spots(leaf, self)
        return self._spots[leaf.path]

    def named(self, label: Label) -> list[tuple[float, int, int]]:
        """Share of the label's words, start and end of every place that has some of them."""
        if label not in self._labels:
            self._labels[label] = list(itertools.islice(_label_places(self, label), _MOST_SPOTS))
        return self._labels[label]


def _label_places(passage: Passage, label: Label) -> Iterator[tuple[float, int, int]]:
    places = sorted(
        (start, end, word) for word in set(label) for start, end in passage.words.get(word, ())
    )
    for start, end in passage.words.get("".join(label), ()) if len(label) > 1 else ():
        yield 1.0, start, end
    index = 0
    while index < len(places):
        start, end, word = places[index]
        seen = {word}
        # Words of one name stand together: `number of the invoice`.
        while index + 1 < len(places) and places[index + 1][0] - end <= 10:
            index += 1
            end = places[index][1]
            seen.add(places[index][2])
        index += 1
        yield sum(_weight(word) for word in seen) / _total(label), start, end


def _weight(word: str) -> float:
    return 0.4 if word in _GENERIC else 1.0


def _total(label: Label) -> float:
    return sum(map(_weight, set(label)))


def _spots(leaf: Leaf, passage: Passage) -> list[Spot]:
    found = list(_number_spots(leaf, leaf.number, passage)) if leaf.number is not None else []
    if leaf.day is not None:
        found += _day_spots(leaf, leaf.day, passage)
    elif leaf.clock is not None:
        clocks = times(passage.text)
        found += [Spot(start, end) for start, end, clock in clocks if clock == leaf.clock]
    if leaf.exact_case is not None:
        found += _cased(leaf.exact_case, passage)
    if not found:
        texts = leaf.texts[leaf.exact_case is not None :]
        found = [spot for text in texts for spot in _standing(text, passage.flat)]
    found = found[:_MOST_SPOTS]
    passage.work.goes_on(25 * len(found) + len(passage.flat) // 500)
    return [one for spot in found if (one := _meant(leaf, passage, spot)) is not None]


def _meant(leaf: Leaf, passage: Passage, spot: Spot) -> Spot | None:
    """The spot as far as the words around it let it stand for the leaf."""
    if is_against(leaf, passage.text, spot.start, spot.end):
        passage.denied.add(leaf.path)
        return None
    theirs = is_neighbours(leaf, passage.text, spot.start, spot.end)
    return spot._replace(need="share") if theirs else spot


def _number_spots(leaf: Leaf, value: Decimal, passage: Passage) -> Iterator[Spot]:
    for number in passage.numbers.get(value, ()):
        if number.in_date and not leaf.called("year", "month", "day", "date"):
            continue
        if number.need == "score" and not _is_scored(leaf, passage.text, number):
            continue
        odd = number.percent and not leaf.called(*_RATES)
        need = number.need.replace("score", "name") or ("name" if odd else "")
        rare = number.rare or (number.percent and leaf.called(*AMOUNTS))
        yield Spot(number.start, number.end, need, "another reading of" if rare else "")
    for number in passage.numbers.get(-value, ()) if value < 0 else ():
        if is_owed(leaf, passage.text, number.start, number.end):
            yield Spot(number.start, number.end, "name", "amount without its sign")


def _is_scored(leaf: Leaf, text: str, number: Number) -> bool:
    """Whether a number with a slash and its most behind, as in 4.5/5, is no fraction or date."""
    graded = "." in text[number.start : number.end] or number.end - number.start > 1
    return leaf.called(*_SCORES) or (graded and _MOST.match(text, number.end) is not None)


def _day_spots(leaf: Leaf, value: date, passage: Passage) -> Iterator[Spot]:
    clocks = times(passage.text) if leaf.clock is not None else []
    for day in passage.days:
        if day.fits(value):
            how = "" if day.sure else "one reading of"
            beside = [clock for start, _, clock in clocks if 0 <= start - day.end <= 4]
            if beside and leaf.clock not in beside:
                how = "the day with another time,"
            if day.whole:
                yield Spot(day.start, day.end, "", how)
            else:
                yield Spot(day.start, day.end, "name", how or "part of the date")


def _cased(text: str, passage: Passage) -> Iterator[Spot]:
    pattern = rf"(?<!\w){re.escape(text)}(?!\w)"
    # A part of a double name is another name.
    if re.search(rf"(?<![^\W\d_]-){pattern}(?!-[A-Z])", passage.raw) is not None:
        for match in re.finditer(pattern.casefold(), passage.text):
            yield Spot(*match.span())
    symbol = _SYMBOLS.get(text.casefold())
    at = passage.text.find(symbol) if symbol else -1
    if at >= 0:
        yield Spot(at, at + 1, "", "its sign")


_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "krw": "₩", "ils": "₪"}


def _standing(text: str, flat: str) -> Iterator[Spot]:
    """Places of a text that is no part of a longer word, number or identifier."""
    at = flat.find(text)
    while at >= 0:
        end = at + len(text)
        if not _is_cut(flat, at, end):
            how = "the visible end of" if text.isdigit() and is_masked(flat, at) else ""
            yield Spot(at, end, "", how)
        at = flat.find(text, end)


def _is_cut(flat: str, start: int, end: int) -> bool:
    """Whether a stretch is only a part of the word, number or identifier that it stands in."""
    sides = (
        (flat[start], flat[max(0, start - 2) : start][::-1]),
        (flat[end - 1], flat[end : end + 2]),
    )
    for edge, outside in sides:
        if not edge.isalnum() or not outside or outside[0].isspace():
            continue
        tied = outside[0] in _TIES or (outside[0] in ".," and edge.isdigit())
        if outside[0].isalnum() or (tied and outside[1:].isalnum()):
            return True
    # `ann@example.com` is not `ann@example.com.au`.
    return any(one in flat[start:end] and _FURTHER[one].match(flat, end) for one in _FURTHER)


_FURTHER = {".": re.compile(r"\.[^\W\d_]{2}"), ":": re.compile(r":\d")}
_TIES = frozenset("-/_@")


def loose_spot(leaf: Leaf, passage: Passage) -> Spot | None:
    """The place where a text stands in other words, a part of it, or with small differences."""
    if not leaf.texts or leaf.exact_case is not None:
        return None
    text, flat = leaf.texts[0], passage.flat.strip()
    offset = len(passage.flat) - len(passage.flat.lstrip())
    whole = Spot(offset, offset + len(flat), "", "part of the value")
    digits = re.findall(r"\d+", text)
    # Looking for a text nearly as it stands takes the product of both.
    if not passage.work.goes_on(len(flat) * (1 + len(text) // 64) // 20):
        return None
    found = _respelled(text, passage)
    core = flat.rstrip(".;, ")
    if found is None and len(core) >= 12 and next(_standing(core, text), None) is not None:
        found = whole
    found = found or _nearly(text, digits, passage)
    if found is None or (found != whole and _is_cut(passage.flat, found.start, found.end)):
        return None
    there = passage.flat[found.start : found.end]
    denied = [_NO.isdisjoint(_WORD.findall(one)) for one in (text, there)]
    # A stretch says no where the text does.
    return None if len(text) < 80 and len(set(denied)) > 1 else _meant(leaf, passage, found)


def _nearly(text: str, digits: list[str], passage: Passage) -> Spot | None:
    """The place of a text with other separators, in other words, or with small differences."""
    found = _separated(text, passage) if digits else None
    # The words of an address are those of its neighbours too, and nearly it is another.
    if found is not None or "@" in text:
        return found
    by_words = _by_words(text, digits, passage)
    surely = by_words is not None and not by_words.need
    return by_words if surely else _fuzzy(text, digits, passage) or by_words


def _separated(text: str, passage: Passage) -> Spot | None:
    squeezed = "".join(char for char in text if char.isalnum())
    if not 6 <= len(squeezed) <= 60:
        return None
    pattern = r"[\W_]{0,3}".join(squeezed)
    match = re.search(rf"(?<![^\W_]){pattern}(?![^\W_])", passage.flat)
    if match is None or _is_cut(passage.flat, *match.span()):
        return None
    return Spot(*match.span(), "", "value with other separators")


def _respelled(text: str, passage: Passage) -> Spot | None:
    """The place where a text stands without its accents, or broken by a hyphen at a line's end."""
    if not (text.isascii() and passage.flat.isascii()):
        spot = next(_standing(_unaccented(text), _unaccented(passage.flat)), None)
        if spot is not None:
            return spot._replace(how="value with other accents")
    if "-\n" in passage.text and any(char.isalpha() for char in text):
        broken = "".join(
            re.escape(char) + ("(?:- )?" if char.isalpha() else "") for char in text[:500]
        )
        match = re.search(rf"(?<!\w){broken}(?!\w)", passage.flat)
        if match is not None:
            return Spot(*match.span(), "", "value over a line's end")
    return None


def _unaccented(text: str) -> str:
    """The text letter by letter without marks, so that offsets stay."""
    return "".join(unicodedata.normalize("NFD", char)[0] for char in text)


def _by_words(text: str, digits: list[str], passage: Passage) -> Spot | None:
    """All words of the text within a short stretch, in any order; or its first ones."""
    wanted = [stem(word) for word in _WORD.findall(text)]
    if not 2 <= len(wanted) <= 12:
        return None
    places = sorted(
        (start, end, word) for word in set(wanted) for start, end in passage.words.get(word, ())
    )
    places, reach = places[: 10 * _MOST_SPOTS], len(text) * 1.5 + 10
    best: tuple[float, Spot] | None = None
    for index, (start, _, _) in enumerate(places):
        seen: dict[str, int] = {}
        for _, end, word in itertools.islice(places, index, None):
            if end - start > reach:
                break
            seen.setdefault(word, end)
        share = sum(map(len, seen)) / sum(map(len, set(wanted)))
        if all(digit in seen for digit in digits) and (best is None or share > best[0]):
            how = "its words" if share > 0.99 else "part of its words"
            best = (share, Spot(start, max(seen.values()), "" if share > 0.99 else "name", how))
    return best[1] if best is not None and best[0] >= 0.5 else None


def _fuzzy(text: str, digits: list[str], passage: Passage) -> Spot | None:
    if len(text) < 8 or len(passage.flat) < 8:
        return None
    # Imported late: most values stand in the text as they are.
    from rapidfuzz import fuzz

    found = fuzz.partial_ratio_alignment(text, passage.flat, score_cutoff=85)
    if found is None:
        return None
    start, end = found.dest_start, found.dest_end
    if _is_cut(passage.flat, start, end):
        return None
    # Numbers that differ in one digit are alike as texts, and something else altogether.
    if sorted(re.findall(r"\d+", passage.flat[start:end])) != sorted(digits):
        return None
    return Spot(start, end, "", f"nearly the value ({found.score:.0f} %)")


def naming(leaf: Leaf, passage: Passage, spot: Spot | None) -> Naming:
    """The field's name in the passage, beside the spot where one is given."""
    best = _UNNAMED
    denied = False
    for rank, label in enumerate(leaf.labels):
        total = _total(label)
        places = passage.named(label)
        passage.work.goes_on(5 + 10 * len(places))
        for share, start, end in places:
            if spot is not None and start < spot.end and spot.start < end:
                continue
            owned = spot is not None and _owned(leaf, passage, start, end, spot)
            beside = spot is None or (not owned and _is_beside(passage, start, end, spot))
            grade = 2 if beside and share >= 0.6 else int(share >= (0.25 if beside else 0.6))
            denied = denied or (owned == _SURELY and share >= 0.6)
            # The names of what holds the field count for less than its own.
            weight = round(share * total * (0.9**rank) + (1.0 if beside else 0.0), 3)
            if grade and (grade, weight) > best[:2]:
                best = Naming(grade, weight, passage.text[start:end], share >= 0.6 and not owned)
    return best._replace(denied=denied and best.grade < 2)


def _is_beside(passage: Passage, start: int, end: int, spot: Spot) -> bool:
    before = end <= spot.start
    first, last = (end, spot.start) if before else (spot.end, start)
    between = passage.text[first:last]
    if len(between) > (60 if before else 25) or between.count("\n") > int(before):
        return False
    # The period of `No. 5` ends no sentence.
    return _SENTENCE_END.search(between.removeprefix(".")) is None


_SENTENCE_END = re.compile(r"(?<!incl)(?<!excl)[.;!?]\s")
_PARTED = re.compile(r"[.;!?]\s|[,\n][^,:\d\n]{2,30}:\s?$")
_OWN = re.compile(r"[\s:=($€£-]*(?:(?:is|was|are|were|of|at)\b)?[\s:=($€£]*")
_OTHER_LABEL = re.compile(r"\s*:.*[^\W\d_]\s?:", re.DOTALL)
_LISTED = re.compile(r"\)?(?:[,;&]| and\b| or\b)")
_COUNT = re.compile(r"(?:^|[,;:(\n&]|\band\b) ?\d+ $")
_SURELY = 2


def _owned(leaf: Leaf, passage: Passage, start: int, end: int, spot: Spot) -> int:
    """Whether the name belongs to another value: 0 no, 1 to a nearer one, 2 surely to that."""
    before = end <= spot.start
    first, last = (end, spot.start) if before else (spot.end, start)
    starts: list[int] = []
    if leaf.number is not None:
        starts = passage.number_starts
    elif leaf.day is not None:
        starts = passage.day_starts
    elif before and last - first <= 60:
        return int(_OTHER_LABEL.match(passage.text, first, last) is not None)
    index = bisect_left(starts, end)
    near = not before and index < len(starts) and starts[index] - end <= 12
    if near and _OWN.fullmatch(passage.text, end, starts[index]):
        return _SURELY
    if before and leaf.number is not None and _LISTED.match(passage.text, end, last):
        # `5 wins, 3 losses`
        return _SURELY if _COUNT.search(passage.text[max(0, start - 16) : start]) else 0
    index = bisect_left(starts, first)
    if index < len(starts) and starts[index] < last:
        # 200 characters behind, it would not be beside in any case.
        parted = before and _PARTED.search(passage.text, starts[index], min(last, first + 200))
        return _SURELY if parted else 1
    return 0
