"""The numbers that a run is told, checked before anything is sent; and how people read numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from operator import index
from typing import Annotated, Any, TypeAlias

from pydantic_core import core_schema

from batchata_prefect.errors import ValidationError

MOST_WHOLE = 2**53 - 1
"""The largest whole number that every reader of JSON gives back as it was."""

MOST_USD = Decimal(10**12)
"""An amount of more is a slip; and sums of it with a millionth of a cent would be rounded."""


class NumberError(ValidationError):
    """A number that is none, or makes no sense where it stands; nothing was sent."""


def whole(name: str, value: Any, *, least: int = 0, most: int = MOST_WHOLE) -> int:
    """A whole number.

    Args:
        name: What a person calls it.
        value: What was given; `5.0` and `True` are no whole numbers.
        least: The smallest that makes sense.
        most: The largest.

    Raises:
        NumberError: It is none, or not between these.
    """
    try:
        found = index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise NumberError(f"{name} must be a whole number, not {value!r}")
    if found < least:
        raise NumberError(f"{name} must be at least {least}, not {value!r}")
    if found > most:
        raise NumberError(f"{name} must be at most {most}, not {value!r:.60}")
    return found


def number(name: str, value: Any, *, least: float = 0.0, most: float = math.inf) -> float:
    """A finite number.

    Args:
        name: What a person calls it.
        value: What was given.
        least: The smallest that makes sense.
        most: The largest.

    Raises:
        NumberError: It is none, or not between these.
    """
    try:
        found = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise NumberError(f"{name} must be a finite number, not {value!r:.60}")
    if found < least:
        raise NumberError(f"{name} must be at least {least:g}, not {value!r}")
    if found > most:
        raise NumberError(f"{name} must be at most {most:g}, not {value!r}")
    return found


def usd(name: str, value: Any) -> Decimal:
    """An amount of USD above 0; a text such as `"2.50"` is one as well.

    Raises:
        NumberError: It is none, or more than `MOST_USD`.
    """
    try:
        found = Decimal("NaN") if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        found = Decimal("NaN")
    if found.is_nan():
        raise NumberError(f"{name} must be a number of USD, not {value!r}")
    if not 0 < found <= MOST_USD:
        raise NumberError(f"{name} must be positive and at most ${MOST_USD:,}, not {value!r:.60}")
    return found


def plain_usd(amount: Decimal | None) -> float | None:
    """An amount of USD as JSON has it, in results, manifests and callbacks; None stays unknown."""
    return None if amount is None else float(amount)


def told_usd(amount: Decimal | float | None, unknown: str = "an unknown amount") -> str:
    """An amount of USD for a person: four decimals, and more where the amount is small.

    An amount above 0 is never shown as nothing.
    """
    if amount is None:
        return unknown
    size = abs(amount)
    if not 0 < size < 0.01:
        return f"${amount:,.4f}"
    places = 3 - math.floor(math.log10(size))
    text = f"{amount:.{places}f}"
    # Digits beyond the fourth go where they are zeros.
    whole, _, part = text.partition(".")
    return f"${whole}.{part[:4]}{part[4:].rstrip('0')}"


def dollars(usd: float | None) -> str:
    """An amount of USD: cents from one cent on, four digits that count below; None is unknown."""
    if usd is None:
        return "unknown"
    if usd == 0 or abs(usd) >= 0.01:
        return f"${usd:,.2f}"
    return told_usd(usd)


def clock(seconds: float) -> str:
    """A duration as a person reads it: `0:07`, `12:03`, `1:02:03`, `2d 03:04:05`."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def counted(number: int, what: str) -> str:
    """How many there are of something, as `1 job` or `2,000 batches`."""
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what}{'es' if what.endswith('ch') else 's'}"


def short_count(count: int) -> str:
    """A large number in few letters: `950`, `12k`, `3.4M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            short = count / size
            return (
                f"{short:.1f}".removesuffix(".0") + letter if short < 10 else f"{short:.0f}{letter}"
            )
    return str(count)


def clock_time(at: datetime) -> str:
    """A moment as the person's own clock shows it, with the day where it is not today."""
    local = at.astimezone()
    is_today = local.date() == datetime.now(local.tzinfo).date()
    return f"{local:%H:%M}" if is_today else f"{local:%a %H:%M}"


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """Has pydantic check a number by one of the functions here, and show its bounds in a form."""

    check: Callable[..., Any]
    bounds: Mapping[str, Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """How pydantic checks and writes it."""

        def checked(value: Any, info: core_schema.ValidationInfo) -> Any:
            return self.check(info.field_name or "it", value, **self.bounds)

        def written(value: Any) -> Any:
            return float(value) if isinstance(value, Decimal) else value

        return core_schema.with_info_plain_validator_function(
            checked,
            serialization=core_schema.plain_serializer_function_ser_schema(
                written, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """What a form shows."""
        return dict(self.schema)


def whole_field(least: int = 0, most: int = MOST_WHOLE) -> Checked:
    """A whole number as the type of a field."""
    bounds = {"least": least, "most": most}
    schema = {"type": "integer", "minimum": least}
    return Checked(whole, bounds, schema if most == MOST_WHOLE else {**schema, "maximum": most})


def number_field(least: float = 0.0, most: float = math.inf) -> Checked:
    """A finite number as the type of a field."""
    bounds = {"least": least, "most": most}
    schema: dict[str, Any] = {"type": "number", "minimum": least}
    return Checked(number, bounds, schema if math.isinf(most) else {**schema, "maximum": most})


Count: TypeAlias = Annotated[int, whole_field(1)]
Usd: TypeAlias = Annotated[Decimal, Checked(usd, {}, {"type": "number", "exclusiveMinimum": 0})]
Seconds: TypeAlias = Annotated[float, number_field()]
