"""What the words around a value say of it: denied, not ticked, a neighbour's, or only a reference.

`Status: not approved`, `[x] yes [ ] no` and `Page 3` hold a value that they do not mean.
"""

from __future__ import annotations

import re

from batchata_prefect.content.citations.fields import Leaf, stem

_WORD = re.compile(r"[^\W\d_]+")
_PARTED = re.compile(r"[;\n]|(?<!incl)(?<!excl)[.?!] ")
_CLAUSE = re.compile(r"[;,?!\n]|[.:](?=\s|$)")
_YES = frozenset(["yes", "true", "ja", "oui", "sí", "si", "sim", "on", "checked", "included", "x"])
_DENIALS = "no not false nein nicht non não never without none nor cannot kein keine pas sans ohne"
NO = frozenset(_DENIALS.split())
_DOUBTS = "excluded declined denied refused rejected expired lapsed canceled n lack lacks excludes"
_DOUBTFUL = frozenset(_DOUBTS.split())
"""Words beside a name that say no in some texts, and in others of something else."""
_NOT_TOLD = "applicable available known stated specified provided yes no sure"
_UNTOLD = frozenset(_NOT_TOLD.split())
_BREAKING = "and but that it which who while he she they we if though"
_BREAKS = frozenset(_BREAKING.split())
"""Words behind which a denial says nothing of what follows."""
_FILLERS = frozenset(["is", "was", "are", "were", "be", "been", "has", "have", "had", "did", "do"])
_OF = r"(?: (?:history|evidence|signs?|known|any|absence)(?: of)?)*"
_DENIED = re.compile(
    r"(?:\b(?:not|never|non|cannot|neither|nor|without|nicht|keine?|pas|sans|ohne"
    rf"|no longer|denies|ruled out|negative for|free of)|n't){_OF}"
    r"(?: (?:yet|been|be|being|currently|fully|formally|is|was|an?|the|considered|to)){0,3}[ -]$"
)
_UNTRUE = re.compile(
    r"(?:~~|\b(?:to be|awaiting|pending|previously|formerly|except(?: for)?|excluding|other than"
    r"|rather than|instead of|all but|fail(?:s|ed) to) (?:be |an? |the )?)$"
)
_REFUTED = re.compile(r"\s?[?:=] ?(?:no|not|false|nein|none|non)\b")
_NO_BEFORE = re.compile(rf"\bno{_OF} $")

_TICKED, _CROSSED = "☑✓✔√■●◉", "☒⊠"
_BOX = re.compile(
    rf"[☐□○◯✗✘{_TICKED}{_CROSSED}]|\[[ x*_-]?\]|\([ x]?\)(?= ?\w)"
    r"|(?<!\w)(?:_+x?_+|x(?= (?:yes|no)\b))"
)
_OPTION_LINE = re.compile(
    r"\n(?= ?(?:[^\w\n]{1,2}|\[.?\] ?|\(.?\) ?)?\b(?:yes|no|ja|nein|oui|non)\b)"
)

_GROUPS = (
    "phone/fax mobile/fax cell/fax net/gross buyer/seller sender/recipient billing/shipping "
    "debit/credit start/end first/last previous/current minimum/maximum min/max income/expense "
    "profit/loss lender/borrower employer/employee arrival/departure old/new issued/due/expiry "
    "total/subtotal total/tax total/vat unit/total growth,increase,gain,rise,profit,up,rose,grew,"
    "change/fell,fall,decline,declined,decrease,decreased,dropped,drop,loss,down,shrank"
)
_rivals: dict[str, frozenset[str]] = {}
"""Name word -> words that name another thing of the same kind."""
for _group in _GROUPS.split():
    _sides = [[stem(word) for word in side.split(",")] for side in _group.split("/")]
    for _side in _sides:
        _others = frozenset(word for other in _sides if other is not _side for word in other)
        for _word in _side:
            _rivals[_word] = _rivals.get(_word, frozenset()) | _others
del _rivals["tax"], _rivals["vat"]
_BESIDES = frozenset(["incl", "including", "excl", "excluding", "after", "before", "plus"])
_FALLS = _rivals["growth"]
_CREDITS = ("discount", "credit", "refund", "rebate", "deduction", "loss", "adjustment", "expense")
_DEBIT_MARK = re.compile(r" ?(?:cr|dr|db)\b")

