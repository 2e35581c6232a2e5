"""Commands that come before a study: `tasks`, `init`, `schema` and `doctor`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from study.cli.parameters import Form, Storage, Tracking


def tasks(form: Form = "table") -> None:
    """List the built-in tasks.

    With their hyperparameters and metrics.
    """
    from study.design.tasks import catalogue
    from study.show import show_catalogue, show_data

    if form == "table":
        show_catalogue(catalogue())
    else:
        show_data(catalogue(), form)


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    task: Annotated[
        Path | None, typer.Option(metavar="NAME.py", help="Write a task of your own to start from, too.")
    ] = None,
) -> None:
    """Write a commented config to start from."""
    from study.design.starter import write_starter

    write_starter(path, task)
    written = f"{task} and {path}" if task else str(path)
    typer.echo(f"wrote {written}; belay-study run {shlex.quote(str(path))}", err=True)


def schema() -> None:
    """Print the JSON schema of a config.

    For editors and for checks elsewhere.
    """
    from study.design.config import StudyConfig
    from study.show import show_data

    show_data(StudyConfig.model_json_schema(), "json")


def doctor(tracking: Tracking = None, storage: Storage = None) -> None:
    """Check what a study needs.

    Says what is installed, reachable and writable; exits with 1 if a study could not run.
    """
    from study.doctor import examine

    checks = examine(tracking, storage)
    for check in checks:
        typer.echo(f"{'ok  ' if check.good else 'BAD '} {check.name:<12}{check.text}")
    if not all(check.good for check in checks):
        raise typer.Exit(1)
