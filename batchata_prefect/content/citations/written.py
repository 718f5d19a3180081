"""Numbers as people write them: text in, the values it may stand for out.

A number is cut out whole, with its sign, separators and scale, and gets every reading that is usual
somewhere: a value never matches inside of a longer number, an identifier, a time or a date.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias, cast

from batchata_prefect.content.citations.dates import Day

Need: TypeAlias = Literal["", "name", "row", "score", "share"]


class Number(NamedTuple):
    """One reading of a number from `start` to before `end` of a text.

    Attributes:
        value: What it may stand for.
        need: What must stand beside it: nothing; the field's name; further values of its table
            row, where spaces part columns or thousands; the name of a field with a scale, as for
            `4.5/5`; or another field of the same value.
        in_date: Whether it is a part of a date.
        percent: Whether a percent sign follows.
        rare: Whether it is usually read in another way, by its separators, zeros or scale.
    """

    start: int
    end: int
    value: Decimal
    need: Need = ""
    in_date: bool = False
    percent: bool = False
    rare: bool = False


_PLAIN = str.maketrans(
    dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')
    | dict.fromkeys("\u2018\u2019\u201a`", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys([0x200B, 0x2060, 0xFEFF, *range(0x200E, 0x2010), *range(0x202A, 0x202F)])
    | {"\r": "\n", "\u066b": ".", "\u066c": "'", "\u066a": "%", "\u060c": ","}
    | {chr(zero + n): str(n) for zero in (0x660, 0x6F0, 0x966, 0x9E6, 0xE50) for n in range(10)}
)
"""Quotes, dashes, the minus sign and digits in their plain form; invisible characters left out."""
_LINE_END_HYPHEN = re.compile(r"[\u00ad\x02]\s*")
"""Anthropic writes U+0002 in the cited text of a PDF where a word goes on in the next line."""
_RAISED = re.compile(r"(?<=\d)[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]")
_FRACTION = re.compile(r"(?<!\d)(\d*) ?([\u00bc-\u00be\u2150-\u215e])")
_HARD_SPACE_IN_NUMBER = re.compile(r"(?<=\d)[\u00a0\u202f\u2009\u2007](?=\d{3}(?!\d))")
_SPACES = re.compile(r"[^\S\n]+")


def normal(text: str) -> str:
    """The text in one spelling: NFKC, no case, plain quotes, dashes and spaces; lines kept.

    Hard spaces inside of a number become apostrophes, the one separator with no other meaning.
    """
    text = _LINE_END_HYPHEN.sub("", text).replace("\r\n", "\n")
    if text.isascii():
        return _SPACES.sub(" ", text).casefold().replace("\r", "\n").replace("`", "'")
    # Else 1\u00bd were 11/2, and 10\u00b2 were 102.
    text = _RAISED.sub("^", text)
    text = _FRACTION.sub(lambda m: (m[1] or "0") + f"{unicodedata.numeric(m[2]):.4g}"[1:], text)
    text = unicodedata.normalize("NFKC", _HARD_SPACE_IN_NUMBER.sub("'", text).translate(_PLAIN))
    return _SPACES.sub(" ", text).casefold()


_CURRENCY_CODES = (
    "usd eur gbp jpy chf cny rmb inr aud cad nzd sek nok dkk pln czk huf ron brl mxn zar try krw "
    "sgd hkd ils aed sar us r rs kr zł lei fr"
)
_CURRENCY = frozenset(_CURRENCY_CODES.split())
_SIGNS = "$€£¥₹₩₽₺₪฿¢"
_CURRENCY_BEFORE = re.compile(rf"(?:[{_SIGNS}]|\b(?:{'|'.join(_CURRENCY)}))\s*$")
_CURRENCY_AFTER = re.compile(rf"\s?(?:[{_SIGNS}]|(?:{'|'.join(_CURRENCY)})\b)")
_UNIT_WORDS = (
    "st nd rd th er kg g mg t lb lbs oz km m cm mm mi ft in yd l ml cl dl gal h hr hrs min mins s "
    "sec secs ms d day days w wk wks week weeks mo mos month months y yr yrs year years x pc pcs "
    "kb mb gb tb kwh mwh kw mw w v ha sqm sqft pt px ppm bps c f k"
)
_UNITS = frozenset(_UNIT_WORDS.split())
_SCALES: dict[str, int] = {
    "k": 3, "tsd": 3, "thousand": 3, "hundred": 2, "m": 6, "mm": 6, "mn": 6, "mio": 6, "mln": 6,
    "million": 6, "millions": 6, "millionen": 6, "b": 9, "bn": 9, "mrd": 9, "billion": 9,
    "billions": 9, "milliarden": 9, "tn": 12, "trillion": 12, "lakh": 5, "crore": 7, "万": 4,
    "億": 8, "亿": 8,
}  # fmt: skip
_SCALE_INITIALS = frozenset(word[0] for word in _SCALES)
_PERCENT = re.compile(r" ?(?:[%‰]|percent\b|per cent\b|pct\b|prozent\b|pour cent\b|por ciento\b)")
_CORE = re.compile(r"\d+(?:[.,']\d+)*")
_CHAIN = re.compile(r"(?<![\w.,])(\d+)-(\d+)((?:-\d+)*)(?!\w)")
_CODE = re.compile(
    r"(?<!\w)(?:\+\d[\d ()./-]{6,}\d|[a-z]{2}\d\d(?: [\da-z]{4}){2,}(?: [\da-z]{1,4})?"
    r"|(?!(?:19|20)\d\d )\d{4}(?:[ -]\d{4}){2,})(?!\w)"
)
"""Telephone, bank account and card numbers, whose groups are no numbers."""
_MASKED = re.compile(
    r"(?:\*{3,}|[•●∙#]{2,}|(?<!\w)x{2,}|(?<!\.)\.{3}|\b(?:ending|ends)(?: in| with)?)[ -]?$"
)
_SHOWN_BEHIND_MASK = "*•●∙#x. -"
_SPACED = re.compile(r"(?<![\w.,'])\d{1,3}(?: \d{3})+(?:[.,]\d{1,2})?(?!\w)(?![.,']\d)")
_BOUND = re.compile(r"(?:(?<!\w)[<>≤≥~]|up to|at (?:least|most)|(?:more|less) than|between) ?\W?$")
_RANGE = re.compile(r"^\d-\d|\d-\d$")
_FACTOR = re.compile(r"\^| \d/\d{1,2}(?![\d/])| ?[x*\u00d7] ?10\^")
"""What makes digits a part of a power or of a fraction with a whole, such as 1 1/2."""
_WORD_AFTER = re.compile(r" ?([^\W\d_]+)\b")
_TOKEN = re.compile(r"[^\W_]+")
_TIED = re.compile(r"[^\W\d_][\w/-]*$")
_LETTERS_BEFORE = re.compile(r"[^\W\d_]+$")
_TELLING = frozenset(" :/_.@-^abcdefghijklmnopqrstuvwxyz円元年月日個万億亿원")
"""Characters behind digits that may change what they stand for."""
_BEFORE_SIGN = frozenset("-( " + _SIGNS)
_PLUS = [(1, True)]
_MINUS = [(-1, True)]
_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_TENS = ["thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS = {word: value for value, word in enumerate(_COUNTED.split())} | {
    word: 10 * value for value, word in enumerate(_TENS, 3)
}
_LARGE_WORDS = ("hundred", "thousand", "million", "billion")
_ANY_WORD = "|".join([*_NUMBER_WORDS, *_LARGE_WORDS])
_NUMBER_WORD = re.compile(
    rf"\b(?:(?:minus|negative) )?((?:{_ANY_WORD})\b(?:[ -](?:and )?(?:{_ANY_WORD})\b)*)(?! and a )"
)
_SPELLED = frozenset([*_NUMBER_WORDS, *_LARGE_WORDS])
_ROW, _NEVER, _DATE = 1, 2, 3


def numbers(text: str, dates: Sequence[Day]) -> list[Number]:
    """All readings of all numbers in a `normal` text.

    Args:
        text: The text.
        dates: The dates in it, whose parts are no numbers of their own.
    """
    found: list[Number] = []
    marks = bytearray(len(text))
    codes = [match.span() for match in _CODE.finditer(text)]
    codes += [match.span() for match in _CHAIN.finditer(text) if not _is_range(match)]
    for start, end in codes:
        marks[start:end] = bytes([_NEVER]) * (end - start)
    for match in _SPACED.finditer(text) if " " in text else ():
        start, end = match.span()
        if marks[start] != _NEVER:
            mark = _NEVER if _is_money(text, start, end) else _ROW
            marks[start:end] = bytes([mark]) * (end - start)
            found += _readings(text, start, end, match[0].replace(" ", ""), 0)
    for day in dates:
        if day.year is not None:
            marks[day.start : day.end] = bytes([_DATE]) * (day.end - day.start)
            found.append(Number(day.start, day.end, Decimal(day.year), in_date=True))
    for match in _CORE.finditer(text):
        mark = marks[match.start()]
        if mark != _NEVER:
            found += _readings(text, match.start(), match.end(), match[0], mark)
    for match in _NUMBER_WORD.finditer(text):
        value = _spelled_number(match[1])
        if value is not None:
            sign = 1 if match.start() == match.start(1) else -1
            found.append(Number(match.start(1), match.end(), Decimal(sign * value), "name"))
    return found


def _is_range(match: re.Match[str]) -> bool:
    """Whether two numbers with a dash between are a range, and no identifier such as 2024-001."""
    first, last = match[1], match[2]
    if match[3] or last[0] == "0" or len(first + last) > 30 or int(first) >= int(last):
        return False
    # Seven digits are a telephone number, unless they are round.
    return (len(first), len(last)) != (3, 4) or first[-1] == last[-1] == "0"


def _spelled_number(words: str) -> int | None:
    """The value of one or two number words, such as twenty-five; None of longer ones."""
    first, *more = (_NUMBER_WORDS.get(word) for word in re.split(r"[ -]", words))
    if first is None or not more:
        return first
    unit = more[0] if len(more) == 1 else None
    return first + unit if unit and unit < 10 and first >= 20 else None


def _is_money(text: str, start: int, end: int) -> bool:
    before = _CURRENCY_BEFORE.search(text[max(0, start - 6) : start])
    return before is not None or _CURRENCY_AFTER.match(text, end) is not None


def _readings(text: str, start: int, end: int, core: str, mark: int) -> Iterator[Number]:
    """The readings of the digits at `start`, written `core` without spaces."""
    before = text[start - 1] if start else " "
    alone = before in " \n" or _stands_alone(text, start, before)
    if not alone or is_masked(text, start):
        return
    after = text[end] if end < len(text) else " "
    scale, need = 0, "row" if mark == _ROW else ""
    if after in _TELLING:
        told = _after(text, end, after)
        if told is None:
            return
        scale, end, scored = told
        need = "score" if scored else need
    percent = after in " %p‰" and _PERCENT.match(text, end) is not None
    part = 1000 if percent and "‰" in text[end : end + 2] else 100
    # So many thousandths are not the value itself.
    odd = scale > 0 or part > 100 or _is_bound(text, start, end)
    for value, usual in _values(text, start, before, core):
        for sign, sure in _signs(text, start, end, before, after):
            this_need = cast(Need, need or ("" if usual and sure else "name"))
            rare = odd or not (usual and sure)
            one = Number(start, end, sign * value, this_need, mark == _DATE, percent, rare)
            yield one
            yield from _scaled(one, part if percent else 0, scale, usual=usual)


def _scaled(one: Number, part: int, scale: int, *, usual: bool) -> Iterator[Number]:
    """What a number stands for with its percent sign, or with the word of a scale behind it."""
    if part:
        yield one._replace(value=one.value / part, rare=False)
    if scale:
        yield one._replace(value=one.value * 10**scale, rare=not usual)


def _is_bound(text: str, start: int, end: int) -> bool:
    """Whether a number is one end of a range, or as `at least 5` says no more than a bound."""
    return (
        _RANGE.search(text[max(0, start - 2) : end + 2]) is not None
        or _BOUND.search(text[max(0, start - 14) : start]) is not None
    )


def is_masked(text: str, start: int) -> bool:
    """Whether the digits at `start` are the visible end of a masked number, as in `**** 1234`."""
    return (
        start > 1
        and text[start - 1] in _SHOWN_BEHIND_MASK
        and _MASKED.search(text[max(0, start - 14) : start]) is not None
    )


def _values(text: str, start: int, before: str, core: str) -> list[tuple[Decimal, bool]]:
    """The values that digits may stand for, and whether each is the usual one."""
    if not core.isdigit():
        return _grouped(core)
    if before == "." and (start < 2 or text[start - 2] in " \n(" + _SIGNS):
        return [(Decimal(f"0.{core}"), True)]
    return [(Decimal(core), core[0] != "0" or core == "0")]


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
    # 10,000 is never ten.
    if fraction and last != "'" and not (values and not tail.strip("0")):
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
    if before in "$(=<>~\"'#*|[+•●∙":
        return True
    if before.isalpha():
        code = _LETTERS_BEFORE.search(text[max(0, start - 6) : start])
        return ord(before) > 0x2E80 or (code is not None and code[0] in _CURRENCY)
    further = text[start - 2] if start > 1 else " "
    if before in "-/_":
        # Dashes tie the digits to letters before them, as in `inv-2024-001`.
        tied = before != "-" or _TIED.search(text[max(0, start - 40) : start])
        return not (further.isalnum() and tied)
    return not (before in ".,:" and further.isdigit())


def _after(text: str, end: int, after: str) -> tuple[int, int, bool] | None:
    """The scale as a power of ten, the end with it, and whether a slash and its most follow.

    None where the digits go on as an identifier, a time, an address or a word.
    """
    further = text[end + 1] if end + 1 < len(text) else " "
    if (after in "x^" or further in "x*\u00d70123456789") and _FACTOR.match(text, end):
        return None
    if after in ".@":
        return (0, end, False) if after == "." and not further.isalpha() else None
    if after in ":/_":
        scored = after == "/"
        return None if further.isdigit() and not scored else (0, end, further.isdigit())
    if after == "-":
        return None if _is_code(text, end + 1) else (0, end, False)
    if after == " " and further not in _SCALE_INITIALS:
        return 0, end, False
    if ord(after) > 0x2E80:
        return _SCALES.get(after, 0), end, False
    return _word_after(text, end, after)


def _is_code(text: str, start: int) -> bool:
    """Whether what follows a dash makes an identifier of the digits before it, as in `7-b2`."""
    token = _TOKEN.match(text, start)
    word = "" if token is None else token[0]
    return word.isalnum() and not word.isdigit() and (len(word) == 1 or not word.isalpha())


def _word_after(text: str, end: int, after: str) -> tuple[int, int, bool] | None:
    """The same as `_after` for a word: a scale, a unit, or what the digits are a part of."""
    match = _WORD_AFTER.match(text, end)
    word = "" if match is None else match[1]
    if match is not None and word in _SCALES and (after != " " or len(word) > 1):
        return _SCALES[word], match.end(), False
    known = after == " " or word in _UNITS or word in _CURRENCY
    return (0, end, False) if known else None


def _signs(text: str, start: int, end: int, before: str, after: str) -> list[tuple[int, bool]]:
    if before not in _BEFORE_SIGN and after != "-":
        return _PLUS
    if text.endswith(("minus ", "negative "), max(0, start - 9), start):
        return _MINUS
    lead = text[max(0, start - 24) : start].rstrip(_SIGNS)
    if lead.endswith("-"):
        return _MINUS if not lead[-2:-1].isalnum() else _PLUS
    closing = text[end : end + 3].lstrip(_SIGNS + " ")
    if lead.endswith("(") and closing.startswith(")"):
        word = _WORD_AFTER.match(text, text.index(")", end) + 1)
        # `two (2) items` repeats a number, and nothing is owed.
        spelled = any(word in _SPELLED for word in _TOKEN.findall(lead))
        counted = word is not None and word[1] not in _CURRENCY and word[1] not in _SCALES
        return _PLUS if spelled or counted else [(-1, True), (1, False)]
    if after == "-" and not text[end + 1 : end + 2].isalnum():
        return [(-1, True), (1, False)]
    return _PLUS
