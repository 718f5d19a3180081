"""Rows that nobody has seen before: each is one job's trouble, and never the run's."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from batchata_prefect.content.schema import answer_schema
from batchata_prefect.jobs.spool import Context, Stored, pack
from batchata_prefect.jobs.spool.layout import unpack
from batchata_prefect.models import Chunk
from batchata_prefect.providers import price_book, providers
from batchata_prefect.results.answer_file import open_answers
from batchata_prefect.results.read import collect, give_up
from batchata_prefect.results.row import Reading, from_row

EXAMPLES = int(os.environ.get("BATCHATA_ODD_ROWS", "100"))
"""Mutated rows that are read; `make chaos` reads 20,000."""

MESSAGES, CHAT = "/v1/messages", "/v1/chat/completions"
RESPONSES, EMBEDDINGS = "/v1/responses", "/v1/embeddings"


class Invoice(BaseModel):
    total: Decimal
    lines: list[dict[str, int]] = []


FREE = {"type": "object", "properties": {"total": {}}, "title": "free"}
SCHEMAS = {schema.digest: schema for schema in map(answer_schema, (Invoice, FREE))}
BY_CLASS, BY_SCHEMA = SCHEMAS


class Jobs:
    """Jobs by their ordinal, in memory; each asks for the same."""

    def __init__(self, schema: str | None = None, citations: Any = None) -> None:
        self.rest = {"schema": schema, "citations": citations, "sources": ["a.txt"]}
        self.rest = {name: value for name, value in self.rest.items() if value is not None}
        if schema is None and citations is None:
            self.rest = {}

    has_continued = False

    def hold(self, ordinals: Any) -> None: ...

    def stored(self, ordinal: int) -> Stored:
        return unpack(pack({"id": f"job-{ordinal}", **self.rest}), 0)

    def context(self, ordinal: int) -> Context:
        schema, citations = self.rest.get("schema"), self.rest.get("citations")
        return Context(f"job-{ordinal}", {}, schema, citations, ("a.txt",))

    def bodies(self, ordinals: list[int]) -> Iterator[bytes]:
        source = {"type": "text", "media_type": "text/plain", "data": "The total is 12."}
        document = {"type": "document", "source": source}
        body = {"messages": [{"role": "user", "content": [document]}]}
        return iter([orjson.dumps(body)] * len(ordinals))


class Told:
    """What became of the rows of one chunk."""

    def __init__(
        self, tmp_path: Path, rows: list[bytes], endpoint: str = CHAT, jobs: Jobs | None = None
    ) -> None:
        name = "anthropic" if endpoint == MESSAGES else "openai"
        model = "claude-sonnet-5-5" if endpoint == MESSAGES else "gpt-6-luna"
        chunk = Chunk(0, 0, "ab" * 32, name, endpoint, model, len(rows), 0, 0, 0, None)
        replies, answers = tmp_path / "replies", tmp_path / "answers"
        replies.write_bytes(b"".join(row + b"\n" for row in rows))
        self.found = collect(
            Reading(chunk, "batch_1", price_book(), SCHEMAS),
            replies,
            answers,
            range(len(rows)),
            jobs or Jobs(),  # pyright: ignore[reportArgumentType]
            providers()[name].read,
            no_reply=lambda _: ("r", "missing", "no row"),
        )
        read = open_answers(answers)
        assert read is not None
        rows_by_place = {place: orjson.loads(row) for place, row in read.rows()}
        self.rows = [rows_by_place[place] for place in range(len(rows))]
        self.results = [from_row(row, SCHEMAS) for row in self.rows]

    def check_others(self: Self) -> Self:
        """See that the first and the last job were answered."""
        for row in (self.rows[0], self.rows[-1]):
            assert (row["status"], row["error_code"]) == ("completed", None)
        return self


HEAD = ("ab" * 32)[:16]


def claude(place: int, content: Any, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 2}
    message = {"content": content, "stop_reason": "end_turn", "usage": usage, **more}
    result = {"type": "succeeded", "message": message}
    return {"custom_id": f"{HEAD}-{place}", "result": result}


def gpt(place: int, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"custom_id": f"{HEAD}-{place}", "response": response, "error": None, **more}


def chat(place: int, text: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **more}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return gpt(place, {"choices": [choice], "usage": usage})


def said(place: int, *output: Any, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 2}
    return gpt(place, {"status": "completed", "output": list(output), "usage": usage, **more})


def text_item(text: str = "hello") -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def deep(levels: int, inside: str = "1") -> str:
    return '{"a":' * levels + inside + "}" * levels


CITED = [
    {"type": "text", "text": "The total is 12.", "citations": [
        {"type": "char_location", "cited_text": "total is 12", "document_index": 0,
         "document_title": "a.txt", "start_char_index": 4, "end_char_index": 15},
        {"type": "page_location", "cited_text": "x", "document_index": 0,
         "start_page_number": 1, "end_page_number": 2},
        {"type": "search_result_location", "cited_text": "y", "search_result_index": 0,
         "source": "s", "title": "t", "start_block_index": 0, "end_block_index": 1},
    ]},
    {"type": "text", "text": '\n```json\n{"total": 12.30}\n```'},
]  # fmt: skip

GOOD = {
    MESSAGES: lambda place: claude(place, [{"type": "text", "text": '{"total": 1}'}]),
    CHAT: lambda place: chat(place, '{"total": 1}'),
    RESPONSES: lambda place: said(place, text_item('{"total": 1}')),
    EMBEDDINGS: lambda place: gpt(place, {"data": [{"embedding": [0.5]}], "usage": {}}),
}


def tool(levels: int) -> bytes:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": "HERE"}
    row = json.dumps(claude(1, [block], stop_reason="tool_use"))
    return row.replace('"HERE"', deep(levels)).encode()


ODD = [
    ("tool input 300 deep", MESSAGES, tool(300), None),
    ("a row 1,100 deep", MESSAGES, tool(1_100), "unreadable_reply"),
    ("a row 200,000 deep", MESSAGES, tool(200_000), "unreadable_reply"),
    ("a row 1,100 deep at OpenAI", CHAT,
     json.dumps(chat(1, "HERE")).replace('"HERE"', deep(1_100)).encode(), "unreadable_reply"),
    ("a custom_id of 5,000 digits", CHAT,
     json.dumps({**chat(1, "x"), "custom_id": f"{HEAD}-{'1' * 5_000}"}).encode(),
     "unreadable_reply"),
    ("no JSON, but its job is named", CHAT,
     b'{"custom_id":"%b-1","response":{"body":}}' % HEAD.encode(), "unreadable_reply"),
    ("half a row", CHAT, json.dumps(chat(1, "x")).encode()[:90], "unreadable_reply"),
    ("citations: [null]", MESSAGES,
     json.dumps(claude(1, [{"type": "text", "text": "x", "citations": [None, 3]}])).encode(), None),
    ("a type that is a list", RESPONSES,
     json.dumps(said(1, {"type": []}, text_item())).encode(), None),
    ("2^65 input tokens", MESSAGES,
     json.dumps(claude(1, [{"type": "text", "text": "x"}],
                       usage={"input_tokens": 2**65, "output_tokens": 1})).encode(), None),
    ("2^65 prompt tokens", CHAT,
     json.dumps(chat(1, "x")).replace('"prompt_tokens": 3', f'"prompt_tokens": {2**65}').encode(),
     None),
    ("fewer tokens than none", CHAT,
     json.dumps(chat(1, "x")).replace('"prompt_tokens": 3', '"prompt_tokens": -3').encode(), None),
    ("an embedding of words", EMBEDDINGS,
     json.dumps(gpt(1, {"data": [{"embedding": ["x"]}], "usage": {}})).encode(),
     "unreadable_reply"),
    ("an embedding that is infinite", EMBEDDINGS,
     json.dumps(gpt(1, {"data": [{"embedding": [0]}]})).replace("[0]", "[1e400]").encode(),
     "unreadable_reply"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "row", "code"), [each[1:] for each in ODD], ids=[each[0] for each in ODD]
)
def test_an_odd_row_among_good_ones(
    tmp_path: Path, endpoint: str, row: bytes, code: str | None
) -> None:
    """It ends its own job, which names where the row lies; a second reading gives the same."""
    good = [orjson.dumps(GOOD[endpoint](place)) for place in (0, 2)]
    rows = [good[0], row, good[1]]
    told = Told(tmp_path, rows, endpoint).check_others()
    assert told.rows[1]["error_code"] == code
    assert told.rows[1]["job_id"] == "job-1"
    if code is not None:
        assert told.rows[1]["status"] == "failed"
        assert f"raw_files/responses/{'ab' * 32}.jsonl" in told.rows[1]["error"]
        assert told.found.marks == "afa"
        assert told.found.cost_usd is None, "what it cost is not known"
    assert Told(tmp_path, rows, endpoint).rows == told.rows


@pytest.mark.parametrize(
    ("name", "endpoint", "row"), [each[:3] for each in ODD], ids=[each[0] for each in ODD]
)
def test_what_is_missing_is_told_beside_an_odd_row(
    tmp_path: Path, name: str, endpoint: str, row: bytes
) -> None:
    """A batch that gives too few rows counts just those at their bound, whatever else it gives."""
    chunk = Chunk(0, 0, "ab" * 32, "openai", endpoint, "gpt-6-luna", 4, 0, 0, 0, None)
    (tmp_path / "replies").write_bytes(orjson.dumps(GOOD[endpoint](0)) + b"\n" + row + b"\n")
    found = collect(
        Reading(chunk, "batch_1", price_book(), SCHEMAS),
        tmp_path / "replies",
        tmp_path / "answers",
        range(4),
        Jobs(),  # pyright: ignore[reportArgumentType]
        providers()["anthropic" if endpoint == MESSAGES else "openai"].read,
        no_reply=lambda _: ("f", "answer_lost", "no row"),
    )
    names_no_job = name in {"a custom_id of 5,000 digits", "half a row"}
    assert found.missing == ([1, 2, 3] if names_no_job else [2, 3])


@pytest.mark.parametrize("name", [each[0] for each in ODD if "tokens" in each[0]])
def test_tokens_that_cannot_be_cost_an_unknown_amount(tmp_path: Path, name: str) -> None:
    """Never nothing."""
    _, endpoint, row, _ = next(each for each in ODD if each[0] == name)
    good = [orjson.dumps(GOOD[endpoint](place)) for place in (0, 2)]
    told = Told(tmp_path, [good[0], row, good[1]], endpoint)
    assert told.rows[1]["cost_usd"] is None
    assert told.found.cost_usd is None


ANSWERS = [
    ("a recursion of 250 levels", BY_SCHEMA, '{"total": ' + deep(250) + "}", "invalid_output"),
    ("half of a pair", BY_SCHEMA, '{"total": "\\ud800"}', None),
    ("half of a pair in a class", BY_CLASS, '{"total": 1, "lines": [{"\\udc00": 1}]}', None),
    ("an exponent without end", BY_CLASS, '{"total": 1e99999999999999999999}', "invalid_json"),
    ("a recursion of 200 levels", BY_SCHEMA, '{"total": ' + deep(190) + "}", None),
    ("a recursion of 100,000 levels", BY_SCHEMA, deep(100_000), "invalid_json"),
    ("a number of 5,000 digits", BY_SCHEMA, '{"total": ' + "9" * 5_000 + "}", "invalid_json"),
]


@pytest.mark.parametrize(
    ("schema", "text", "code"), [each[1:] for each in ANSWERS], ids=[each[0] for each in ANSWERS]
)
@pytest.mark.parametrize("endpoint", [MESSAGES, CHAT, RESPONSES])
@pytest.mark.parametrize("citations", [None, "native"])
def test_an_odd_answer_among_good_ones(
    tmp_path: Path, endpoint: str, schema: str, text: str, code: str | None, citations: str | None
) -> None:
    """The same for what stands in the answer's own JSON."""
    make = {
        MESSAGES: lambda: claude(1, [{"type": "text", "text": text}]),
        CHAT: lambda: chat(1, text),
        RESPONSES: lambda: said(1, text_item(text)),
    }
    rows = [orjson.dumps(GOOD[endpoint](place)) for place in (0, 2)]
    rows.insert(1, orjson.dumps(make[endpoint]()))
    told = Told(tmp_path, rows, endpoint, Jobs(schema, citations)).check_others()
    assert told.rows[1]["error_code"] == code
    assert told.rows[1]["raw_response"] == text


