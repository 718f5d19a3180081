"""Dates and times of day as people write them: text in, the values it may stand for out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, time
from typing import NamedTuple


class Day(NamedTuple):
    """One reading of a date in a text; parts that are not written are None."""

    start: int
    end: int
    year: int | None
    month: int
    day: int | None
    sure: bool = True
    """Whether it has no other reading, as 04/03/2026 has."""

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
_YEAR = re.compile(r"\.?,?(?:[-/]|(?:\s|\bde\b|\bdel\b)*)('?\d{2}|\d{4})(?!\d)")
_TO = r" ?(?:-|to|until|till|through|bis|au|and) ?"
_CONNECTED = re.compile(_TO)
_RANGE_START = re.compile(
    rf"(?<![\w.,/-])(\d{{1,2}})(?:st|nd|rd|th|\.)?(?:(\d{{1,2}})\.)?{_TO}(?:the )?$"
)
_DAYS_YEAR = re.compile(rf"\.? (\d{{1,2}})(?:\w\w)?{_TO}(\d{{1,2}})(?:\w\w)?,? (\d{{4}})(?!\d)")
_DAY_ONLY = re.compile(r"[.,]?[\s-]+(\d{1,2})(?:st|nd|rd|th)?(?!\w|[.,]\d)")
_NUMERIC = re.compile(r"(?<![\w.,])(\d{1,4})( ?[./-] ?)(\d{1,2})\2(\d{1,4})(?!\d)(?!\.\d)")
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
    return _with_ranges(text, found)


def _with_ranges(text: str, found: list[Day]) -> list[Day]:
    """The dates, with the starts of ranges that share the end's month or year: 1-31 March 2026."""
    ends = {day.start: day for day in found if day.whole}
    known: list[Day] = []
    for day in found:
        connected = _CONNECTED.match(text, day.end) if day.year is None else None
        end = None if connected is None else ends.get(connected.end())
        if end is not None and end.year is not None and day.day is not None:
            # A range that ends in January began in the year before.
            day = day._replace(year=end.year - (day.month > end.month))
        known.append(day)
    for end in ends.values():
        offset = max(0, end.start - 16)
        left = _RANGE_START.search(text[offset : end.start])
        if left is not None:
            first = offset + left.start()
            known += _day(first, end.end, str(end.year), left[2] or str(end.month), left[1])
    return known


def _worded(text: str, start: int, end: int, month: str) -> Iterator[Day]:
    """The dates that a month's name at `start` is a part of."""
    offset = max(0, start - 16)
    left = _LEFT.search(text[offset:start])
    first = start if left is None else offset + left.start()
    day_year = _DAY_YEAR.match(text, end)
    if day_year is not None:
        yield from _day(start, day_year.end(), day_year[2], month, day_year[1])
    both = _DAYS_YEAR.match(text, end)
    for day in (1, 2) if both is not None else ():
        yield from _day(start, both.end(), both[3], month, both[day])  # pyright: ignore
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
    mark = match[2].strip()
    beside = match.string[max(0, start - 1) : start] + match.string[end : end + 1]
    if mark != "." and mark in beside:
        return
    if len(first) == 4:
        if len(third) <= 2:
            yield from _day(start, end, first, second, third)
        return
    if len(first) > 2 or len(third) not in (2, 4):
        return
    usual = list(_day(start, end, third, second, first))
    # Only dots always have the day first.
    other = [] if mark == "." and usual else list(_day(start, end, third, first, second))
    if len(third) == 2 and mark != ".":
        other += _day(start, end, first, second, third)
    readings = set(usual + other)
    yield from (day._replace(sure=len(readings) == 1) for day in readings)


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
