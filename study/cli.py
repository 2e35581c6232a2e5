"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import functools
import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from study.errors import BadInput, StudyError

if TYPE_CHECKING:
    from study.design.study import Study
    from study.findings.collect import Records
    from study.options import Chosen

ENVIRONMENT = {  # of MLflow, which reads it as it is imported
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # at the end of each run, into the answer
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # on stderr
}

OPTUNA = "optuna:"  # what a `--to` begins with
FAMILIES = Literal["ema", "damped", "belay", "push"]
METHODS = Literal["ema_of_ema", "pace", "primal_averaging", "nesterov"]
PICTURES = (  # that `plot` draws
    "comparison",
    "coordinates",
    "regimes",
    "stability",
    "curves",
    "response",
    "importance",
    "parallel",
)

app = typer.Typer(
    help="Find a model's best weight averaging: sweep decay, damping and coupling, and say how sure the answer is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would take half of the time of --help
)


def _refuse_passwords(option: typer.CallbackParam, value: Any) -> Any:
    if value:
        from study.options import check_no_password

        urls = [value.removeprefix(OPTUNA)] if isinstance(value, str) else value
        check_no_password(option.opts[0], urls)
    return value


Name = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")]
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's YAML file.")]
Tracking = Annotated[
    str | None,
    typer.Option(callback=_refuse_passwords, help="MLflow tracking URI [default: MLFLOW_TRACKING_URI or .belay-study]"),
]
Storage = Annotated[
    str | None,
    typer.Option(
        callback=_refuse_passwords, help="Database URL of the ledger [default: BELAY_STORAGE_URL or .belay-study]"
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
        "--set", callback=_refuse_passwords, metavar="KEY=VALUE", help="Change the config: seeds=16, search.seed=1."
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


def _here_or_there(command: Callable[..., None]) -> Callable[..., int | None]:
    """Has a command run as a job of a cluster where `--address` names one, unless it is a dry run."""

    @functools.wraps(command)
    def called(**given: Any) -> int | None:
        address = given["address"]
        if address and not given.get("dry_run"):
            from study.remote.commands import elsewhere

            with _terminated_as_interrupted():
                return elsewhere(address, command.__name__.partition("_")[0], given)
        if given.get("detach"):
            raise BadInput("`--detach` must have the `--address` of a cluster, got none; add it, or leave both out.")
        command(**given)
        return None

    return called


@app.command()
@_here_or_there
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

            study = begun(study, chosen.connections, _say)
        if dry_run:
            _show_plan(study)
        elif debug:
            _debug(study)
        else:
            _run(study, chosen)


@app.command()
@_here_or_there
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


@app.command()
@_here_or_there
def extend(
    study: Name,
    override: Annotated[
        list[str],
        typer.Option(
            "--set", callback=_refuse_passwords, metavar="KEY=VALUE", help="What grows: seeds=16, search.settings=128."
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


@app.command()
@_here_or_there
def sync(study: Name, tracking: Tracking = None, storage: Storage = None, address: Address = None) -> None:
    """Record a study in MLflow anew, from the ledger.

    Trains nothing. For records that are missing, damaged or in another place.
    """
    from study.design.study import Study
    from study.execute.ledger import stored_config
    from study.execute.sweep import sync as record
    from study.options import connecting

    with connecting(storage, tracking, hurried=False) as chosen, _terminated_as_interrupted():
        progress = record(Study.of(stored_config(study, chosen.connections.storage)), chosen.connections, _say)
    _say(f"recorded {progress.done} of {progress.planned} settings of {study}")


@app.command()
@_here_or_there
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

    def say(line: str) -> None:
        typer.echo(line, err=True)

    with connecting(storage, tracking) as chosen, _terminated_as_interrupted():
        if not yes:
            check_agreed(stored(study, chosen.connections).text)
        deleted = remove(study, chosen.connections, say)
    say(f"deleted {deleted.text}")
    if deleted.experiment:
        say(f"MLflow keeps them in its trash as the experiment {deleted.name_in_trash}, until `mlflow gc`")


@app.command(name="list")
@_here_or_there
def list_studies(form: Form = "table", tracking: Tracking = None, address: Address = None) -> None:
    """List the studies on record."""
    from study.findings.collect import studies
    from study.options import connecting
    from study.show import show_rows

    with connecting(tracking=tracking) as chosen:
        found = studies(chosen.connections.tracking)
        running = found["status"] == "running"
        if running.any():
            found.loc[running & found["study"].isin(_killed(chosen.connections.storage)), "status"] = "killed"
    show_rows(found, form)


@app.command()
@_here_or_there
def status(study: Name, form: Form = "table", storage: Storage = None, address: Address = None) -> None:
    """Say how far a study is."""
    import pandas as pd

    from study.design.study import Study
    from study.execute.lease import driven
    from study.execute.ledger import counts, stored_config
    from study.options import connecting
    from study.show import show_rows

    with connecting(storage) as chosen:
        url = chosen.connections.storage
        planned = Study.of(stored_config(study, url))
        count = counts(planned, url)
        running = driven(url).get(study, False)
    row = {
        "study": study,
        "running": running,
        "planned": count.planned,
        "done": count.done,
        "diverged": count.diverged,
        "failed": count.failed,
    }
    row["left"] = count.planned - count.done
    if planned.config.search.rungs:
        row["pruned"] = count.pruned
    if planned.config.search.race:
        row["raced"] = count.raced
    if planned.config.confirm is not None:
        row |= {"finalists": planned.config.confirm.finalists, "confirmed": count.confirmed}
    show_rows(pd.DataFrame([row]), form)


@app.command()
@_here_or_there
def best(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="The study's name.")] = None,
    table: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Read a table of results (.csv, .tsv, .parquet), not a study."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The column of the table that decides.")] = None,
    mode: Annotated[Literal["max", "min"] | None, typer.Option(help="Which of its values are better.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Print this many settings, best first.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Print the best setting for each value, or quarter, of a parameter.")
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Print the settings that failed, and the end of each error; whole in json."),
    ] = False,
    form: Form = "table",
    tracking: Tracking = None,
    address: Address = None,
) -> None:
    """Print the best setting and how sure it is.

    With its regime, its rivals, and how much better it is than the best EMA and than no averaging. Of a study, or of a
    table with a row for each setting and seed: a column `seed`, the metric, and all others parameters.
    """
    from study.answer import answer
    from study.findings.compare import best_by, ranking
    from study.findings.failures import failures
    from study.findings.recommend import as_data, recommend
    from study.options import connecting
    from study.show import show_data, show_failures, show_rows

    _check_source(study, table, metric, mode, tracking)
    with connecting(tracking=tracking) as chosen:
        records = _records(study, table, metric, mode, chosen)
        if failed:
            show_failures(failures(records), form)
            return
        found = recommend(records)
    if by is not None:
        show_rows(best_by(records, by), form)
    elif top is not None:
        show_rows(ranking(records).head(top).reset_index(), form)
    elif form == "table":
        typer.echo(chosen.repeated(answer(found)))
    else:
        show_data(as_data(found), form)


@app.command()
@_here_or_there
def regimes(
    study: Name,
    top: Annotated[int, typer.Option(min=1, help="How many settings, best first.")] = 5,
    form: Form = "table",
    tracking: Tracking = None,
    address: Address = None,
) -> None:
    """Print the region of the truly best setting, and the best settings as oscillators.

    The region allows for chance, which decided what measured best: probabilities of regimes and families, ranges of
    figures, how much of the objective either system of coordinates explains. Then how many settings went beyond the
    stability limit of training, and what they came to. Then of each setting: regime, memory as a share of the run,
    damping ratio, mass ratio, lag, half-life, noise gain, overshoot, the factors on the learning rate (of the
    gradient's immediate step, of slow modes), stability limit.
    """
    from study.findings.collect import load
    from study.findings.explained import explained
    from study.findings.recommend import recommend
    from study.findings.regimes import regimes as tabulate
    from study.findings.regimes import region
    from study.findings.stability import stability, unknown
    from study.insights import region_text, stability_text
    from study.options import connecting
    from study.show import as_plain, rows_of, show_data, show_rows

    with connecting(tracking=tracking) as chosen:
        records = load(study, chosen.connections.tracking)
        best = recommend(records).setting
    where, shares, limit = region(records, best), explained(records), stability(records, best)
    settings = tabulate(records, top).reset_index()
    if form == "table":
        typer.echo(f"{region_text(where, shares)}\n\n{stability_text(limit, unknown(records))}\n")
        show_rows(settings, form)
    else:
        found = {"region": as_plain(where), "explained": as_plain(shares), "stability": as_plain(limit)}
        show_data(found | {"settings": rows_of(settings)}, form)


@app.command()
@_here_or_there
def importance(study: Name, form: Form = "table", tracking: Tracking = None, address: Address = None) -> None:
    """Print which parameters matter, and which act together.

    By Optuna's fANOVA (shares of the objective's variance) and PED-ANOVA (being among the best), with intervals.
    """
    from study.findings.collect import load
    from study.findings.importance import importances
    from study.insights import importance_tables, importance_text
    from study.options import connecting
    from study.show import as_plain, show_data, show_rows

    with connecting(tracking=tracking) as chosen:
        found = importances(load(study, chosen.connections.tracking))
    if form != "table":
        show_data(as_plain(found), form)
        return
    typer.echo(importance_text(found))
    for table in importance_tables(found):
        typer.echo()
        show_rows(table, form)


@app.command()
@_here_or_there
def compare(
    study: Name,
    baseline: Annotated[
        Literal[FAMILIES, "none", METHODS] | None,
        typer.Option(help="Compare with the best of this one alone [default: with each family that was measured]"),
    ] = None,
    family: Annotated[
        Literal[FAMILIES, METHODS] | None,
        typer.Option(help="Compare the best of this family or method [default: the best setting]"),
    ] = None,
    form: Form = "table",
    tracking: Tracking = None,
    address: Address = None,
) -> None:
    """Compare the best setting, or the best of a family, with other families.

    With the best EMA, damped average, BELAY, push (coupling below 0) and with no averaging, paired over seeds; or with
    the best setting that is a method of `belay.methods`.
    """
    from study.findings.collect import load
    from study.findings.compare import best_of, comparisons
    from study.findings.recommend import recommend
    from study.options import connecting
    from study.show import show_rows

    with connecting(tracking=tracking) as chosen:
        records = load(study, chosen.connections.tracking)
        best = best_of(records, family) if family else recommend(records).setting
        show_rows(comparisons(records, best, baseline), form)


@app.command()
@_here_or_there
def export(
    study: Name,
    output: Output = None,
    to: Annotated[
        str | None,
        typer.Option(
            callback=_refuse_passwords,
            metavar="optuna:URL",
            help="Write all settings as an Optuna study into this database instead, for optuna-dashboard.",
        ),
    ] = None,
    form: Annotated[
        Literal["yaml", "csv", "parquet"],
        typer.Option("--format", help="A defaults file (yaml), or a table with a row for each setting and seed."),
    ] = "yaml",
    tracking: Tracking = None,
    storage: Storage = None,
    address: Address = None,
) -> None:
    """Write the best setting as a defaults file, or all results as a table.

    The defaults file has its evidence, and is for `belay.load_defaults`. The table has parameters, seed, role, state
    and every metric's last value, riders and fresh seeds included; `best --from` reads it too.
    """
    if to is not None:
        _export_to_optuna(study, to, output, storage, form)
        return
    from study.findings.collect import load, load_rows
    from study.findings.recommend import defaults_file, recommend
    from study.findings.rows import export as as_table
    from study.options import connecting
    from study.show import deliver, export_use

    with connecting(tracking=tracking) as chosen:
        use = "rows" if chosen.address else export_use(form, output)  # a client takes what is written there to stdout
        if form == "yaml":
            content = defaults_file(recommend(load(study, chosen.connections.tracking))).encode()
        else:
            content = as_table(load_rows(study, chosen.connections.tracking), form)
    deliver(content, output, use)


@app.command()
@_here_or_there
def report(study: Name, output: Output = None, tracking: Tracking = None, address: Address = None) -> None:
    """Write a report as one HTML file, with the answer, pictures and data.

    It needs no network and no other file: the answer in two sentences, the comparisons with their intervals, the
    objective over the average's coordinates, the regime map, learning curves, the average's responses, every setting's
    figures and how to reproduce them.
    """
    from study.findings.collect import load
    from study.options import connecting
    from study.report.page import report as page
    from study.show import deliver

    with connecting(tracking=tracking) as chosen:
        typer.echo(f"drawing the report of {study}", err=True)
        text = page(load(study, chosen.connections.tracking))
    deliver(text.encode(), output, "report")


@app.command()
@_here_or_there
def plot(
    study: Name,
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"Which picture: {', '.join(PICTURES)}.")],
    output: Output = None,
    form: Annotated[
        Literal["png", "svg"] | None,
        typer.Option("--format", help="Which kind of file [default: what its name ends in, or svg]"),
    ] = None,
    theme: Annotated[Literal["light", "dark"], typer.Option(help="Its colours.")] = "light",
    tracking: Tracking = None,
    address: Address = None,
) -> None:
    """Write one of the report's pictures as a PNG or SVG file."""
    from study.findings.collect import load
    from study.options import connecting
    from study.pictures.catalogue import image, picture
    from study.show import deliver, picture_form

    chosen_form = picture_form(output, form)
    with connecting(tracking=tracking) as chosen:
        content = image(picture(load(study, chosen.connections.tracking), kind), chosen_form, theme)
    deliver(content, output, "plot")


