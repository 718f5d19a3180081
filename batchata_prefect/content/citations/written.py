"""Numbers, dates and times as people write them: text in, the values it may stand for out.

Text is read rather than values rendered: a number in the text is cut out whole, with its sign, its
separators and its scale, and gets every reading that is usual somewhere. So a value never matches
inside of a longer number, an identifier, a time or a date.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

Need: TypeAlias = Literal["", "name", "row", "never"]


class Number(NamedTuple):
    """One reading of a number in a text.

    Attributes:
        start: Offset of its first character.
        end: Offset behind its last character.
        value: What it may stand for.
        need: What must stand beside it before the reading counts: nothing; the field's name; or
            further values of the same table row, where spaces part columns or thousands.
        in_date: Whether it is a part of a date.
        percent: Whether a percent sign follows.
        rare: Whether its separators or leading zeros are usually read in another way.
    """

    start: int
    end: int
    value: Decimal
    need: Need = ""
    in_date: bool = False
    percent: bool = False
    rare: bool = False


class Day(NamedTuple):
    """One reading of a date in a text; parts that are not written are None."""

    start: int
    end: int
    year: int | None
    month: int
    day: int | None

    def fits(self, value: date) -> bool:
        """Whether the value agrees with all that is written."""
        return (
            self.month == value.month
            and self.year in (None, value.year)
            and self.day in (None, value.day)
        )

    @property
    def whole(self) -> bool:
        """Whether year, month and day are all written."""
        return self.year is not None and self.day is not None


_PLAIN = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2018\u2019\u201a`", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u00ad\u200b\ufeff")
    | {"\r": "\n"}
)
"""Quotes, dashes and the minus sign in their plain form; soft hyphens and such left out."""
_HARD_SPACE_IN_NUMBER = re.compile(r"(?<=\d)[\u00a0\u202f\u2009\u2007](?=\d{3}(?!\d))")
_SPACES = re.compile(r"[^\S\n]+")


def normal(text: str) -> str:
    """The text in one spelling: NFKC, no case, plain quotes, dashes and spaces; lines kept.

    Hard spaces inside of a number become apostrophes, the one separator with no other meaning.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii():
        return _SPACES.sub(" ", text).casefold().replace("\r", "\n").replace("`", "'")
    text = unicodedata.normalize("NFKC", _HARD_SPACE_IN_NUMBER.sub("'", text).translate(_PLAIN))
    return _SPACES.sub(" ", text).casefold()


_CURRENCY_CODES = (
    "usd eur gbp jpy chf cny rmb inr aud cad nzd sek nok dkk pln czk huf ron brl mxn zar try krw "
    "sgd hkd ils aed sar us r rs kr zł lei fr"
)
_CURRENCY = frozenset(_CURRENCY_CODES.split())
_UNIT_WORDS = (
    "st nd rd th er kg g mg t lb lbs oz km m cm mm mi ft in yd l ml cl dl gal h hr hrs min mins s "
    "sec secs ms d day days w wk wks week weeks mo mos month months y yr yrs year years x pc pcs "
    "kb mb gb tb kwh mwh kw mw w v a ha sqm sqft pt px ppm bps c f k"
)
_UNITS = frozenset(_UNIT_WORDS.split())
_SCALES: dict[str, int] = {
    "k": 3, "tsd": 3, "thousand": 3, "hundred": 2, "m": 6, "mm": 6, "mn": 6, "mio": 6, "mln": 6,
    "million": 6, "millions": 6, "millionen": 6, "b": 9, "bn": 9, "mrd": 9, "billion": 9,
    "billions": 9, "milliarden": 9, "tn": 12, "trillion": 12, "lakh": 5, "crore": 7, "万": 4,
    "億": 8, "亿": 8,
}  # fmt: skip
_SCALE_INITIALS = frozenset(word[0] for word in _SCALES)
_SIGNS = "$€£¥₹₩₽₺₪฿¢"
_PERCENT = re.compile(r" ?(?:%|percent\b|per cent\b|pct\b|prozent\b|pour cent\b|por ciento\b)")
_CORE = re.compile(r"\d+(?:[.,']\d+)*")
_CHAIN = re.compile(r"(?<![\w.,])\d+(?:-\d+){2,}(?![\w])")
_SPACED = re.compile(r"(?<![\w.,'])\d{1,3}(?: \d{3})+(?:[.,]\d{1,2})?(?!\w)(?![.,']\d)")
_WORD_AFTER = re.compile(r" ?([^\W\d_]+)\b")
_LETTERS_BEFORE = re.compile(r"[^\W\d_]+$")
_TELLING = frozenset(" :/_abcdefghijklmnopqrstuvwxyz円元年月日個万億亿원")
"""Characters behind digits that may change what they stand for."""
_BEFORE_SIGN = frozenset("-(" + _SIGNS)
_PLUS = [(1, True)]
_MINUS = [(-1, True)]
_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_NUMBER_WORDS = {word: Decimal(value) for value, word in enumerate(_COUNTED.split())} | {
    "thirty": Decimal(30),
    "forty": Decimal(40),
    "fifty": Decimal(50),
}
_NUMBER_WORD = re.compile(r"\b(" + "|".join(_NUMBER_WORDS) + r")\b(?![- ](?:hundred|thousand|m|b))")