class Continued(Jobs):
    """Jobs of which one goes on from a turn that was paused."""

    has_continued = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    def continued(self, ordinal: int, round_: int) -> bytes | None:
        return self.body if ordinal == 1 else None


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"messages": []}', b'{"messages": [{"content": 5}]}',
             b'{"messages": [{"content": null}]}', deep(1_100).encode()]
)  # fmt: skip
def test_a_turn_before_a_pause_that_cannot_be_read(tmp_path: Path, body: bytes) -> None:
    """What was said after the pause is half an answer; the others are delivered."""
    rows = [orjson.dumps(GOOD[MESSAGES](place)) for place in range(3)]
    told = Told(tmp_path, rows, MESSAGES, Continued(body)).check_others()
    assert told.rows[1]["error_code"] == "unreadable_reply"
    assert told.rows[1]["input_tokens"] == 3, "it was paid"


UNANSWERED: list[dict[str, Any]] = [
    gpt(1, {}, response={"status_code": 503, "body": {}}),
    gpt(1, {}, response=None, error={"code": "batch_cancelled", "message": "m"}),
    gpt(1, {}, response=None, error={"code": "batch_expired", "message": "m"}),
    gpt(1, {"said": "x"}),
]


@pytest.mark.parametrize("other", UNANSWERED)
@pytest.mark.parametrize("is_first", [True, False])
def test_an_answer_comes_before_what_says_that_there_is_none(
    tmp_path: Path, other: dict[str, Any], is_first: bool
) -> None:
    """Two rows of one job: it was answered and paid, and is not sent again."""
    rows = [orjson.dumps(GOOD[CHAT](place)) for place in (0, 1, 2)]
    rows.insert(1 if is_first else 3, orjson.dumps(other))
    chunk = Chunk(0, 0, "ab" * 32, "openai", CHAT, "gpt-6-luna", 3, 0, 0, 0, None)
    replies = tmp_path / "replies"
    replies.write_bytes(b"\n".join(rows))
    found = collect(
        Reading(chunk, "batch_1", price_book(), SCHEMAS),
        replies,
        tmp_path / "answers",
        range(3),
        Jobs(),  # pyright: ignore[reportArgumentType]
        providers()["openai"].read,
        no_reply=lambda _: ("r", "missing", "no row"),
    )
    assert (found.marks, found.strangers, found.unreadable) == ("aaa", 1, 0)
    assert found.usage.input_tokens == 9
    answers = open_answers(tmp_path / "answers")
    assert answers is not None
    assert sorted(place for place, _ in answers.rows()) == [0, 1, 2]