_NUMBERED = (
    "page section note see article chapter clause paragraph appendix annex exhibit version release "
    "invoice order contract policy account iban card fax phone mobile isbn postcode room suite "
    "floor apartment flat seat serial sku reference id number"
)
AMOUNTS = ("amount", "total", "price", "quantity", "count", "sum", "cost", "fee", "balance")
_REFERENCES = frozenset(_NUMBERED.split())
_REFERENCE = re.compile(
    r"([^\W\d_]+)\.?(?:[ -]?(?:no\b\.?|nr\b\.?|number|num\b|id\b|[#:]))* ?[#+(]?$"
)
_IDENTITY = ("id", "number", "reference", "code", "no", "serial", "key")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")


def is_against(leaf: Leaf, text: str, start: int, end: int) -> bool:
    """Whether the words around a value say that it is not this one's: denied, or not ticked."""
    before = text[max(0, start - 40) : start]
    if _DENIED.search(before):
        return True
    if leaf.is_text and (_UNTRUE.search(before) or _REFUTED.match(text, end)):
        return True
    if leaf.number is not None and _is_reference(leaf, text, start, end):
        return True
    if _NO_BEFORE.search(before) and not leaf.called(*_IDENTITY) and not text[start].isdigit():
        return True
    return _ticked(text, start, end, reach=20) is False


def _is_reference(leaf: Leaf, text: str, start: int, end: int) -> bool:
    """Whether a number is none but a name, as in `Page 3`, `Invoice 2024` or `3rd page`."""
    if _ORDINAL.match(text, end - 2 if text[end - 1].isalpha() else end) and leaf.plural:
        return True
    match = _REFERENCE.search(text[max(0, start - 30) : start])
    if match is None or not text[start:end].isdigit():
        return False
    word = stem(match[1])
    # The number of pages is not that of a page.
    if word == match[1] and word in leaf.plural and text[start - 1] != ":":
        return True
    if "#" in text[start - 2 : start] and leaf.called(*AMOUNTS) and not leaf.called(*_IDENTITY):
        return True
    after = _WORD.match(text, end + 1)
    known = leaf.texts or leaf.called(word, *_IDENTITY, stem(after[0]) if after else word)
    return not known and (word in _REFERENCES or "#" in text[start - 2 : start])


def is_neighbours(leaf: Leaf, text: str, start: int, end: int) -> bool:
    """Whether the nearest telling word names another field, as `Fax` does for a phone."""
    own = {word for label in leaf.labels for word in label}
    rivals = {rival for word in own for rival in _rivals.get(word, ())} - own
    if leaf.number is not None and leaf.number < 0:
        rivals -= _FALLS
    before = _PARTED.split(text[max(0, start - 40) : start].replace("sub-", "sub"))[-1]
    if leaf.number is not None or leaf.day is not None:
        # What stands before another number is that one's name.
        before = re.split(r"\d", before)[-1]
    words = ["", *map(stem, _WORD.findall(before))]
    for at in range(len(words) - 1, 0, -1):
        aside = words[at - 1] in _BESIDES
        if words[at] in rivals and not aside:
            # `Start and end` names both, and a total may have its tax included.
            return words[at - 1] != "and" and "included" not in words[at : at + 2]
        if words[at] in own and (aside or words[at] in _rivals):
            return aside
    after = re.match(r"[% ]{1,2}\(?([^\W\d_]+)(?! ?[:\d])", text[end : end + 20])
    return after is not None and stem(after[1]) in rivals


def is_owed(leaf: Leaf, text: str, start: int, end: int) -> bool:
    """Whether a negative amount may stand at a spot without its sign."""
    if leaf.called(*_CREDITS) or _DEBIT_MARK.match(text, end):
        return True
    return any(stem(word) in _FALLS for word in _WORD.findall(text[max(0, start - 25) : start]))