def numbers(text: str, dates: Sequence[Day]) -> list[Number]:
    """All readings of all numbers in a `normal` text.

    Args:
        text: The text.
        dates: The dates in it, whose parts are no numbers of their own.
    """
    found: list[Number] = []
    taken = [(day.start, day.end) for day in dates if day.year is not None]
    # Three numbers in a chain are a telephone number or an identifier, where they are no date.
    chains = [match.span() for match in _CHAIN.finditer(text) if match.span() not in taken]
    spaced: list[tuple[int, int, bool]] = []
    if " " in text:
        for match in _SPACED.finditer(text):
            start, end = match.span()
            spaced.append((start, end, _is_money(text, start, end)))
            _read(found, text, start, end, match[0].replace(" ", ""), taken, "")
    for match in _CORE.finditer(text):
        start, end = match.span()
        need: Need = ""
        for span_start, span_end, money in spaced:
            if span_start <= start and end <= span_end:
                need = "never" if money else "row"
        if any(first <= start and end <= last for first, last in chains):
            need = "never"
        if need != "never":
            _read(found, text, start, end, match[0], taken, need)
    found += [
        Number(*match.span(), _NUMBER_WORDS[match[1]], "name")
        for match in _NUMBER_WORD.finditer(text)
    ]
    found += [
        Number(day.start, day.end, Decimal(day.year), in_date=True)
        for day in dates
        if day.year is not None
    ]
    return found


def _is_money(text: str, start: int, end: int) -> bool:
    before = text[:start].rstrip()
    after = text[end : end + 5].lstrip()
    code = _LETTERS_BEFORE.search(before[-5:])
    code_after = _WORD_AFTER.match(after)
    return (
        before.endswith(tuple(_SIGNS))
        or after.startswith(tuple(_SIGNS))
        or (code is not None and code[0] in _CURRENCY)
        or (code_after is not None and code_after[1] in _CURRENCY)
    )


def _read(
    found: list[Number],
    text: str,
    start: int,
    end: int,
    core: str,
    taken: Sequence[tuple[int, int]],
    need: Need,
) -> None:
    """Add the readings of the digits at `start`, written `core` without spaces."""
    before = text[start - 1] if start else " "
    if before != " " and before != "\n" and not _stands_alone(text, start, before):
        return
    scale = 0
    after = text[end] if end < len(text) else " "
    if after in _TELLING:
        told = _after(text, end, after)
        if told is None:
            return
        scale, end = told
    if before == "." and core.isdigit() and (start < 2 or text[start - 2] in " \n(" + _SIGNS):
        values = [(Decimal(f"0.{core}"), True)]
    elif core.isdigit():
        values = [(Decimal(core), core[0] != "0" or core == "0")]
    else:
        values = _grouped(core)
    in_date = any(first <= start and end <= last for first, last in taken)
    percent = after in " %p" and _PERCENT.match(text, end) is not None
    for value, usual in values:
        for sign, sure in _signs(text, start, end, before, after):
            this_need: Need = need or ("" if usual and sure else "name")
            rare = not usual
            found.append(Number(start, end, sign * value, this_need, in_date, percent, rare))
            if percent:
                part = sign * value / 100
                found.append(Number(start, end, part, this_need, in_date, percent))
            if scale:
                whole = sign * value * 10**scale
                found.append(Number(start, end, whole, this_need, in_date, percent))


