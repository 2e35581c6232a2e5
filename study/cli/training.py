"""Commands that change what there is of a study: `run`, `resume`, `extend`, `sync`, `delete` and `stop`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.parameters import (
    Address,
    Config,
    Detach,
    Inline,
    Name,
    Override,
    Storage,
    Tracking,
    refuse_passwords,
)
from study.cli.process import here_or_there, last_words, say, terminated_as_interrupted
from study.errors import BadInput

if TYPE_CHECKING:
    from study.design.study import Study
    from study.options import Chosen


@here_or_there
def run(
    config: Config,
    override: Override = [],  # noqa: B006 # typer never changes it
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the config and say what would be run.")] = False,
    inline: Inline = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Train the first setting's first seed in this process, with tracebacks; keep nothing."
        ),
    ] = False,
    tracking: Tracking = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
) -> None:
    """Run a study and print its answer.

    One that was begun before goes on where it was; one that is finished only prints its answer.
    """
    from study.design.config import load_config
    from study.design.study import Study
    from study.options import connecting

    study = Study.of(load_config(config, override))
    storage, tracking = storage or study.config.storage.url, tracking or study.config.tracking.uri
    with connecting(storage, tracking, inline, hurried=False) as chosen:
        if study.config.search.start_from is not None:
            from study.earlier import begun

            study = begun(study, chosen.connections, say)
        if dry_run:
            _show_plan(study)
        elif debug:
            _debug(study)
        else:
            _run(study, chosen)


@here_or_there
def resume(
    study: Name,
    inline: Inline = False,
    tracking: Tracking = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
) -> None:
    """Finish an interrupted study."""
    from study.design.study import Study
    from study.execute.ledger import stored_config
    from study.options import connecting

    with connecting(storage, tracking, inline, hurried=False) as chosen:
        _run(Study.of(stored_config(study, chosen.connections.storage)), chosen)


@here_or_there
def extend(
    study: Name,
    override: Annotated[
        list[str],
        typer.Option(
            "--set", callback=refuse_passwords, metavar="KEY=VALUE", help="What grows: seeds=16, search.settings=128."
        ),
    ],
    inline: Inline = False,
    tracking: Tracking = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
) -> None:
    """Train more seeds or settings of a study.

    Only what is missing is trained, and the answer is that of a study that was asked so from the start.
    """
    from study.design.config import extended
    from study.design.study import Study
    from study.execute.ledger import stored_config
    from study.options import connecting

    with connecting(storage, tracking, inline, hurried=False) as chosen:
        _run(Study.of(extended(stored_config(study, chosen.connections.storage), override)), chosen)


@here_or_there
def sync(study: Name, tracking: Tracking = None, storage: Storage = None, address: Address = None) -> None:
    """Record a study in MLflow anew, from the ledger.

    Trains nothing. For records that are missing, damaged or in another place.
    """
    from study.design.study import Study
    from study.execute.ledger import stored_config
    from study.execute.sweep import sync as record
    from study.options import connecting

    with connecting(storage, tracking, hurried=False) as chosen, terminated_as_interrupted():
        progress = record(Study.of(stored_config(study, chosen.connections.storage)), chosen.connections, say)
    say(f"recorded {progress.done} of {progress.planned} settings of {study}")


@here_or_there
def delete(
    study: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it without asking.")] = False,
    tracking: Tracking = None,
    storage: Storage = None,
    address: Address = None,
) -> None:
    """Delete a study: its settings and results in the ledger, and its runs in MLflow.

    Shows what goes and asks first. MLflow keeps what it deletes in its trash until `mlflow gc`, here under another
    name, so that the study's own is free at once.
    """
    from study.execute.delete import delete as remove
    from study.execute.delete import stored
    from study.options import connecting
    from study.show import check_agreed

    with connecting(storage, tracking) as chosen, terminated_as_interrupted():
        if not yes:
            check_agreed(stored(study, chosen.connections).text)
        deleted = remove(study, chosen.connections, say)
    say(f"deleted {deleted.text}")
    if deleted.experiment:
        say(f"MLflow keeps them in its trash as the experiment {deleted.name_in_trash}, until `mlflow gc`")


@here_or_there
def stop(study: Name, address: Address = None) -> None:
    """End a study that runs on a cluster; what is done is kept.

    `belay-study resume STUDY --address URL` does the rest.
    """
    raise BadInput("`stop` must have the `--address` of a cluster, got none; Ctrl-C stops a study that runs here.")


def _run(study: Study, chosen: Chosen) -> None:
    from study.live import LiveView, opening

    config = study.config
    with (
        LiveView(config.objective.metric, opening(study, chosen.inline)) as view,
        terminated_as_interrupted(),
        last_words(chosen, config.name),
    ):
        if chosen.inline:
            from study.execute.inline import back_end
        else:
            from study.execute.cluster import back_end
        from study.execute.sweep import run as sweep

        sweep(study, chosen.connections, back_end, view.show, lambda line: view.say(chosen.repeated(line)))
    from study.answer import answer
    from study.findings.collect import load
    from study.findings.recommend import recommend

    typer.echo(chosen.repeated(answer(recommend(load(config.name, chosen.connections.tracking)))))


def _debug(study: Study) -> None:
    from study.execute.inline import debug
    from study.show import show_seed

    setting, result = debug(study)
    show_seed(setting, result)
    if result.state == "failed":
        raise typer.Exit(1)


def _show_plan(study: Study) -> None:
    from study.execute.plan import plan
    from study.execute.train.probe import room
    from study.show import show_plan

    show_plan(study, plan(study), room(study))
