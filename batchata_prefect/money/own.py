"""The user's own prices: a mapping, or a JSON or TOML file of the same keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias, cast

from batchata_prefect.errors import ValidationError
from batchata_prefect.files import read_table
from batchata_prefect.money.tariffs import Rates, Tariff, flat

Prices: TypeAlias = "Mapping[str, Mapping[str, Any]] | str | os.PathLike[str]"
"""Prices by model id, or the path of a JSON or TOML file that holds them."""

_REALTIME = "realtime"
_FEES = "fees"
_MILLION, _THOUSAND = "million tokens", "thousand uses"
_MOST_RATE = 10**9
_KEYS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")


def own_tariffs(prices: Prices | None) -> dict[tuple[str, bool], Tariff]:
    """Tariffs by model id, and whether they are those of the realtime API.

    Raises:
        ValidationError: A table or a price is wrong, or the file cannot be read; the text names
            the file, the model and the key.
    """
    if prices is None:
        return {}
    if isinstance(prices, (str, os.PathLike)):
        return _tariffs("", read_prices(prices))
    if not isinstance(cast("object", prices), Mapping):
        raise ValidationError(
            f"prices must be a table by model id or the path of a price file, not {prices!r}"
        )
    return _tariffs("", prices)


def read_prices(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Prices out of a JSON or TOML file, by model id, checked; no digit is rounded.

    Raises:
        ValidationError: The file cannot be read, names a model or a key twice, or holds a wrong
            table or price.
    """
    tables = read_table("price file", path, f"model ids to tables of {', '.join(_KEYS)}")
    _tariffs(f"price file {os.fspath(path)!r}: ", tables)
    return tables


def _tariffs(where: str, tables: Mapping[str, Any]) -> dict[tuple[str, bool], Tariff]:
    found: dict[tuple[str, bool], Tariff] = {}
    for model, table in tables.items():
        given: Any = table
        if isinstance(given, Mapping) and _REALTIME in given:
            given = dict(cast("Mapping[str, Any]", given))
            realtime = given.pop(_REALTIME)
            found[model, True] = _tariff(f"{where}realtime ", model, realtime)
        found[model, False] = _tariff(where, model, given)
    return found


def _tariff(where: str, model: Any, prices: Any) -> Tariff:
    if not isinstance(prices, Mapping):
        raise ValidationError(f"{where}prices of {model!r} must be a table, not {prices!r}")
    table = dict(cast("Mapping[str, Any]", prices))
    fees = table.pop(_FEES, {})
    if not isinstance(fees, Mapping):
        raise ValidationError(
            f"{where}{_FEES} of {model!r} must be a table of USD per thousand uses, not {fees!r}"
        )
    unknown = sorted(str(key) for key in set(table) - set(_KEYS))
    if unknown or "input" not in table or "output" not in table:
        # In TOML an unquoted [gpt-5.4] is a table "4" in a table "gpt-5".
        nested = [f"{model}.{key}" for key in unknown if isinstance(table.get(key), Mapping)]
        hint = f"; a model id with a dot needs quotes in TOML: [{nested[0]!r}]" if nested else ""
        raise ValidationError(
            f"{where}prices of {model!r} must hold 'input' and 'output', and may hold "
            f"'cache_read', 'cache_write', 'cache_write_1h' and {_FEES!r}; they hold "
            f"{sorted(str(key) for key in table)}{hint}"
        )
    rates = {key: _rate(where, model, key, value) for key, value in table.items()}
    write = rates.get("cache_write", rates["input"])
    return flat(
        Rates(
            input=rates["input"],
            cache_read=rates.get("cache_read", rates["input"]),
            cache_write=write,
            cache_write_1h=rates.get("cache_write_1h", write),
            output=rates["output"],
        ),
        {
            str(name): _rate(where, model, f"{_FEES}.{name}", price, _THOUSAND) / 1000
            for name, price in cast("Mapping[Any, Any]", fees).items()
        },
    )


def _rate(where: str, model: Any, key: str, value: Any, unit: str = _MILLION) -> Decimal:
    try:
        rate = Decimal(str(value))
    except InvalidOperation:
        rate = Decimal("NaN")
    if not rate.is_finite() or not 0 <= rate <= _MOST_RATE:
        raise ValidationError(
            f"{where}price {key!r} of {model!r} must be USD per {unit}, not {value!r}"
        )
    return rate