class Trap(BaseModel):
    """A class whose values break whoever looks at them."""

    total: float

    def __getattribute__(self, name: str) -> Any:
        if name == "total":
            raise MemoryError("too large")
        return super().__getattribute__(name)


def test_a_class_that_breaks_whoever_looks_at_it(tmp_path: Path) -> None:
    """An error that nobody has thought of, in the middle of mapping citations."""
    schema = answer_schema(Trap)
    SCHEMAS[schema.digest] = schema
    try:
        told = Told(
            tmp_path,
            [orjson.dumps(claude(place, CITED)) for place in range(3)],
            MESSAGES,
            Jobs(schema.digest, "native"),
        )
    finally:
        del SCHEMAS[schema.digest]
    assert {row["error_code"] for row in told.rows} == {"unreadable_reply"}
    assert all("MemoryError: too large" in row["error"] for row in told.rows)
    assert all("total is 12" in row["raw_response"].replace("The ", "") for row in told.rows)


def test_a_batch_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    """Each of its jobs says why, at an unknown cost, and none is sent again."""
    chunk = Chunk(0, 0, "ab" * 32, "openai", CHAT, "gpt-6-luna", 2, 0, 0, 0, None)
    found = give_up(
        Reading(chunk, "batch_1", price_book(), {}),
        tmp_path / "answers",
        [4, -1],
        Jobs(),  # pyright: ignore[reportArgumentType]
        KeyError("a fault of ours"),
        "",
    )
    assert (found.marks, found.cost_usd) == ("ff", None)
    answers = open_answers(tmp_path / "answers")
    assert answers is not None
    ((_, line),) = answers.rows()
    row = orjson.loads(line)
    assert (row["job_id"], row["error_code"]) == ("job-4", "unreadable_reply")
    assert "KeyError: 'a fault of ours'" in row["error"]
    assert "batch_1" in row["error"]