def _grouped(core: str) -> list[tuple[Decimal, bool]]:
    """The values that digits with separators may stand for, and whether each is the usual one."""
    parts = re.split(r"[.,']", core)
    marks = [char for char in core if char in ".,'"]
    last, kinds = marks[-1], len(set(marks))
    whole, tail = "".join(parts[:-1]), parts[-1]
    values: list[tuple[Decimal, bool]] = []
    if kinds == 1 and _is_grouping(parts, marks):
        values.append((Decimal(whole + tail), True))
    fraction = len(marks) == 1 or (
        kinds == 2 and last not in marks[:-1] and _is_grouping(parts[:-1], marks[:-1])
    )
    if fraction and last != "'":
        # 1,234 is a thousand nearly everywhere, while 1.234 is read both ways.
        values.append((Decimal(f"{whole}.{tail}"), not (values and last == ",")))
    return values


def _is_grouping(parts: list[str], marks: list[str]) -> bool:
    if len(set(marks)) != 1 or not 1 <= len(parts[0]) <= 3 or parts[0][0] == "0":
        return False
    middle = {len(part) for part in parts[1:-1]}
    # Groups of two before the last three are Indian: 1,23,456.
    return len(parts[-1]) == 3 and (middle <= {3} or (middle == {2} and marks[0] == ","))


def _stands_alone(text: str, start: int, before: str) -> bool:
    """Whether what comes before does not make the digits a part of something longer."""
    if before in "$(=<>~\"'#*|[+":
        return True
    if before.isalpha():
        code = _LETTERS_BEFORE.search(text[max(0, start - 6) : start])
        return ord(before) > 0x2E80 or (code is not None and code[0] in _CURRENCY)
    further = text[start - 2] if start > 1 else " "
    if before in "-/_":
        return not further.isalnum() or (before == "-" and not _in_identifier(text, start))
    return not (before in ".,:" and further.isdigit())


def _in_identifier(text: str, start: int) -> bool:
    """Whether dashes tie the digits to letters before them, as in `inv-2024-001`."""
    index = start - 1
    while index >= 0 and (text[index].isalnum() or text[index] in "-/_"):
        if text[index].isalpha():
            return True
        index -= 1
    return False


def _after(text: str, end: int, after: str) -> tuple[int, int] | None:
    """The scale as a power of ten and the end with it; None where the digits go on as a word."""
    further = text[end + 1] if end + 1 < len(text) else " "
    if after in ":/_":
        return None if further.isdigit() else (0, end)
    if after == " ":
        if further not in _SCALE_INITIALS:
            return 0, end
        word = _WORD_AFTER.match(text, end)
        scale = None if word is None or len(word[1]) == 1 else _SCALES.get(word[1])
        return (0, end) if scale is None or word is None else (scale, word.end())
    if ord(after) > 0x2E80:
        return _SCALES.get(after, 0), end
    word = _WORD_AFTER.match(text, end)
    if word is None:
        return None
    if word[1] in _SCALES:
        return _SCALES[word[1]], word.end()
    return (0, end) if word[1] in _UNITS or word[1] in _CURRENCY else None


def _signs(text: str, start: int, end: int, before: str, after: str) -> list[tuple[int, bool]]:
    if before not in _BEFORE_SIGN and after != "-":
        return _PLUS
    lead = text[max(0, start - 4) : start].rstrip(_SIGNS)
    if lead.endswith("-"):
        return _MINUS if not lead[-2:-1].isalnum() else _PLUS
    if lead.endswith("(") and text[end : end + 3].lstrip(_SIGNS + " ").startswith(")"):
        return [(-1, True), (1, False)]
    if after == "-" and not text[end + 1 : end + 2].isalnum():
        return [(-1, True), (1, True)]
    return _PLUS


