"""Which bodies Gemini refuses, and how it answers the others: rows of result files.

Proto JSON is strict: a field that is not of the message is refused by its name, and each may be
written in lowerCamelCase or as in the proto. Sources: google/genai/types.py and batches.py (3.6.1);
ai.google.dev, api/generate-content, api/batch-mode; public reports of error texts.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import orjson

from .answers import fitting_text, json_answer, thought_tokens, wanted_text
from .content import (
    Document,
    FileReader,
    Marker,
    Prompt,
    UnreadablePdfError,
    decode_base64,
    image_tokens,
    image_type,
    pdf_pages,
    text_tokens,
)
from .faults import Limits
from .lines import Check, Problem, error
from .rows import Counted, Encoder, Outcome, Produced
from .schemas import google_schema_problem
from .shapes import (
    ANYTHING,
    NAMED,
    STRING,
    MisfitError,
    Shape,
    closed,
    fit,
    list_of,
    loose,
    one_of,
)
from .store import Batch, Bill, Store, StoredFile
from .wire import Json, Refusal, RefusedError, is_array, is_object, new_id, object_at

VERSIONS = ("/v1", "/v1beta")
MOST_OUTPUT_TOKENS = 65_536
_EXISTS = re.compile(r"gemini-[\w.-]+")
_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_SNAKE = re.compile(r"(?<!^)([A-Z])")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks of a model, under the names of the wire.

    `thinks` where the model counts thoughts; `call` is the function that it must call, if any.
    """

    id: str
    thinks: bool
    config: Json
    call: Json | None


def exists(model_id: str) -> bool:
    """Whether the sandbox says that there is such a model."""
    return bool(_EXISTS.fullmatch(model_id)) and "does-not-exist" not in model_id


def canonical(shape: Shape, value: Any) -> Any:
    """A message with its fields under the names of the wire, whichever of both it has."""
    if shape.kind == "list" and is_array(value):
        return [canonical(shape.items or ANYTHING, item) for item in value]
    if shape.kind != "object" or not is_object(value):
        return value
    found: Json = {}
    for key, inner in value.items():
        head, *rest = key.split("_")
        name = head + "".join(word.title() for word in rest)
        name = name if name in (shape.names or ()) else key
        found[name] = canonical(shape.fields.get(name, ANYTHING), inner)
    return found


_BLOB = closed(mimeType=NAMED, data=NAMED, displayName=STRING)
_PART = closed(
    text=STRING,
    inlineData=_BLOB,
    fileData=closed(mimeType=STRING, fileUri=NAMED),
    functionCall=loose(name=NAMED),
    functionResponse=loose(name=NAMED),
    thought=Shape("boolean"),
    thoughtSignature=STRING,
    executableCode=ANYTHING,
    codeExecutionResult=ANYTHING,
    videoMetadata=ANYTHING,
    mediaResolution=ANYTHING,
    partMetadata=ANYTHING,
)
_CONTENT = closed(parts=list_of(_PART), role=one_of("user", "model"))
_CONFIG = closed(
    temperature=Shape("number", least=0, most=2),
    topP=Shape("number", least=0, most=1),
    topK=Shape("number"),
    candidateCount=Shape("integer", least=1, most=8),
    maxOutputTokens=Shape("integer", least=1, most=MOST_OUTPUT_TOKENS),
    stopSequences=list_of(STRING),
    seed=Shape("integer"),
    presencePenalty=Shape("number"),
    frequencyPenalty=Shape("number"),
    responseLogprobs=Shape("boolean"),
    logprobs=Shape("integer"),
    responseMimeType=STRING,
    responseSchema=loose(),
    responseJsonSchema=loose(),
    responseModalities=list_of(STRING),
    mediaResolution=STRING,
    speechConfig=ANYTHING,
    imageConfig=ANYTHING,
    enableEnhancedCivicAnswers=Shape("boolean"),
    thinkingConfig=closed(
        includeThoughts=Shape("boolean"), thinkingBudget=Shape("integer"), thinkingLevel=STRING
    ),
)
BODY = closed(
    model=STRING,
    contents=list_of(_CONTENT),
    systemInstruction=_CONTENT,
    generationConfig=_CONFIG,
    safetySettings=list_of(closed(category=NAMED, threshold=NAMED)),
    tools=list_of(
        closed(
            functionDeclarations=list_of(loose(name=NAMED)),
            googleSearch=loose(),
            googleSearchRetrieval=loose(),
            codeExecution=loose(),
            urlContext=loose(),
        )
    ),
    toolConfig=closed(
        functionCallingConfig=closed(mode=STRING, allowedFunctionNames=list_of(STRING)),
        retrievalConfig=loose(),
    ),
    cachedContent=STRING,
    serviceTier=STRING,
    store=Shape("boolean"),
)


