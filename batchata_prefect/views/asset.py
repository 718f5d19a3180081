"""The results of a run as an asset of Prefect, so that its lineage shows them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from prefect import get_run_logger
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from batchata_prefect.errors import one_line
from batchata_prefect.views.report.words import summary

_LONGEST = 480
_REFUSED = re.compile(r"[^\w./:@~+,=()-]", re.ASCII)
"""Wider than what Prefect refuses in a key [`prefect.types.names`]."""


def asset_key(place: str) -> str:
    """The key of the results at a path or a URL, such as `s3://bucket/out/results.jsonl`.

    Prefect takes neither a space nor a percent sign in it, and 512 characters: what is replaced or
    left out is told apart by a digest. A password in a URL is left out.
    """
    if "://" in place:
        parts = urlsplit(place)
        netloc = parts.netloc.rpartition("@")[2]
        plain = f"{parts.scheme.lower()}://{netloc}{parts.path}"
    else:
        plain = f"file://{Path(place).absolute().as_posix()}"
    scheme, _, rest = plain.partition("://")
    key = f"{re.sub('[^a-z0-9]', '', scheme)}://{_REFUSED.sub('_', rest)}"
    if key == plain and len(key) <= _LONGEST:
        return key
    digest = hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{key[:_LONGEST]}~{digest}"


async def materialized(manifest: Mapping[str, Any], results: str) -> None:
    """Tell Prefect that the results were made, in a task of their own; a failure is a warning.

    Without an answer they are no new version of the results, and nothing is told.

    Args:
        manifest: What the run came to.
        results: Path or URL of its results.
    """
    counts = manifest["counts"]
    if not counts["completed"]:
        return
    try:
        name = f"{PurePath(results).parent.name} results"
        asset = Asset(key=asset_key(results), properties=AssetProperties(name=name))
        metadata = {
            "rows": counts["total"],
            "answered": counts["completed"],
            "failed": counts["failed"],
            "cancelled": counts["cancelled"],
            "cost_usd": manifest["cost_usd"],
            "run_key": manifest["run_key"],
        }

        @materialize(
            asset,
            by="batchata",
            name="results",
            task_run_name="results",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,
        )
        async def tell() -> State[Any]:
            asset.add_metadata(metadata)
            return Completed(message=f"{summary(manifest)}; see {results}", data=results)

        await tell()
    except Exception as error:
        get_run_logger().warning("the results are no asset in Prefect (%s)", one_line(error))