_MONTHS: dict[str, int] = {
    word: number
    for number, words in enumerate(
        (
            "january jan januar janvier janv enero ene gennaio janeiro januari jänner",
            "february feb februar février févr fevrier fev febrero febbraio fevereiro februari",
            "march mar märz maerz mrz mars marzo março marco maart mrt",
            "april apr avril avr abril abr aprile",
            "may mai mayo maggio maio mei",
            "june jun juni juin junio giugno junho",
            "july jul juli juillet juil julio luglio julho",
            "august aug août aout agosto augustus",
            "september sep sept septembre septiembre settembre setembro",
            "october oct oktober okt octobre octubre ottobre outubro",
            "november nov novembre noviembre novembro",
            "december dec dezember dez décembre decembre déc diciembre dic dicembre dezembro",
        ),
        1,
    )
    for word in words.split()
}
_WORD = re.compile(r"[^\W\d_]{3,10}")
_LEFT = re.compile(
    r"(?<![\d.,/])(\d{1,2}|\d{4})(?:st|nd|rd|th|er|º|\.)?(?:\s|-|/|,|\bde\b|\bof\b|\bdel\b)*$"
)
_DAY_YEAR = re.compile(r"\.?[\s-]+(\d{1,2})(?:st|nd|rd|th)?(?:\s?,\s*|[\s-]+)('\d{2}|\d{4})(?!\d)")
_YEAR = re.compile(r"\.?,?(?:\s|-|/|\bde\b|\bdel\b)*('?\d{2}|\d{4})(?!\d)")
_DAY_ONLY = re.compile(r"[.,]?[\s-]+(\d{1,2})(?:st|nd|rd|th)?(?!\w|[.,]\d)")
_NUMERIC = re.compile(r"(?<![\w.,/-])(\d{1,4})( ?[./-] ?)(\d{1,2})\2(\d{1,4})(?![\d/-])(?!\.\d)")
_COMPACT = re.compile(r"(?<![\w.,-])((?:19|20)\d\d)(0[1-9]|1[0-2])([0-3]\d)(?![\w.,]?\d)")
_CJK = re.compile(r"(\d{4})\s?[年년]\s?(\d{1,2})\s?[月월]\s?(\d{1,2})\s?[日일]")


def days(text: str) -> list[Day]:
    """All readings of all dates in a `normal` text."""
    found: list[Day] = []
    for match in _NUMERIC.finditer(text):
        found += _numeric(match)
    for pattern in (_COMPACT, _CJK):
        for match in pattern.finditer(text):
            found += _day(match.start(), match.end(), match[1], match[2], match[3])
    for match in _WORD.finditer(text):
        month = _MONTHS.get(match[0])
        if month is not None:
            found += _worded(text, match.start(), match.end(), str(month))
    return found


def _worded(text: str, start: int, end: int, month: str) -> Iterator[Day]:
    """The dates that a month's name at `start` is a part of."""
    offset = max(0, start - 16)
    left = _LEFT.search(text[offset:start])
    first = start if left is None else offset + left.start()
    day_year = _DAY_YEAR.match(text, end)
    if day_year is not None:
        yield from _day(start, day_year.end(), day_year[2], month, day_year[1])
    year = _YEAR.match(text, end)
    day_only = _DAY_ONLY.match(text, end)
    if left is not None and len(left[1]) == 4:
        if day_only is not None:
            yield from _day(first, day_only.end(), left[1], month, day_only[1])
    elif left is not None and year is not None:
        yield from _day(first, year.end(), year[1], month, left[1])
    elif left is not None:
        yield from _day(first, end, None, month, left[1])
    elif year is not None and len(year[1]) == 4:
        yield from _day(start, year.end(), year[1], month, None)
    elif day_only is not None and day_year is None:
        yield from _day(start, day_only.end(), None, month, day_only[1])


def _numeric(match: re.Match[str]) -> Iterator[Day]:
    first, second, third = match[1], match[3], match[4]
    start, end = match.span()
    if len(first) == 4:
        if len(third) <= 2:
            yield from _day(start, end, first, second, third)
        return
    if len(first) > 2 or len(third) not in (2, 4):
        return
    yield from _day(start, end, third, second, first)
    if first != second:
        yield from _day(start, end, third, first, second)
    if len(third) == 2 and match[2].strip() != ".":
        yield from _day(start, end, first, second, third)


def _day(start: int, end: int, year: str | None, month: str, day: str | None) -> Iterator[Day]:
    number = None if year is None else int(year.lstrip("'"))
    if number is not None and number < 100:
        number += 2000 if number < 70 else 1900
    try:
        date(number or 2000, int(month), 1 if day is None else int(day))
    except ValueError:
        return
    yield Day(start, end, number, int(month), None if day is None else int(day))


_TIME = re.compile(
    r"(?<![\d.,:])(\d{1,2})(?:[:.h](\d{2})(?::(\d{2}))?)? ?([ap]\.?m\b)?(?!\d|[:.]\d)"
)


def times(text: str) -> list[tuple[int, int, time]]:
    """Start, end and value of all times of day in a `normal` text."""
    found: list[tuple[int, int, time]] = []
    for match in _TIME.finditer(text):
        hour, half = int(match[1]), match[4]
        if match[2] is None and half is None:
            continue
        if half is not None:
            hour = hour % 12 + (12 if half[0] == "p" else 0)
        minute, second = int(match[2] or 0), int(match[3] or 0)
        if hour < 24 and minute < 60 and second < 60:
            found.append((match.start(), match.end(), time(hour, minute, second)))
    return found
