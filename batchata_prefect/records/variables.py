"""Small JSON values of ours at the Prefect server: Variables, which a person finds in the UI.

The requests are made by hand, because Prefect's own `Variable.set` looks first and writes then, and
its client has no way to find Variables by the head of their name.
"""

from __future__ import annotations

from typing import Any, cast

import orjson
from prefect.client.orchestration import get_client

_PAGE = 200


async def put(name: str, value: Any) -> None:
    """Write a Variable, in the place of the one that is there.

    Raises:
        Exception: Prefect does not answer; whether it was written is not known.
    """
    if await _call("PATCH", f"/variables/name/{name}", {"value": value}) is None:
        await _call("POST", "/variables/", {"name": name, "value": value, "tags": ["batchata"]})


async def get(name: str) -> dict[str, Any] | None:
    """A Variable with all that Prefect says of it; None where there is none.

    Raises:
        Exception: Prefect does not answer.
    """
    return await _call("GET", f"/variables/name/{name}")


async def drop(name: str) -> None:
    """Remove a Variable, if there is one.

    Raises:
        Exception: Prefect does not answer.
    """
    await _call("DELETE", f"/variables/name/{name}")


async def headed(head: str) -> list[dict[str, Any]]:
    """All Variables whose names begin alike; more than a page is read until it stays the same.

    A Variable that is deleted between two pages would hide another one.

    Raises:
        Exception: Prefect does not answer.
    """
    before: list[str] | None = None
    while True:
        found: list[dict[str, Any]] = []
        while True:
            asked = {
                "variables": {"name": {"like_": head}},
                "sort": "NAME_ASC",
                "limit": _PAGE,
                "offset": len(found),
            }
            page: list[dict[str, Any]] = await _call("POST", "/variables/filter", asked)
            found += page
            if len(page) < _PAGE:
                break
        names = [str(variable["name"]) for variable in found]
        if len(found) < _PAGE or names == before:
            # `like_` finds a name anywhere in another, and takes _ and % for any letter.
            return [each for each in found if str(each["name"]).startswith(head)]
        before = names


async def _call(method: str, path: str, body: Any = None) -> Any:
    """The JSON that Prefect's API answers; None for a 404."""
    async with get_client() as client:
        try:
            response: Any = await cast("Any", client).request(method, path, json=body)
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", None) == 404:
                return None
            raise
    return orjson.loads(response.content) if response.content else {}
