"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from typing import NoReturn

import typer

from study.cli import preparing, reading, training
from study.errors import StudyError
from study.modules import collect_rarely

ENVIRONMENT = {  # of MLflow, which reads it as it is imported
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # at the end of each run, into the answer
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # on stderr
}
COMMANDS = {  # in the order of --help
    "run": training.run,
    "resume": training.resume,
    "extend": training.extend,
    "sync": training.sync,
    "delete": training.delete,
    "list": reading.list_studies,
    "status": reading.status,
    "best": reading.best,
    "regimes": reading.regimes,
    "importance": reading.importance,
    "compare": reading.compare,
    "export": reading.export,
    "report": reading.report,
    "plot": reading.plot,
    "stop": training.stop,
    "logs": reading.logs,
    "tasks": preparing.tasks,
    "init": preparing.init,
    "schema": preparing.schema,
    "doctor": preparing.doctor,
}

app = typer.Typer(
    help="Find a model's best weight averaging: sweep decay, damping and coupling, and say how sure the answer is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take half of the time of --help
)
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> NoReturn:
    """Runs the command line; an expected failure is one line on stderr and an exit code, never a traceback."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    collect_rarely()
    atexit.register(gc.freeze)  # or Python looks through all objects once more as it ends: two seconds of a run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of names that its encoding lacks, as on stderr
    try:
        code = app(standalone_mode=False)
    except StudyError as error:
        from study.options import with_options

        _fail(with_options(str(error)), error.exit_code)
    except typer.TyperException as error:
        _fail(" ".join(error.format_message().split()), getattr(error, "exit_code", 2))
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted.", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"belay-study: {message}", err=True)
    sys.exit(code)