@app.command()
@_here_or_there
def stop(study: Name, address: Address = None) -> None:
    """End a study that runs on a cluster; what is done is kept.

    `belay-study resume STUDY --address URL` does the rest.
    """
    raise BadInput("`stop` must have the `--address` of a cluster, got none; Ctrl-C stops a study that runs here.")


@app.command()
@_here_or_there
def logs(
    study: Name,
    setting: Annotated[int | None, typer.Argument(metavar="[SETTING]", help="A setting's number.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Without SETTING: go on until the job ends.")] = False,
    storage: Storage = None,
    address: Address = None,
) -> None:
    """Print what a setting printed as it trained, or what the newest job of a study on a cluster has logged.

    Of a setting that is done: stdout and stderr, or their end, with warnings. What settings print that train side by
    side is not told apart.
    """
    if setting is None:
        raise BadInput(
            "`logs` must have a SETTING or the `--address` of a cluster, got neither; a study that runs here shows its "
            "progress itself, and Ctrl-C stops it."
        )
    if follow:
        raise BadInput(f"`--follow` must come without a SETTING, got {setting}; leave one of them out.")
    from study.execute.ledger import printed
    from study.options import connecting
    from study.show import show_printed

    with connecting(storage) as chosen:
        pages = printed(study, setting, chosen.connections.storage)
    show_printed(pages)


