"""Finding a field in a text: its value in any written form, and its name beside the value."""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

from batchata_prefect.content.citations.fields import Label, Leaf, stem
from batchata_prefect.content.citations.written import Day, Number, days, normal, numbers, times

_GENERIC_WORDS = "name value text data info field item number id date amount type code unit line"
_GENERIC = frozenset([*_GENERIC_WORDS.split(), "detail"])
"""Name words that stand beside many values: alone they say little of a longer name."""
_RATES = ("percent", "rate", "tax", "vat", "discount", "margin", "share", "growth", "interest")


class Spot(NamedTuple):
    """A place in a passage where a value stands.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
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
        whole: Whether most of the name is there, and it is not that of a nearer value.
        weight: How much of the name is there, and whether beside it, to tell fields with one value
            apart.
        words: The words as they stand there.
    """

    grade: int
    weight: float
    words: str
    whole: bool = True


_UNNAMED = Naming(0, 0.0, "")


class Passage:
    """A text to look for values in, read once and only as far as asked."""

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self.text = normal(raw)
        self.flat = self.text.replace("\n", " ")
        self._labels: dict[Label, list[tuple[float, int, int]]] = {}
        self._spots: dict[str, list[Spot]] = {}

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
        for match in re.finditer(r"[^\W_]+", self.text):
            found.setdefault(stem(match[0]), []).append(match.span())
        return found

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
            self._labels[label] = list(_label_places(self, label))
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
        while index + 1 < len(places) and places[index + 1][0] - end <= 8:
            index += 1
            end = places[index][1]
            seen.add(places[index][2])
        index += 1
        yield sum(_weight(word) for word in seen) / label_weight(label), start, end


def _weight(word: str) -> float:
    return 0.4 if word in _GENERIC else 1.0


def label_weight(label: Label) -> float:
    """How much the words of a label say in all."""
    return sum(_weight(word) for word in set(label))


def _spots(leaf: Leaf, passage: Passage) -> list[Spot]:
    found: list[Spot] = []
    if leaf.number is not None:
        for number in passage.numbers.get(leaf.number, ()):
            if not number.in_date or leaf.called("year", "month", "day", "date"):
                odd = number.percent and not leaf.called(*_RATES)
                need = number.need or ("name" if odd else "")
                how = "another reading of" if number.rare else ""
                found.append(Spot(number.start, number.end, need, how))
        unsigned = passage.numbers.get(-leaf.number, ()) if leaf.number < 0 else ()
        found += [Spot(one.start, one.end, "name", "amount without its sign") for one in unsigned]
    if leaf.day is not None:
        clocks = times(passage.text) if leaf.clock is not None else []
        for day in passage.days:
            if day.fits(leaf.day):
                how = "" if day.whole else "part of the date"
                beside = [clock for start, _, clock in clocks if 0 <= start - day.end <= 4]
                if beside and leaf.clock not in beside:
                    how = "the day with another time,"
                found.append(Spot(day.start, day.end, "" if day.whole else "name", how))
    elif leaf.clock is not None:
        clocks = times(passage.text)
        found += [Spot(start, end) for start, end, clock in clocks if clock == leaf.clock]
    if leaf.exact_case is not None:
        found += _cased(leaf.exact_case, passage)
    if not found:
        texts = leaf.texts[leaf.exact_case is not None :]
        found += [spot for text in texts for spot in _standing(text, passage.flat)]
    return found


def _cased(text: str, passage: Passage) -> Iterator[Spot]:
    pattern = rf"(?<!\w){re.escape(text)}(?!\w)"
    if re.search(pattern, passage.raw) is not None:
        for match in re.finditer(pattern.casefold(), passage.text):
            yield Spot(*match.span())
    symbol = _SYMBOLS.get(text.casefold())
    at = passage.text.find(symbol) if symbol else -1
    if at >= 0:
        yield Spot(at, at + 1, "", "its sign")


_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "inr": "₹", "krw": "₩", "ils": "₪"}


def _standing(text: str, flat: str) -> Iterator[Spot]:
    """Places of a text that is no part of a longer word or number."""
    at = flat.find(text)
    while at >= 0:
        end = at + len(text)
        before, after = flat[at - 1 : at], flat[end : end + 1]
        joined = (before.isalnum() and text[0].isalnum()) or (
            after.isalnum() and text[-1].isalnum()
        )
        if text[0].isdigit() and before in (".", ","):
            joined = joined or flat[at - 2 : at - 1].isdigit()
        if text[-1].isdigit() and after in (".", ","):
            joined = joined or flat[end + 1 : end + 2].isdigit()
        if not joined:
            yield Spot(at, end)
        at = flat.find(text, at + 1)