def error_body(problem: RefusedError, retry_after: str | None = None) -> Json:
    """The error body of a refused call [errors.py; google/rpc/error_details.proto]."""
    error: Json = {
        "code": problem.status,
        "message": problem.message,
        "status": _NAMES.get(problem.status, "UNKNOWN"),
    }
    if problem.code == "FAILED_PRECONDITION":
        error["status"] = problem.code
    elif problem.code is not None:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        error["details"] = [{"@type": kind, "reason": problem.code, "domain": "googleapis.com"}]
    if problem.status == 429 and problem.param is not None:
        # As `generateContent` tells its quotas; creates have been seen with and without.
        violation = {
            "quotaMetric": "generativelanguage.googleapis.com/batch_enqueued_tokens",
            "quotaId": "BatchEnqueuedTokensPerProjectPerModel",
            "quotaValue": problem.param,
        }
        kind = "type.googleapis.com/google.rpc.QuotaFailure"
        error["details"] = [{"@type": kind, "violations": [violation]}]
    if retry_after is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        error["details"] = [{"@type": kind, "retryDelay": f"{retry_after}s"}]
    return {"error": error}


def google_refusal(misfit: MisfitError) -> RefusedError:
    """What does not fit, in the words of the proto's JSON parser."""
    steps = [_SNAKE.sub(r"_\1", str(step)).lower() for step in misfit.path]
    where = "".join(f"[{each}]" if each.isdigit() else f".{each}" for each in steps)[1:]
    if misfit.kind == "extra":
        inside = where.rpartition(".")[0]
        at = f" at '{inside}'" if inside else ""
        name = misfit.path[-1]
        return RefusedError(
            f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
        )
    if misfit.kind == "missing":
        return RefusedError(f"* GenerateContentRequest.{where}: {where} is not specified")
    if misfit.kind == "choice" and steps[-1:] == ["role"]:
        return RefusedError("Please use a valid role: user, model.")
    return RefusedError(f"Invalid value at '{where}', {misfit.value!r}")


def fitting(shape: Shape, value: Any) -> Any:
    """A message in its canonical form."""
    value = canonical(shape, value)
    fit(shape, value, google_refusal)
    return value


def read_body(model_id: str, body: Json) -> tuple[Asked, Prompt]:
    """Check a body as the API does and read what it says."""
    if not exists(model_id):
        raise RefusedError(f"models/{model_id} is not found for API version v1beta", status=404)
    body = fitting(BODY, body)
    config: Json = body.get("generationConfig") or {}
    _check_form(config)
    if not body.get("contents"):
        raise RefusedError("* GenerateContentRequest.contents: contents is not specified")
    prompt = Prompt()
    for part in object_at(body, "systemInstruction").get("parts", ()):
        prompt.add_text(str(part.get("text", "")), asked=False)
    for number, content in enumerate(body["contents"]):
        if not content.get("parts"):
            raise RefusedError(
                f"* GenerateContentRequest.contents[{number}].parts: contents.parts must not be"
                " empty."
            )
        for part in content["parts"]:
            _read_part(prompt, part, asked=content.get("role", "user") == "user")
    asked = Asked(model_id, "flash-lite" not in model_id, config, _wanted_call(body))
    return asked, prompt


