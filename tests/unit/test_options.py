"""Every option of a run can be given in Python, a command, a block and a deployed flow.

Or it is refused there, with why. The tests go over all of them, so that none is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest

from batchata_prefect import Batch, ValidationError
from batchata_prefect.batch import batch_of
from batchata_prefect.blocks import JobsFile
from batchata_prefect.cli import app
from batchata_prefect.cli.options import given
from batchata_prefect.cli.orders import Order
from batchata_prefect.cli.serving import _parameters
from batchata_prefect.options import FileOptions, RunOptions, how, options, python
from flows.jobs_from_file import jobs_from_file

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

TOLD: dict[str, tuple[Any, list[str]]] = {
    "jobs": ("jobs.csv", []),
    "results_dir": ("answers", []),
    "prompt": ("Say {q}", ["--prompt", "Say {q}"]),
    "model": ("gpt-6-luna", ["-m", "gpt-6-luna"]),
    "provider": ("openai", ["--provider", "openai"]),
    "endpoint": ("/v1/responses", ["--endpoint", "/v1/responses"]),
    "system": ("Be brief.", ["--system", "@system.txt"]),
    "max_tokens": (77, ["--max-tokens", "77"]),
    "response_model": (SCHEMA, ["--response-model", "schema.json"]),
    "citations": ("quoted", ["--citations", "quoted"]),
    "cache_prefix": (True, ["--cache-prefix"]),
    "accept_truncated": (True, ["--accept-truncated"]),
    "tags": (("a", "b"), ["--tag", "a", "--tag", "b"]),
    "params": ({"seed": 1, "user": "x"}, ["--param", "seed=1", "--param", "user=x"]),
    "id_column": ("key", ["--id-column", "key"]),
    "file_column": ("path", ["--file-column", "path"]),
    "metadata_columns": (("team", "land"), ["--metadata", "team", "land"]),
    "documents_root": ("/data", ["--documents-root", "/data"]),
    "allow_urls": (("a.example.com",), ["--allow-url", "a.example.com"]),
    "on_bad_row": ("skip", ["--skip-bad-rows"]),
    "run_key": ("monday", ["--run-key", "monday"]),
    "cost_limit_usd": (Decimal("2.5"), ["--budget", "2.5"]),
    "shared_budget": ("team-a", ["--shared-budget", "team-a"]),
    "time_limit_hours": (1.5, ["--time-limit", "1h30m"]),
    "realtime_limit_usd": (Decimal("0.1"), ["--realtime", "0.1"]),
    "margin_seconds": (120.0, ["--margin", "2m"]),
    "quota": ({"gpt-6-luna": 500}, ["--quota", "gpt-6-luna=500"]),
    "items_per_batch": (7, ["--items-per-batch", "7"]),
    "max_parallel_batches": (3, ["--max-parallel-batches", "3"]),
    "tokens_per_batch": (9000, ["--tokens-per-batch", "9000"]),
    "max_attempts": (5, ["--max-attempts", "5"]),
    "max_reasks": (2, ["--max-reasks", "2"]),
    "canary": (0.1, ["--canary", "0.1"]),
    "min_valid": (0.5, ["--min-valid", "0.5"]),
    "approve": (True, ["--approve"]),
    "upload_files": (False, ["--no-upload-files"]),
    "on_cancel": ("detach", ["--detach"]),
    "if_running": ("fail", ["--if-running", "fail"]),
    "wait": ("suspend", ["--wait", "suspend"]),
    "task_retries": (1, ["--task-retries", "1"]),
    "task_retry_delay_seconds": (5.0, ["--task-retry-delay", "5s"]),
    "task_timeout_seconds": (7200.0, ["--task-timeout", "2h"]),
    "task_tags": (("x",), ["--task-tag", "x"]),
    "prices": ({"m": {"input": 1, "output": 2}}, ["--prices", "prices.json"]),
    "accounts": (
        {"lab": {"kind": "openai", "base_url": "http://lab.test/v1", "api_key_env": "LAB_KEY"}},
        ["--accounts", "accounts.json"],
    ),
    "credentials": ({"openai": "team-a"}, ["--credentials", "openai=team-a"]),
    "raw_files": (False, ["--no-raw-files"]),
    "result_format": ("json", ["--result-format", "json"]),
    "state": ("/data/state", ["--state", "/data/state"]),
    "reuse_state": (False, ["--reuse-state"]),
}
"""Each option with a value that is not its default, and the flags that give it."""

BESIDES = {
    "shared_budget": "cost_limit_usd",
    "approve": "canary",
    "realtime_limit_usd": "time_limit_hours",
    "margin_seconds": "time_limit_hours",
}
"""What an option makes sense with."""

PYTHON: dict[str, Callable[[Batch, Any], Any]] = {
    "cost_limit_usd": lambda batch, value: batch.add_cost_limit(usd=value),
    "time_limit_hours": lambda batch, value: batch.add_time_limit(hours=value),
    "realtime_limit_usd": lambda batch, value: batch.add_time_limit(
        hours=1.5, on_deadline="realtime", realtime_usd=value
    ),
    "margin_seconds": lambda batch, value: batch.add_time_limit(
        hours=1.5, on_deadline="realtime", realtime_usd=1, margin_seconds=value
    ),
    "state": lambda batch, value: batch.set_state(value),
    "reuse_state": lambda batch, value: batch.set_state(reuse_state=value),
}
"""How a batch is told what is not given to `Batch` by its name; what a run is told is the rest."""

WHEN_RUN = {"on_cancel": "cancel", "if_running": "", "wait": "", "canary": "", "min_valid": ""}
WHEN_RUN |= {"approve": ""}
OF_RUN = sorted(RunOptions.model_fields)


def values(name: str) -> dict[str, Any]:
    names = [name, *filter(None, [BESIDES.get(name)])]
    return {each: TOLD[each][0] for each in names}


def flags(name: str) -> list[str]:
    return [*TOLD[name][1], *(TOLD[BESIDES[name]][1] if name in BESIDES else [])]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the flags name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").write_text("q,key,path\nwhy,a,b\n")
    (tmp_path / "system.txt").write_text("Be brief.")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "prices.json").write_text(json.dumps(TOLD["prices"][0]))
    (tmp_path / "accounts.json").write_text(json.dumps(TOLD["accounts"][0]))
    return tmp_path


def command(verb: str, name: str) -> Any:
    """The arguments of a command that is told one option, as it gets them."""
    line = [verb, "jobs.csv", *flags(name)]
    _, bound, _ = app.parse_args(line, exit_on_error=False, print_error=False)
    return bound.arguments.get("told")


def test_every_option_is_here() -> None:
    """And is described: in a sentence, under a heading, with a flag and a default of its own."""
    found = options()
    assert TOLD.keys() == found.keys()
    all_flags = [
        flag for each in found.values() for flag in (how(each).flag, how(each).short) if flag
    ]
    assert len(set(all_flags)) == len(all_flags)
    for name, option in found.items():
        assert (option.description or "").endswith("."), name
        assert all(how(option).refused.values()), name
        assert option.get_default() != TOLD[name][0], name


@pytest.mark.parametrize("name", TOLD)
def test_on_the_command_line(name: str, here: Path) -> None:
    """What a flag says reaches the options, and those of a run its settings."""
    told = command("run", name)
    if "command" in how(options()[name]).refused:
        with pytest.raises(ValidationError, match="again"):
            given(told)
        return
    if name in {"jobs", "results_dir"}:
        return  # arguments of the command, on which every other case stands
    order = Order("jobs.csv", here / "out", given(told))
    # The file of the prices is read where they are used.
    wanted = "prices.json" if name == "prices" else TOLD[name][0]
    assert getattr(order.options(), name) == wanted
    if name in OF_RUN:
        settings = settings_of(batch_of(order.options(), here / "out"))
        assert getattr(settings, name) == wanted
    order.note()
    assert Order.noted(here / "out").told == order.told


def settings_of(batch: Batch, **told: Any) -> Any:
    batch.add_job(prompt="x", model="gpt-6-luna", max_tokens=10)
    return batch._prepare(**told)._session.settings


@pytest.mark.parametrize("name", TOLD)
def test_in_a_deployed_flow(name: str, here: Path) -> None:
    """`batchata deploy` makes it a parameter of the flow, which has it in its form."""
    refused = how(options()[name]).refused
    assert (name in jobs_from_file.parameters.properties) == ("flow" not in refused)
    if refused.get("command") or refused.get("flow"):
        return
    parameters = _parameters("jobs.csv", given(command("deploy", name)), "answers")
    wanted = TOLD[name][0]
    if name in {"jobs", "results_dir"}:
        wanted = str(here / wanted)
    sent = json.loads(json.dumps(parameters))
    assert getattr(FileOptions.of(jobs_from_file.validate_parameters(sent)), name) == wanted


@pytest.mark.parametrize(
    ("name", "given", "sent"),
    [
        ("state", "rec", "{here}/rec"),
        ("state", "./a/rec", "{here}/a/rec"),
        ("state", "s3-bucket/rec", "s3-bucket/rec"),
        ("documents_root", "docs", "{here}/docs"),
        ("documents_root", "s3://bucket/docs", "s3://bucket/docs"),
    ],
)
def test_a_folder_of_a_deployed_flow_is_that_of_the_command(
    name: str, given: str, sent: str, here: Path
) -> None:
    """A worker has another current folder: it would not find the records of its own last try."""
    assert _parameters("jobs.csv", {name: given}, "out")[name] == sent.format(here=here)


@pytest.mark.parametrize("name", TOLD)
def test_in_a_block(name: str) -> None:
    """A field of the block reaches the batch that it triggers; others are refused with why."""
    told = {"jobs": "jobs.csv", **values(name)}
    why = how(options()[name]).refused.get("block")
    if why is not None:
        with pytest.raises(pydantic.ValidationError, match=f"{name} cannot be given"):
            JobsFile(**told)
        return
    block = JobsFile(**told)
    assert getattr(block, name) == TOLD[name][0]
    if name in OF_RUN:
        told |= {"prompt": "Say {q}", "model": "gpt-6-luna", "results_dir": "out"}
        made = JobsFile(**told)._batch("monday")
        assert getattr(made._prepare()._session.settings, name) == TOLD[name][0]


@pytest.mark.parametrize("name", OF_RUN)
def test_in_python(name: str, here: Path) -> None:
    """`Batch`, its setters and `run` give it, each by the name that the option says."""
    value, said = TOLD[name][0], python(name)
    assert said.partition("(")[0] in {"Batch", "run", *dir(Batch)}
    batch = Batch(here / "out", **({} if name != "shared_budget" else {"budget": value}))
    if name == "shared_budget":
        batch.add_cost_limit(usd=1)
    elif name in PYTHON:
        PYTHON[name](batch, value)
    elif name not in WHEN_RUN:
        batch = Batch(here / "out", **{name: value})
    told: dict[str, Any] = {}
    if name == "on_cancel":
        told = {"cancel": value}
    elif name in WHEN_RUN:
        told = {"told": {name: value, **({"canary": 0.1} if name == "approve" else {})}}
    assert getattr(settings_of(batch, **told), name) == value


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"max_attempts": 32}, "max_attempts must be at most 31, not 32"),
        ({"realtime_limit_usd": 1}, "a realtime limit is for the end of a time limit"),
        ({"time_limit_hours": 1, "margin_seconds": 3600}, "inside the time limit"),
        ({"result_format": "xml"}, "result_format must be 'jsonl', 'json' or 'parquet', not 'xml'"),
        ({"quota": {"m": 0}}, r"quota\['m'\]"),
        ({"no_such": 1}, "there is no option 'no_such'"),
        ({"approve": True}, "needs a canary"),
        ({"raw_files": "maybe"}, "raw_files: .* not 'maybe'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_our_words(told: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RunOptions.of(told)


def test_what_is_documented_is_what_there_is() -> None:
    """The docstrings of `Batch` and `run` have a line for each option that they take by name."""
    for text in (Batch.__doc__, Batch.run.__doc__):
        assert text
    for name in ("max_attempts", "task_retries", "prices"):
        assert f"{name}: {options()[name].description}" in (Batch.__doc__ or "")
    assert f"canary: {options()['canary'].description}" in (Batch.run.__doc__ or "")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", '{"lab": {"kind": "openai"}, "lab": {"kind": "openai"}}', "'lab' stands there"),
        ("a.toml", '[lab]\nkind = "openai"\n[lab]\nkind = "openai"\n', "cannot be read"),
        ("a.json", '["lab"]', "must map names to tables, and holds list"),
        ("a.json", '{"lab": ', "cannot be read"),
        ("gone.json", None, "No such file"),
    ],
)
def test_a_file_of_accounts_that_is_none(tmp_path, name, text, reason):
    """JSON itself lets the last of two win: jobs would go to an endpoint that nobody looked at."""
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValidationError, match=reason):
        Batch(tmp_path / "results", accounts=str(tmp_path / name))