@app.command()
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


@app.command()
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


@app.command()
def schema() -> None:
    """Print the JSON schema of a config.

    For editors and for checks elsewhere.
    """
    from study.design.config import StudyConfig
    from study.show import show_data

    show_data(StudyConfig.model_json_schema(), "json")


@app.command()
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


def _check_source(
    study: str | None, table: Path | None, metric: str | None, mode: str | None, tracking: str | None
) -> None:
    """Raises BadInput unless a study is named, or a table with all that it needs."""
    if (study is None) == (table is None):
        got = "neither" if study is None else f"{study} and {table}"
        raise BadInput(f"`best` must have either a STUDY or `--from FILE`, got {got}; name one of them.")
    for option, given in (("--metric", metric), ("--mode", mode)):
        if (given is None) != (table is None):
            rule, got = (
                ("come with", "none; add it") if table else ("come without a study, with", f"{given}; leave it out")
            )
            raise BadInput(f"`{option}` must {rule} `--from`, got {got}.")
    if table is not None and tracking is not None:
        raise BadInput(f"`--tracking` must come with a study, got {table}; leave it out.")


def _records(study: str | None, table: Path | None, metric: str | None, mode: Any, chosen: Chosen) -> Records:
    """The records of a study, or of a table."""
    if table is not None:
        from study.findings.table import read_table

        return read_table(table, str(metric), mode)
    from study.findings.collect import load

    return load(str(study), chosen.connections.tracking)


