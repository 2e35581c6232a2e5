"""The arguments and options that commands share, and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

OPTUNA = "optuna:"  # what a `--to` begins with
FAMILIES = Literal["ema", "damped", "belay", "push"]
METHODS = Literal["ema_of_ema", "pace", "primal_averaging", "nesterov"]
PICTURES = (  # that `plot` draws
    "comparison",
    "coordinates",
    "regimes",
    "riders",
    "stability",
    "curves",
    "response",
    "importance",
    "parallel",
)


def refuse_passwords(option: typer.CallbackParam, value: Any) -> Any:
    """An option's value; raises BadInput if it holds a password."""
    if value:
        from study.options import check_no_password

        urls = [value.removeprefix(OPTUNA)] if isinstance(value, str) else value
        check_no_password(option.opts[0], urls)
    return value


Name = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")]
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's YAML file.")]
Tracking = Annotated[
    str | None,
    typer.Option(callback=refuse_passwords, help="MLflow tracking URI [default: MLFLOW_TRACKING_URI or .belay-study]"),
]
Storage = Annotated[
    str | None,
    typer.Option(
        callback=refuse_passwords, help="Database URL of the ledger [default: BELAY_STORAGE_URL or .belay-study]"
    ),
]
Form = Annotated[Literal["table", "json", "yaml"], typer.Option("--format", help="How to print it.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write [default: stdout]")]
Inline = Annotated[
    bool, typer.Option("--inline", help="Train in this process, without Ray: same settings, results and records.")
]
Override = Annotated[
    list[str],
    typer.Option(
        "--set", callback=refuse_passwords, metavar="KEY=VALUE", help="Change the config: seeds=16, search.seed=1."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        envvar="BELAY_ADDRESS",
        show_envvar=False,
        metavar="URL",
        help="Do it as a job of the Ray cluster whose dashboard is at this URL [default: BELAY_ADDRESS, or here]",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="With --address: start the job and say how to follow it, at once.")
]