def loose_spot(leaf: Leaf, passage: Passage) -> Spot | None:
    """The place where a text stands in other words, a part of it, or with small differences."""
    if not leaf.texts or leaf.exact_case is not None:
        return None
    text, flat = leaf.texts[0], passage.flat.strip()
    offset = len(passage.flat) - len(passage.flat.lstrip())
    whole = Spot(offset, offset + len(flat))
    digits = re.findall(r"\d+", text)
    other = _respelled(text, passage)
    if other is not None:
        return other
    core = flat.rstrip(".;, ")
    if len(core) >= 12 and next(_standing(core, text), None) is not None:
        return whole._replace(how="part of the value")
    squeezed = _squeezed(text)
    if digits and len(squeezed) >= 6:
        pattern = r"[\W_]{0,3}".join(squeezed)
        match = re.search(rf"(?<![^\W_]){pattern}(?![^\W_])", passage.flat)
        if match is not None:
            return Spot(*match.span(), "", "value with other separators")
    if "@" in text:
        # The words of an address are those of its neighbours too, and nearly it is another.
        return None
    by_words = _by_words(text, digits, passage)
    if by_words is not None and not by_words.need:
        return by_words
    return _fuzzy(text, digits, passage) or by_words


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


def _squeezed(text: str) -> str:
    return "".join(char for char in text if char.isalnum())


def _by_words(text: str, digits: list[str], passage: Passage) -> Spot | None:
    """All words of the text within a short stretch, in any order; or its first ones."""
    wanted = [stem(word) for word in re.findall(r"[^\W_]+", text)]
    if not 2 <= len(wanted) <= 12:
        return None
    places = sorted(
        (start, end, word) for word in set(wanted) for start, end in passage.words.get(word, ())
    )
    reach = len(text) * 1.5 + 10
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
    if _within_word(passage.flat, start) or _within_word(passage.flat, end):
        return None
    # Numbers that differ in one digit are alike as texts, and something else altogether.
    if sorted(re.findall(r"\d+", passage.flat[start:end])) != sorted(digits):
        return None
    return Spot(start, end, "", f"nearly the value ({found.score:.0f} %)")


def _within_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def naming(leaf: Leaf, passage: Passage, spot: Spot | None) -> Naming:
    """The field's name in the passage, beside the spot where one is given."""
    best = _UNNAMED
    for rank, label in enumerate(leaf.labels):
        total = label_weight(label)
        for share, start, end in passage.named(label):
            if spot is not None and start < spot.end and spot.start < end:
                continue
            taken = spot is not None and _is_taken(leaf, passage, start, end, spot)
            beside = spot is None or (not taken and _is_beside(passage, start, end, spot))
            grade = (
                2 if beside and share >= 0.6 else int(share >= 0.6 or (beside and share >= 0.25))
            )
            # The names of what holds the field count for less than its own.
            weight = round(share * total * (0.9**rank) + (1.0 if beside else 0.0), 3)
            if grade and (grade, weight) > best[:2]:
                best = Naming(grade, weight, passage.text[start:end], share >= 0.6 and not taken)
    return best


def _is_beside(passage: Passage, start: int, end: int, spot: Spot) -> bool:
    before = end <= spot.start
    first, last = (end, spot.start) if before else (spot.end, start)
    between = passage.text[first:last]
    if len(between) > (60 if before else 25) or between.count("\n") > int(before):
        return False
    # The period of `No. 5` ends no sentence.
    return re.search(r"[.;!?]\s", between.removeprefix(".")) is None


def _is_taken(leaf: Leaf, passage: Passage, start: int, end: int, spot: Spot) -> bool:
    """Whether a nearer value of the same kind has the name at `start`."""
    first, last = (end, spot.start) if end <= spot.start else (spot.end, start)
    starts: list[int] = []
    if leaf.number is not None:
        starts = passage.number_starts
    elif leaf.day is not None:
        starts = passage.day_starts
    index = bisect_left(starts, first)
    return index < len(starts) and starts[index] < last