def _check_form(config: Json) -> None:
    schema, other = config.get("responseJsonSchema"), config.get("responseSchema")
    if schema is not None and other is not None:
        raise RefusedError("response_schema and response_json_schema must not both be set.")
    asks = schema is not None or other is not None
    if asks and config.get("responseMimeType") != "application/json":
        raise RefusedError("response_schema is only allowed with application/json.")
    problem = None if schema is None else google_schema_problem(schema)
    if problem is not None:
        raise RefusedError(f"Invalid response_json_schema: {problem}")


def _read_part(prompt: Prompt, part: Json, *, asked: bool) -> None:
    if "text" in part:
        prompt.add_text(part["text"], asked=asked)
        return
    if "inlineData" not in part:
        prompt.tokens += 50
        return
    data, media_type = decode_base64(part["inlineData"]["data"]), part["inlineData"]["mimeType"]
    if data is None:
        raise RefusedError("Invalid value at 'contents.parts.inline_data.data' (TYPE_BYTES)")
    if media_type == "application/pdf":
        try:
            prompt.add_document(Document("pages", None, pdf_pages(data)))
        except UnreadablePdfError as error:
            raise RefusedError("The document has no pages.") from error
    elif media_type.startswith("image/"):
        if image_type(data) is None:
            raise RefusedError("Unable to process input image.")
        prompt.quotable.append(Document("opaque", None, []))
        prompt.tokens += image_tokens(data)
    else:
        raise RefusedError(f"Unsupported MIME type: {media_type}")


def _wanted_call(body: Json) -> Json | None:
    calling = object_at(object_at(body, "toolConfig"), "functionCallingConfig")
    for tool in body.get("tools", ()) if calling.get("mode") == "ANY" else ():
        for function in tool.get("functionDeclarations", ()):
            return function
    return None


_RPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4}
_UNRUN = {"canceled": (1, "The operation was cancelled."), "expired": (4, "Deadline expired.")}
_DAYS_2 = 2 * 86400


class GeminiCheck(Check):
    """What is wrong with a file, of which one bad line fails the batch."""

    drops_canceled = False

    def __init__(self, batch: Batch, limits: Limits) -> None:
        super().__init__(batch, limits)
        self.most_lines = sys.maxsize

    def line(self, line: Json | None) -> Problem | None:
        key, request = (line or {}).get("key"), (line or {}).get("request")
        is_whole = is_object(request) and len(line or {}) == 2
        if not isinstance(key, str) or not is_whole or key in self.ids:
            return 3, "Failed to parse the input file as requests with a key each.", None
        self.ids.add(key)
        return None

    def whole(self, file: StoredFile, enqueued: Callable[[str], int]) -> Problem | None:
        """As `Check.whole`: its tokens were counted as the batch was created."""
        return None

    def ordered_failure(self, options: Json) -> Json:
        code = options.get("code")
        text = options.get("message", "The sandbox was asked to fail this batch.")
        return error(code if isinstance(code, int) else 3, text)