# Any row


def seeds() -> dict[str, list[Any]]:
    """Rows of all kinds by endpoint; those that were recorded only where they lie at hand."""
    tool_use = {"type": "tool_use", "id": "t", "name": "f", "input": {"n": 12.5, "x": ["a"]}}
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    found = {
        MESSAGES: [
            claude(1, CITED),
            claude(1, [thinking, tool_use], stop_reason="tool_use"),
            claude(1, [{"type": "text", "text": '{"total": 12.30, "lines": [{"a": 1}]}'}]),
            {"custom_id": f"{HEAD}-1", "result": {"type": "expired"}},
            {"custom_id": f"{HEAD}-1", "result": {"type": "errored", "error": {
                "type": "error", "error": {"type": "api_error", "message": "m"}}}},
        ],
        CHAT: [
            chat(1, '{"total": 12.30}'),
            chat(1, None, tool_calls=[call]),
            chat(1, None, refusal="no"),
            gpt(1, {}, error={"code": "batch_expired", "message": "m"}),
        ],
        RESPONSES: [
            said(1, {"type": "reasoning", "summary": []}, text_item('{"total": 1}')),
            said(1, {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}),
            said(1, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ],
        EMBEDDINGS: [gpt(1, {"data": [{"embedding": [0.1, -2.5]}], "usage": {"prompt_tokens": 2}})],
    }  # fmt: skip
    real = Path(os.environ.get("BATCHATA_REAL", Path(__file__).parents[4] / "shared" / "real"))
    for path in sorted((real / "corpus").glob("*/*.json")):
        data = json.loads(path.read_bytes())
        for exchange in data.get("exchanges") or [data]:
            body = exchange.get("response")
            if not isinstance(body, dict):
                continue
            if path.parent.name == "anthropic" and "content" in body:
                row = {"custom_id": f"{HEAD}-1", "result": {"type": "succeeded", "message": body}}
                found[MESSAGES].append(row)
            elif "choices" in body or "output" in body or body.get("object") == "list":
                endpoint = CHAT if "choices" in body else RESPONSES
                found[EMBEDDINGS if "data" in body else endpoint].append(gpt(1, body))
    return found


SEEDS = seeds()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value inside of a value lies."""
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, item in inner:
        yield from places(item, (*path, key))


RAW = "batchata raw json 7f1b"
RAW_VALUES = [
    str(2**65), str(-(2**63) - 1), "1e400", "-1e400", "NaN", "0.1234567890123456789", "1" * 5_000,
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', deep(260), deep(1_100), "[" * 300 + "]" * 300,
]  # fmt: skip
PLAIN = st.sampled_from(
    [None, True, False, 0, -1, 3.5, "", " ", "x", "end_turn", "refusal", "ü" * 300, [], {}, [None],
     [[]], [{}], {"": None}, {"type": []}, {"text": 3}, [{"type": "text", "text": None}],
     '{"total": 1e400}', f'{{"total": {2**65}}}', deep(250), '{"total": "\\ud800"}', "```json\n{"]
)  # fmt: skip
ANYTHING = st.recursive(
    PLAIN | st.sampled_from(RAW_VALUES).map(lambda text: {RAW: text}),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A row of some endpoint with some of its values replaced, doubled or cut out."""
    endpoint = draw(st.sampled_from(sorted(SEEDS)))
    row = copy.deepcopy(draw(st.sampled_from(SEEDS[endpoint])))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(places(row))))
        if not path:
            continue
        holder = row
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            holder[path[-1]] = copy.deepcopy(draw(ANYTHING))
        else:
            del holder[path[-1]]
    text = json.dumps(row, ensure_ascii=draw(st.booleans()))
    for raw in RAW_VALUES:
        text = text.replace(json.dumps({RAW: raw}), raw)
    line = text.encode("utf-8", "surrogatepass").replace(b"\n", b" ")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(line)))
        line = line[:at] + draw(st.sampled_from([b"", b"\xff", b"\x00", b"}"])) + line[at:]
    if draw(st.integers(0, 9)) == 0:
        line = line[: draw(st.integers(0, len(line)))]
    return endpoint, line


JOBS = [
    Jobs(schema, citations)
    for schema in (None, BY_CLASS, BY_SCHEMA)
    for citations in (None, "native", "quoted")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(odd=mutated(), jobs=st.sampled_from(JOBS))
@pytest.mark.timeout(3_600)
def test_any_row_is_read(folder: Path, odd: tuple[str, bytes], jobs: Jobs) -> None:
    """Whatever a row holds, its job has a row with a reason, and the others have theirs."""
    endpoint, line = odd
    good = [orjson.dumps(GOOD[endpoint](place)) for place in (0, 2)]
    told = Told(folder, [good[0], line, good[1]], endpoint, jobs)
    alone = Told(folder, [good[0], b"{}", good[1]], endpoint, jobs)
    row = told.rows[1]
    assert row["job_id"] == "job-1"
    assert (row["status"] == "completed") is (row["error_code"] is None)
    assert row["error_code"] is None or row["error"]
    assert (row["error_code"] is None) is (told.found.marks[1] == "a")
    for place in (0, 2):
        # Its row may have named another job, or none: then one is told from the other by nothing.
        if f"{HEAD}-{place}".encode() not in line:
            assert told.rows[place] == alone.rows[place]