def _killed(url: str) -> list[str]:
    """The studies of the ledger whose drivers were killed; none where it cannot say."""
    from study.execute.lease import driven

    try:
        return [name for name, alive in driven(url).items() if not alive]
    except BadInput as error:
        _say(f"the ledger does not say which drivers were killed: {error}")
        return []


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _run(study: Study, chosen: Chosen) -> None:
    from study.live import LiveView, opening

    config = study.config
    with (
        LiveView(config.objective.metric, opening(study, chosen.inline)) as view,
        _terminated_as_interrupted(),
        _last_words(chosen, config.name),
    ):
        if chosen.inline:
            from study.execute.inline import back_end
        else:
            from study.execute.tune import back_end
        from study.execute.sweep import run as sweep

        sweep(study, chosen.connections, back_end, view.show, lambda line: view.say(chosen.repeated(line)))
    from study.answer import answer
    from study.findings.collect import load
    from study.findings.recommend import recommend

    typer.echo(chosen.repeated(answer(recommend(load(config.name, chosen.connections.tracking)))))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Has SIGTERM do what Ctrl-C does, and SIGHUP, which a terminal that is closed sends, unless nohup ignores it."""

    def interrupt(number: int, _: object) -> NoReturn:
        if number == signal.SIGHUP:  # both the shell and the system may tell it
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _last_words(chosen: Chosen, name: str) -> Iterator[None]:
    """Has a process beside this one print a line if this one is ended meanwhile.

    Ray ends its driver's process, without a word and without an exception, when Ray's own process on the machine dies.
    """
    text = f"this process was killed{'' if chosen.inline else ' or lost its Ray'}; `belay-study resume {name}` goes on."
    line = f"belay-study: {chosen.repeated(text)}"
    command = ["sh", "-c", 'read -r ended || printf "%s\\n" "$1" >&2', "sh", line]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as beside:
        try:
            yield
        finally:
            beside.communicate(b"ended\n")


def _export_to_optuna(name: str, to: str, output: Path | None, storage: str | None, form: str) -> None:
    from study.design.places import database_url, without_password
    from study.design.study import Study
    from study.execute.export import to_optuna
    from study.execute.ledger import stored_config
    from study.options import connecting

    given = to.removeprefix(OPTUNA)
    if given in ("", to) or output is not None or form != "yaml":
        raise BadInput(
            "`--to` must be optuna: and a database's URL, without `--output` and `--format`, got "
            f"{without_password(to)}; write e.g. optuna:sqlite:///optuna.db."
        )
    with connecting(storage) as chosen:
        url = chosen.connections.storage
        names = to_optuna(Study.of(stored_config(name, url)), url, database_url(given))
    typer.echo(f"wrote {', '.join(names)} to {without_password(given)}", err=True)


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


def main() -> NoReturn:
    """Runs the command line; an expected failure is one line on stderr and an exit code, never a traceback."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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