def line_count(path: Path) -> int:
    """Lines of a file."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


class GeminiRows(Encoder):
    """How a Gemini model answers."""

    provider = "gemini"
    id_key = "key"
    body_key = "request"
    words: ClassVar = {
        "succeeded": "SUCCEEDED",
        "errored": "FAILED",
        "canceled": "CANCELLED",
        "expired": "EXPIRED",
    }
    errors: ClassVar[Mapping[str, Refusal]] = {
        "api_error": Refusal(500, "An internal error has occurred."),
        "invalid_request_error": Refusal(400, "The sandbox was asked to fail this request."),
        "rate_limit_error": Refusal(429, "Resource has been exhausted (e.g. check quota)."),
    }

    def __init__(self, endpoint: str, files: FileReader, batch: Batch | None) -> None:
        super().__init__(endpoint, files, batch)
        self.model = endpoint.rpartition("/")[2].partition(":")[0]

    def read(self, body: Json, size: int = 0) -> tuple[Asked, Prompt]:
        return read_body(self.model, body)

    def answer(
        self, body: Json, model: Asked, prompt: Prompt, marker: Marker | None, number: str
    ) -> tuple[Json, Counted | None]:
        name, rest = ("", "") if marker is None else (marker.name, marker.rest)
        given = max(prompt.tokens, 1)
        usage: Json = {"promptTokenCount": given, "totalTokenCount": given}
        answer: Json = {"usageMetadata": usage, "modelVersion": model.id, "responseId": number}
        if name == "blocked":
            answer["promptFeedback"] = {"blockReason": rest or "PROHIBITED_CONTENT"}
            return answer, Counted(given, 0)
        if name == "refusal":
            answer["candidates"] = [{"finishReason": rest or "SAFETY", "index": 0}]
            return answer, Counted(given, 0)
        most = model.config.get("maxOutputTokens")
        thought = thought_tokens(prompt, most, tiny=16) if model.thinks else 0
        part, tokens, cut = _said(model, prompt, marker, most, thought)
        content: Json = {"role": "model", "parts": [part]} if part else {"role": "model"}
        if name == "answer":
            content["parts"] = orjson.loads(rest)
        finish = rest if name == "stop" else "MAX_TOKENS" if cut else "STOP"
        answer["candidates"] = [{"content": content, "finishReason": finish, "index": 0}]
        counted = Counted()
        counted.spend(marker, given, tokens + thought, thought)
        thought, tokens = counted.reasoning, counted.output - counted.reasoning
        counts = {"candidatesTokenCount": tokens, "thoughtsTokenCount": thought}
        # A count of 0 is left out in proto JSON.
        usage.update({key: count for key, count in counts.items() if count})
        usage.update(promptTokenCount=counted.input, totalTokenCount=counted.input + counted.output)
        return answer, counted

    def row(self, custom_id: str, number: str, kind: str, result: Any) -> Json:
        if isinstance(result, RefusedError):
            error = {"code": _RPC.get(result.status, 2), "message": result.message}
            return {"key": custom_id, "error": error}
        if result is None:
            code, message = _UNRUN[kind]
            return {"key": custom_id, "error": {"code": code, "message": message}}
        return {"key": custom_id, "response": result}

    def produced(self, store: Store) -> dict[str, Produced]:
        """As `Encoder.produced`: all rows in one file."""
        made = Produced(store, store.files_dir / f"batch-{new_id('', 36).lower()}")
        return dict.fromkeys(("succeeded", "errored", "canceled", "expired"), made)

    def outcome(self, kinds: Counter[str], bills: list[Bill], made: dict[str, Produced]) -> Outcome:
        """As `Encoder.outcome`: an expired batch has no results, and is not billed for any."""
        file = made["succeeded"]
        assert self.batch is not None
        if self.batch.ending == "batch_expired" and self.batch.cancel_at is None:
            file.temporary.unlink()
            return Outcome({"failed": kinds.total()})
        succeeded = kinds["succeeded"]
        outcome = Outcome(
            {"succeeded": succeeded, "failed": kinds.total() - succeeded}, bills=bills
        )
        outcome.output_file_id = self.keep(outcome, file, "", _DAYS_2)
        return outcome


def _said(
    asked: Asked, prompt: Prompt, marker: Marker | None, most: int | None, thought: int
) -> tuple[Json | None, int, bool]:
    """The part of an answer, its tokens, and whether it was cut off."""
    if most is not None and thought >= most:
        return None, 0, True
    schema = asked.config.get("responseJsonSchema")
    if (function := asked.call) is not None:
        parameters: Json = function.get("parametersJsonSchema") or function.get("parameters") or {}
        arguments = json_answer(prompt, parameters)
        call = {"name": function["name"], "args": arguments}
        return {"functionCall": call}, text_tokens(orjson.dumps(call).decode()), False
    as_json = asked.config.get("responseMimeType") == "application/json"
    text = wanted_text(prompt, marker, schema, as_json=as_json)
    text, tokens, cut = fitting_text(text, marker, None if most is None else most - thought)
    return {"text": text}, tokens, cut
