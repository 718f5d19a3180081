"""The `batchata` command: start a set of jobs, look at it, get its answers, try again.

Standard output holds nothing but results: rows, tables that were asked for, or with `--json` one
object with the field `schema`. What is said to a person beside that goes to standard error.

Exit codes: 0 all jobs are answered, 1 some failed or were cancelled, 2 the command or the jobs are
wrong and nothing was sent, 3 a provider, Prefect or the records said no, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

from cyclopts import App, Group
from dotenv import load_dotenv

from batchata_prefect.cli.output import exit_code, fail, of_file
from batchata_prefect.errors import BatchataError

_HELP = """Answer very large sets of LLM jobs through the providers' batch APIs.

Try it without a key:

`batchata run questions.csv --prompt "{question}" --model gpt-6-luna --sandbox`

Exit codes: 0 all jobs are answered, 1 some are not, 2 the command or the jobs are wrong and nothing
was sent, 3 a provider, Prefect or the records said no, 130 Ctrl-C, 143 told to terminate.
"""
_START, _LOOK = Group("Start", sort_key=1), Group("Look at answers", sort_key=2)
_MEND, _SETUP = Group("Look after a run", sort_key=3), Group("Set up", sort_key=4)
_MORE = Group("More", sort_key=5)

app = App(
    name="batchata",
    help=_HELP,
    help_format="markdown",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
    group_commands=_MORE,
)
for _number, (_name, _where, _group, _help) in enumerate(
    (
        ("run", "runs:run", _START, "Send every job of a file and write the answers."),
        ("plan", "runs:plan", _START, "Say what a run would send and cost; send nothing."),
        ("retry", "runs:retry", _START, "Try again what was not answered, changed or not."),
        ("results", "answers:results", _LOOK, "Show, filter or export the answers."),
        ("report", "answers:report", _LOOK, "Print cost, saving, failures and what to do."),
        ("diff", "diffs:diff", _LOOK, "Compare two runs over the same jobs."),
        ("status", "provider_side:show_status", _MEND, "Show what is in flight."),
        ("cancel", "provider_side:cancel_batches", _MEND, "Cancel what is in flight."),
        ("adopt", "provider_side:adopt_batches", _MEND, "Find batches that nobody knows of."),
        ("models", "known_models:models", _SETUP, "Show models with batch prices and limits."),
        ("sandbox", "serving:sandbox", _SETUP, "Serve both APIs here, without a key."),
        ("deploy", "serving:deploy", _SETUP, "Have Prefect run a file on a schedule."),
    )
):
    # By name, so that each command imports only what it needs.
    app.command(
        f"batchata_prefect.cli.{_where}",
        name=_name,
        group=_group,
        # The list of commands loads none of them; a command alone is told by its own docstring.
        help=_help if sys.argv[1:] in ([], ["--help"], ["-h"]) else None,
        sort_key=_number,
    )
cast("Any", app).register_install_completion_command(group=_MORE)


_WRONG_PLACE = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""What the command was told wrong; other errors of files, such as a full disk, are not its."""


def main() -> None:
    """The command; what a person can mend is told without a traceback."""
    from pathlib import Path

    # Prefect reads its settings when it is first imported, which no command has done yet. What it
    # logs stays in its UI: the command tells of failures and errors itself. What it serves has
    # nobody else to tell.
    if sys.argv[1:2] != ["deploy"]:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # A schedule may have closed them.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    try:
        load_dotenv(Path.cwd() / ".env")
        code = app(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(code)
    except BatchataError as error:
        # Loaded by then, as nothing else raises these.
        from batchata_prefect.cli.options import spoken

        fail(spoken(error))
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # The reader of our output has seen enough, as head does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        # Whichever command asked for it: a server of Prefect that is not there is no fault of ours.
        told = None
        if "prefect" in sys.modules:
            from batchata_prefect.engine.trouble import refused, unreachable

            told = refused(error) or unreachable(error)
        if told is not None:
            fail(told)
            sys.exit(3)
        if not isinstance(error, OSError):
            raise
        # Whichever file it was about: what a run has sent by then is on record, and it says so.
        fail(of_file(error))
        sys.exit(2 if isinstance(error, _WRONG_PLACE) else 3)
    except KeyboardInterrupt as error:
        fail(str(error) or "interrupted")
        sys.exit(130)
