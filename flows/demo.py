"""What `make demo` runs: a mixed set of jobs over the documents beside this file.

Without a key it runs against the local sandbox; with `--provider anthropic`, `openai` or `both`
against the real thing, inside a cost limit and after saying what it can cost.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

# Prefect reads its settings when it is first imported, so they come before what imports it.
os.environ.update(
    {
        # What Prefect logs stays in its UI; it would come between the lines of the progress.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A first start makes Prefect's database, which can take longer than its 20 seconds.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        **os.environ,
    }
)

from pydantic import BaseModel, Field
from rich import box
from rich.console import Console
from rich.table import Table

from batchata_prefect import Batch, BatchataError, BatchRun, JobResult
from batchata_prefect.engine.server import is_own
from batchata_prefect.numbers import clock, dollars
from batchata_prefect.sandbox import Sandbox, SandboxError
from batchata_prefect.views.terminal import Progress

DOCUMENTS = Path(__file__).parent / "documents"
MODELS = {"anthropic": "claude-haiku-5-5", "openai": "gpt-6-luna"}
COST_LIMIT_USD = 0.5
SANDBOX_SECONDS = 3.0
USUAL_SERVER = "http://127.0.0.1:4200"
"""Where `prefect server start` listens; the server of this process ends with it."""
PREFECT_UNREACHABLE = ("Failed to reach API", "Timed out while attempting to connect")


class Invoice(BaseModel):
    """The fields of an invoice that a payment needs."""

    invoice_number: str
    vendor: str
    invoice_date: date
    due_date: date
    currency: str
    total: Decimal = Field(description="Amount to pay, tax included")


QUESTIONS = {
    "lease.txt": "What does the tenant pay, and when? Answer in two sentences.",
    "support-ticket.txt": "What is broken, and what helps until it is mended?",
    "meeting-notes.md": "List the open points with their owners.",
    "product-reviews.txt": "What do buyers like and dislike? Answer in two sentences.",
}
INVOICES = ("invoice-1042.pdf", "invoice-2297.pdf")


def jobs(providers: list[str]) -> Iterator[dict[str, Any]]:
    """Invoices as typed objects, questions about texts, and a plain prompt, for each provider."""
    for provider in providers:
        common = {"model": MODELS[provider]}
        for name in INVOICES:
            yield {
                **common,
                "id": f"{provider}-{Path(name).stem}",
                "file": DOCUMENTS / name,
                "prompt": "Read this invoice.",
                "response_model": Invoice,
                # Only Anthropic cites; the first of its invoices carries model and citations.
                "enable_citations": provider == "anthropic" and name == INVOICES[0],
                "metadata": {"document": name, "kind": "invoice"},
            }
        for name, question in QUESTIONS.items():
            yield {
                **common,
                "id": f"{provider}-{Path(name).stem}",
                "file": DOCUMENTS / name,
                "prompt": question,
                "metadata": {"document": name, "kind": "question"},
            }
        yield {
            **common,
            "id": f"{provider}-greeting",
            "messages": [{"role": "user", "content": "Greet the reader in five words."}],
            "metadata": {"kind": "plain"},
        }


def main() -> int:
    """Read the command line, run the demo, and turn what a person can mend into one sentence."""
    parser = argparse.ArgumentParser(prog="demo", description="A mixed job set, end to end.")
    parser.add_argument("--provider", choices=["sandbox", *MODELS, "both"], default="sandbox")
    parser.add_argument("--results-dir", type=Path, default=Path("demo-output"))
    asked = parser.parse_args()
    console = Console(highlight=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # In a pipe or a log file the lines would otherwise come behind those of standard error.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        return demo(asked.provider, asked.results_dir / asked.provider, console)
    except (BatchataError, SandboxError) as error:
        console.print(f"\nThe demo stopped: {error}", style="red", markup=False)
        return 1
    except RuntimeError as error:
        if not str(error).startswith(PREFECT_UNREACHABLE):
            raise
        console.print(
            f"\nThe demo stopped: {str(error).rstrip('.')}. If PREFECT_API_URL or the Prefect "
            "profile names a server, start it, or unset it to use a short-lived one; if not, the "
            "machine was too busy: try again.",
            style="red",
            markup=False,
        )
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. The same command goes on from here; nothing is paid twice.")
        return 130


def demo(provider: str, results_dir: Path, console: Console) -> int:
    """Run the jobs and say what came of them."""
    providers = list(MODELS) if provider in ("sandbox", "both") else [provider]
    # Providers tell when a batch was made in whole seconds.
    began = datetime.now(UTC).replace(microsecond=0)
    with ExitStack() as stack:
        if provider == "sandbox":
            console.print("Starting the sandbox, a local server in place of the providers.")
            os.environ.update(stack.enter_context(_sandbox(results_dir)).environment())
        batch = (
            # So few in a batch only to show several of them.
            Batch(results_dir=results_dir, items_per_batch=4)
            # Beside the results, so that removing the directory starts the demo over.
            .set_state(results_dir / "state")
            .set_default_params(max_tokens=1000)
            .add_cost_limit(usd=COST_LIMIT_USD)
            .add_jobs(jobs(providers))
        )
        if provider != "sandbox":
            planned = batch.run(dry_run=True).planned
            assert planned is not None
            upper = (planned["cost_upper_usd"] or 0.0) + (planned["reserved_usd"] or 0.0)
            console.print(
                f"This run buys answers from {' and '.join(providers)} for at most "
                f"{dollars(upper)}; the cost limit is {dollars(COST_LIMIT_USD)}."
            )
        console.print(f"Running {len(batch)} jobs as a Prefect flow; Prefect starts in 10 to 30 s.")
        with Progress(results_dir=results_dir, console=console) as progress:
            run = batch.run(on_progress=progress, progress_interval=0.5)
    report(run, began, provider == "sandbox", console)
    return 0 if run.manifest and not run.manifest["counts"]["failed"] else 1


def _sandbox(results_dir: Path) -> Sandbox:
    """The sandbox with the state and the address of the run before, as a provider has them."""
    data_dir = results_dir / "sandbox-server"
    data_dir.mkdir(parents=True, exist_ok=True)
    kept = data_dir / "port"
    sandbox = Sandbox(
        data_dir, seconds=SANDBOX_SECONDS, port=int(kept.read_text()) if kept.exists() else 0
    )
    sandbox.start()
    kept.write_text(str(sandbox.port))
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    return sandbox


def report(run: BatchRun, began: datetime, in_sandbox: bool, console: Console) -> None:
    """Print answers, batches, cost, and where to look further."""
    manifest = run.manifest
    assert manifest is not None
    answers = _table("Answers")
    answers.add_column("job", no_wrap=True)
    answers.add_column("status", no_wrap=True)
    answers.add_column("answer", no_wrap=True, overflow="ellipsis", ratio=1)
    answers.add_column("cost", justify="right", no_wrap=True)
    cited: list[str] = []
    for result in run.iter_results():
        answers.add_row(result.job_id, result.status, _snippet(result), dollars(result.cost_usd))
        cited.extend(_citations(result))
    console.print()
    console.print(answers)
    console.print()
    for line in cited:
        console.print(line, markup=False, overflow="ellipsis", no_wrap=True)

    batches = _table("Provider batches")
    batches.add_column("batch", no_wrap=True)
    batches.add_column("id at the provider", ratio=1, overflow="fold")
    batches.add_column("status", no_wrap=True)
    batches.add_column("cost", justify="right", no_wrap=True)
    for each in manifest["batches"]:
        batches.add_row(each["name"], each["batch_id"], each["status"], dollars(each["cost_usd"]))
    console.print()
    console.print(batches)

    counts, where = manifest["counts"], _short(run.results_dir)
    sent = [b for b in manifest["batches"] if datetime.fromisoformat(b["sent_at"]) >= began]
    play = " (the sandbox's play money)" if in_sandbox else ""
    console.print(
        f"\n{counts['completed']} of {counts['total']} jobs answered in {len(manifest['batches'])} "
        f"batches for {dollars(manifest['cost_usd'])}{play}."
    )
    if sent:
        seconds = (datetime.now(UTC) - began).total_seconds()
        console.print(f"This run submitted {len(sent)} batches and took {clock(seconds)}.")
        console.print("Run the same command again: it submits nothing.")
    else:
        console.print("This run submitted nothing: an earlier run had sent every job already.")
        console.print(f"To start over, remove {where}.", soft_wrap=True)
    console.print(f"\nResults:  {where / 'results.jsonl'}", soft_wrap=True)
    console.print(f"Summary:  {where / 'manifest.json'}", soft_wrap=True)
    _say_where_prefect_shows_it(run, console)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        expand=True,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _short(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _snippet(result: JobResult) -> str:
    if isinstance(result.parsed_response, Invoice):
        invoice = result.parsed_response
        total = f"{invoice.total:,.2f} {invoice.currency}"
        return f"{invoice.invoice_number}, {total}, {invoice.vendor}"
    return " ".join((result.raw_response or result.error or "").split())


def _citations(result: JobResult) -> Iterator[str]:
    if result.citation_mappings:
        yield f"Citations of {result.job_id}"
    for field, citations in (result.citation_mappings or {}).items():
        for citation in citations[:1]:
            page = f", page {citation.page}" if citation.page else ""
            yield f"  {field} from {citation.text.strip()!r} ({citation.source}{page})"


def _say_where_prefect_shows_it(run: BatchRun, console: Console) -> None:
    from prefect.settings import PREFECT_API_URL
    from prefect.utilities.urls import url_for

    if run.flow_run_id is None:
        return
    if PREFECT_API_URL.value() and not is_own():
        console.print(f"Prefect:  {url_for('flow-run', run.flow_run_id)}", soft_wrap=True)
    else:
        prefect = _short(Path(sys.executable).parent / "prefect")
        console.print(f"Prefect:  {prefect} server start", soft_wrap=True)
        page = f"{USUAL_SERVER}/runs/flow-run/{run.flow_run_id}"
        console.print(f"          and then {page}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
