"""How servers that speak OpenAI's Files and Batches differ from it, each way under a name.

Sources: ogx 1.5.0 (`providers/inline/batches/reference`), aibrix 0.8.0 (`metadata/api/v1`),
doublewordai/control-layer (`dwctl/src/api/handlers/batches.rs`), novita.ai (`docs/guides`), and
what of the API a server may leave out.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import orjson

from .store import Batch
from .wire import Json, RefusedError

OPEN_WORDS = {
    "validating": "scheduling",
    "in_progress": "running",
    "finalizing": "uploading",
    "cancelling": "stopping",
}
"""`words`: AIBrix has `scheduling`; the others are nobody's, and as good."""

WAYS = {
    "words": "the status of an open batch is a word of its own",
    "capitals": "the status is in capitals",
    "no_counts": "request_counts is null",
    "no_times": "no time is told, neither of the creation nor of the expiry",
    "zero_times": "a time that is not told is 0, and none is told",
    "no_metadata": "metadata is dropped",
    "no_names": "files have names of the server's own",
    "no_file": "a file's object is not given, only what is in it",
    "no_content": "what is in a file that was uploaded is not given",
    "no_delete": "files are not deleted",
    "no_file_list": "files are not listed",
    "no_list": "batches are not listed",
    "oldest_first": "the oldest batches come first",
    "any_order": "batches come in any order",
    "no_filters": "a list is whole, whatever was asked for, and does not say that it is",
    "own_page": "a list has two batches a page, and does not say whether there are more",
    "window": "the completion window is told in another way",
    "numbers": "ids of files and batches are numbers",
    "no_ids": "rows have no ids of their own",
    "text_body": "the body in a row is JSON in a text",
    "one_file": "all rows are in the file of answers",
    "same_file": "so they are, and it is told as the file of errors as well",
    "empty_file": "both files are there, also where one of them has no rows",
    "failed": "a batch is told as failed where one of its rows did",
}


def offered(ways: Collection[str], way: str, path: str) -> None:
    """Refuse a call that a server of these ways does not take."""
    if way in ways:
        # FastAPI's words, of a path that takes other methods.
        raise RefusedError("Method Not Allowed", status=405 if "file" in path else 404)


def bent_batch(body: Json, ways: Collection[str], *, failed_rows: bool) -> Json:
    """A batch as a server of these ways shows it."""
    if "failed" in ways and failed_rows and body["status"] == "completed":
        body.update(status="failed", failed_at=body["completed_at"], completed_at=None)
    if "words" in ways:
        body["status"] = OPEN_WORDS.get(body["status"], body["status"])
    if "capitals" in ways:
        body["status"] = body["status"].upper()
    if "no_counts" in ways:
        body["request_counts"] = None
    if "no_times" in ways:
        for name in [name for name in body if name.endswith("_at")]:
            # What has no time is told by some as null, and by some not at all.
            body[name] = None
            if name in ("created_at", "expires_at"):
                del body[name]
    if "zero_times" in ways:
        body.update({name: 0 for name in body if name.endswith("_at")})
    if "no_metadata" in ways:
        del body["metadata"]
    if "window" in ways:
        body["completion_window"] = "86400s"
    if "same_file" in ways:
        body["error_file_id"] = body["output_file_id"]
    if "numbers" in ways:
        for name in ("id", "input_file_id", "output_file_id", "error_file_id"):
            body[name] = number(body[name])
    return body


def bent_file(body: Json, ways: Collection[str]) -> Json:
    """A file as a server of these ways shows it."""
    if "no_names" in ways:
        body["filename"] = f"upload-{body['id']}"
    if "numbers" in ways:
        body["id"] = number(body["id"])
    return body


def bent_row(row: Json, ways: Collection[str]) -> Json:
    """A result row as a server of these ways writes it."""
    response = row["response"]
    if "no_ids" in ways:
        row["id"] = None
        if response is not None:
            del response["request_id"]
    if "text_body" in ways and response is not None:
        response["body"] = orjson.dumps(response["body"]).decode()
    return row


def new_number() -> str:
    """An id of digits alone, as long as one that JSON's readers hold exactly."""
    return str(uuid.uuid4().int % 10**15)


def number(given: str | None) -> Any:
    """An id that is digits alone as a number."""
    return int(given) if given is not None and given.isdigit() else given


def shown_order(batches: list[Batch], ways: Collection[str]) -> Sequence[Batch]:
    """The batches of a list, newest first, in the server's order."""
    if "oldest_first" in ways:
        return batches[::-1]
    if "any_order" in ways:
        # By its id, as where they are kept under it: the same each time.
        return sorted(batches, key=lambda batch: random.Random(batch.id).random())  # noqa: S311
    return batches