def _ticked(text: str, start: int, end: int, reach: int) -> bool | None:
    """Whether the box of an option is ticked; None where it has none."""
    first = max(text.rfind("\n", 0, start) + 1, start - 80)
    line = text[first : end + 80].partition("\n")[0]
    boxes = [(first + box.start(), first + box.end(), box[0]) for box in _BOX.finditer(line)]
    left = next((box for box in reversed(boxes) if start - reach <= box[1] <= start), None)
    right = next((box for box in boxes if end <= box[0] <= end + reach), None)
    if left and right:
        # Boxes stand before their options or behind: which, the ends of the line tell.
        lead = text[first : boxes[0][0]].rstrip(" [(")
        if lead and lead[-1] != ":":
            behind = not any(char.isalnum() for char in line[boxes[-1][1] - first :])
            if not behind and ":" in lead:
                return False
            left = None if behind else left
    box = left or right
    # A line to write on is a box only beside others.
    if box is None or (len(boxes) == 1 and not box[2].strip("_")):
        return None
    return _is_filled(box[2], line)


def _is_filled(box: str, line: str) -> bool:
    if box in _CROSSED:
        # It is the ticked one, unless another sign of its line says yes.
        return not any(sign in line for sign in _TICKED)
    return box in _TICKED or "x" in box or "*" in box


def said(text: str, start: int, end: int, own: set[str]) -> bool | str | None:
    """What the words around a field's name say: True, False, `unclear`, or nothing.

    `own` are the stems of the name's words.
    """
    after = _NUMBER_SIGN.sub("nr", text[end : end + 60])
    if not after.partition("\n")[0].strip(" :."):
        after = after.replace("\n", " ", 1)
    after = _OPTION_LINE.sub(" ", after)
    rest = re.split(r"[;\n]|[.] |[^\W\d_]{3,}:", after)[0]
    chosen = _chosen_option(text, end, rest)
    if chosen is None:
        chosen = _ticked(text, start, end, reach=3)
    if chosen is not None:
        return chosen
    lead = _CLAUSE.split(text[max(0, start - 60) : start].replace("n't", " not"))[-1]
    inner = [word for word in _WORD.findall(text[start:end]) if stem(word) not in own]
    words = [*_WORD.findall(lead), *inner]
    denials = [place for place, word in enumerate(words) if word in NO]
    answer = _answer(rest)
    if len(denials) > 1 or not _DOUBTFUL.isdisjoint(words):
        return "unclear"
    if not denials or answer is not None:
        return "unclear" if denials and answer is False else answer
    far = len(words) - denials[0] > 4 or not _BREAKS.isdisjoint(words[denials[0] :])
    # `[ ] not insured` says nothing.
    return "unclear" if far or _ticked(text, start, end, reach=12) is False else False


def _chosen_option(text: str, end: int, rest: str) -> bool | str | None:
    """Which of the options behind a name is ticked; None where it has none with boxes."""
    options = [word for word in _WORD.finditer(rest) if word[0] in _YES | NO and word[0] != "x"]
    if not options or not _BOX.search(rest):
        return None
    places = [(word[0] in _YES, end + word.start(), end + word.end()) for word in options]
    ticked = {yes for yes, *place in places if _ticked(text, *place, reach=20)}
    return ticked.pop() if len(ticked) == 1 else "unclear"


_NUMBER_SIGN = re.compile(r"\bno\b(?=[.:]? ?#?\d)")
_NO_OTHER = re.compile(r"[^:=|(,-]*?\b(?:no|without|keine?|sans|ohne) [^\W\d_]")


def _answer(rest: str) -> bool | str | None:
    words = _WORD.findall(rest.replace("n't", " not").replace("n/a", "n"))
    words = [word for word in words if word not in _FILLERS]
    for place, word in enumerate(words[:3]):
        if word in NO:
            # `Insured: no`, but not `the insured has no car`.
            aside = not _BREAKS.isdisjoint(words[:place]) or (place and "," in rest)
            of_other = _NO_OTHER.match(rest) and word not in ("not", "never")
            untold = not _UNTOLD.isdisjoint(words[place + 1 : place + 2])
            return "unclear" if aside or of_other or untold else False
        if word in _DOUBTFUL or (word in _YES and words[1:2] == ["no"] and "/" in rest):
            return "unclear"
        if word in _YES:
            return None if place else True
    return "unclear" if "?" in rest and not words else None
