"""What an API is known to refuse, found before anything is paid.

A batch takes any body, and the row comes back hours later as an error. Tables say what belongs to
which endpoint: what is another's is refused with its name here. Parameters that nobody knows go
out, and so does all of it for models of other names: an API may be newer than this package, and a
compatible server takes more.

Sources: anthropic/types/message_create_params.py and *_block_param.py (2.12.0); openai/types/chat
and types/responses *_param.py (3.54.0); platform.claude.com: vision, prompt-caching,
extended-thinking; developers.openai.com: guides/images-vision, file-inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from batchata_prefect.content.documents import Document
from batchata_prefect.models import Job, Message
from batchata_prefect.providers.rendering import Draft, fault, is_empty

MESSAGES, CHAT, RESPONSES = "/v1/messages", "/v1/chat/completions", "/v1/responses"

PARTS = {
    MESSAGES: frozenset(
        [
            "text",
            "image",
            "document",
            "search_result",
            "thinking",
            "redacted_thinking",
            "tool_use",
            "tool_result",
            "server_tool_use",
            "web_search_tool_result",
            "web_fetch_tool_result",
            "code_execution_tool_result",
            "bash_code_execution_tool_result",
            "text_editor_code_execution_tool_result",
            "tool_search_tool_result",
            "container_upload",
            "mcp_tool_use",
            "mcp_tool_result",
            "compaction",
        ]
    ),
    CHAT: frozenset(["text", "image_url", "input_audio", "file", "refusal"]),
    RESPONSES: frozenset(
        ["input_text", "input_image", "input_file", "input_audio", "output_text", "refusal"]
    ),
}
"""Types of the parts of a message's content."""

_SAME = (
    {MESSAGES: "text", CHAT: "text", RESPONSES: "input_text"},
    {MESSAGES: "image", CHAT: "image_url", RESPONSES: "input_image"},
    {MESSAGES: "document", CHAT: "file", RESPONSES: "input_file"},
)
"""What is the same in other words."""

_SDK = {
    "extra_body": "give its fields to the job itself",
    "extra_query": "leave it out: a request in a batch has no address of its own",
    "extra_headers": "headers belong to the client and not to a job; leave it out",
    "betas": "what is in beta is asked for by the client's headers and not by a job; leave it out",
    "timeout": "a batch takes up to 24 hours; limit the run with add_time_limit(hours=...)",
    "max_retries": "the run sends again what may be sent again; see max_attempts",
    "api_key": "keys come from the environment or from a block of credentials",
    "base_url": "name the address in an account, or set the SDK's own variable for it",
}
"""Arguments of an SDK's call that are no part of a request, and the place where they belong."""


class Images(NamedTuple):
    """What is documented of images in a request.

    Attributes:
        side: Pixels on a side at most; 0 where nothing is said.
        many: Images from which on `side_of_many` holds; 0 for never.
        side_of_many: Pixels on a side where there are many.
        letters: Letters of one image's base64.
        total_bytes: Bytes of all images of a request; 0 where nothing is said.
    """

    side: int = 0
    many: int = 0
    side_of_many: int = 0
    letters: int = 0
    total_bytes: int = 0


def foreign(draft: Draft, params: dict[str, Any], endpoint: str, others: Mapping[str, str]) -> None:
    """Leave out, or refuse, parameters of other endpoints and of the SDKs.

    Args:
        draft: The request.
        params: Its parameters.
        endpoint: Where it goes.
        others: Parameters of other endpoints, and what is given here in their place.
    """
    for name, place in _SDK.items():
        if name in params:
            told = f"{name} is an argument of the SDK and no part of a request"
            raise fault(draft.job, f"{told}: {others.get(name, place)}")
    for name, instead in others.items():
        draft.drop(params, (name,), f"{endpoint} does not know it; {instead}")


def check_part(job: Job, part: Any, role: str, endpoint: str, *, is_known: bool) -> None:
    """Refuse a part of another endpoint's, and a text without a letter.

    Args:
        job: The job.
        part: The part of a message's content.
        role: The role of the message.
        endpoint: Where it goes.
        is_known: Whether the model is the endpoint's own; what another server takes is not for us
            to say.
    """
    kind = cast("Message", part).get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise fault(job, f"part of a message is no block with a type: {part!r:.80}")
    if is_known and kind not in PARTS[endpoint] and any(kind in each for each in PARTS.values()):
        same = next((each[endpoint] for each in _SAME if kind in each.values()), None)
        instead = f"give a part of type {same!r}" if same else "leave it out"
        raise fault(job, f"{endpoint} knows no part of type {kind!r}; {instead}")
    if is_known and kind not in PARTS[endpoint] and role == "user":
        known = ", ".join(sorted(PARTS[endpoint]))
        raise fault(job, f"{endpoint} knows no part of type {kind!r}; it knows {known}")
    text = cast("Message", part).get("text")
    if kind in {"text", "input_text"} and role != "tool" and isinstance(text, str):
        check_text(job, text, f"a message of role {role!r}")


def check_text(job: Job, text: str, where: str) -> None:
    """Refuse a text block that is empty or white space."""
    if is_empty(text):
        raise fault(job, f"{where} has a text block without a text; leave it out")


def check_tool_choice(job: Job, params: Mapping[str, Any], endpoint: str) -> None:
    """Refuse what only goes together with tools where there are none.

    Responses take `auto` and `none` without tools.
    """
    if params.get("tools"):
        return
    choice = params.get("tool_choice")
    if choice is None or (endpoint == RESPONSES and choice in ("auto", "none")):
        return
    raise fault(job, "it has tool_choice and no tools; give tools, or leave it out")


def check_images(job: Job, images: Sequence[Document], limits: Images, most: int) -> None:
    """Refuse images past what is documented: their number, bytes and pixels."""
    if len(images) > most:
        raise fault(
            job,
            f"it has {len(images):,} images and {job.model!r} takes {most} in a request; split "
            "them over several jobs",
        )
    total = sum(len(image.data) for image in images)
    if limits.total_bytes and total > limits.total_bytes:
        raise fault(
            job,
            f"its images have {total:,} bytes and {limits.total_bytes:,} are taken in a request; "
            "make them smaller, or split them over several jobs",
        )
    is_many = limits.many and len(images) > limits.many
    side = limits.side_of_many if is_many else limits.side
    for image in images:
        if side and max(image.width or 0, image.height or 0) > side:
            among = f" where there are more than {limits.many} images" if is_many else ""
            raise fault(
                job,
                f"file {image.name!r} is {image.width} x {image.height} pixels and "
                f"{side:,} on a side are taken{among}; make it smaller",
            )
        if limits.letters and (letters := (len(image.data) + 2) // 3 * 4) > limits.letters:
            raise fault(
                job,
                f"file {image.name!r} has {letters:,} bytes as base64 and {limits.letters:,} are "
                "taken for an image; make it smaller",
            )
