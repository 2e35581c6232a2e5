"""Commands that read what is on record of studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from study.cli.parameters import (
    FAMILIES,
    METHODS,
    OPTUNA,
    PICTURES,
    Address,
    Form,
    Name,
    Output,
    Storage,
    Tracking,
    refuse_passwords,
)
from study.cli.process import here_or_there, say
from study.errors import BadInput

if TYPE_CHECKING:
    from study.findings.collect import Records
    from study.options import Chosen


@here_or_there
def list_studies(form: Form = "table", tracking: Tracking = None, address: Address = None) -> None:
    """List the studies on record."""
    from study.findings.collect import studies
    from study.options import connecting
    from study.show import show_rows

    with connecting(tracking=tracking) as chosen:
        found = studies(chosen.connections.tracking)
        running = found["status"] == "running"
        if running.any():
            found.loc[running & found["study"].isin(_undriven(chosen.connections.storage)), "status"] = "stopped"
    show_rows(found, form)


@here_or_there
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


@here_or_there
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
    from study.answer import answer, verdict
    from study.findings.compare import best_by, ranking
    from study.findings.failures import failures
    from study.findings.recommend import as_data, recommend
    from study.options import connecting
    from study.show import show_data, show_failures, show_rows

    _check_source(study, table, metric, mode, tracking)
    _check_alone({"--top": top is not None, "--by": by is not None, "--failed": failed})
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
        show_data({"verdict": verdict(found), **as_data(found)}, form)


@here_or_there
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


@here_or_there
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


@here_or_there
def compare(
    study: Name,
    baseline: Annotated[
        Literal[FAMILIES, "none", METHODS] | None,
        typer.Option(help="Compare with the best of this one alone [default: with each family that was measured]"),
    ] = None,
    family: Annotated[
        Literal[FAMILIES, "none", METHODS] | None,
        typer.Option(help="Compare the best of this family or method, or of no averaging [default: the best setting]"),
    ] = None,
    form: Form = "table",
    tracking: Tracking = None,
    address: Address = None,
) -> None:
    """Compare the best setting, or the best of a family, with other families.

    With the best EMA, damped average, BELAY, push (coupling below 0) and with no averaging, paired over seeds; or with
    the best setting that is a method of `belay.methods`.
    """
    from study.findings.choose import FEWEST
    from study.findings.collect import load
    from study.findings.recommend import compared
    from study.options import connecting
    from study.show import show_rows

    with connecting(tracking=tracking) as chosen:
        found = compared(load(study, chosen.connections.tracking), family, baseline)
    show_rows(found, form)
    if form == "table" and len(found) and found["seeds"].min() < FEWEST:
        needed = "; as many as `needed` do, four times in five" if found["needed"].notna().any() else ""
        typer.echo(f"fewer than {FEWEST} seeds settle nothing{needed}", err=True)


@here_or_there
def export(
    study: Name,
    output: Output = None,
    to: Annotated[
        str | None,
        typer.Option(
            callback=refuse_passwords,
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
            rows, seeds = load_rows(study, chosen.connections.tracking)
            content = as_table(rows, form, seeds)
    deliver(content, output, use)


@here_or_there
def report(study: Name, output: Output = None, tracking: Tracking = None, address: Address = None) -> None:
    """Write a report as one HTML file, with the answer, pictures and data.

    It needs no network and no other file: the answer in two sentences, the comparisons with their intervals, the
    objective over the average's coordinates, the regime map, the riders' surface, learning curves, the average's
    responses, every setting's figures and how to reproduce them.
    """
    from study.findings.collect import load
    from study.options import connecting
    from study.report.page import report as page
    from study.show import deliver

    with connecting(tracking=tracking) as chosen:
        typer.echo(f"drawing the report of {study}", err=True)
        text = page(load(study, chosen.connections.tracking))
    deliver(text.encode(), output, "report")


@here_or_there
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


@here_or_there
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


def _check_alone(given: Mapping[str, bool]) -> None:
    """Raises BadInput if more than one is given of options that each print something else."""
    first, *others = [option for option, there in given.items() if there] or [""]
    if others:
        raise BadInput(f"`{first}` must come alone, as it prints another table, got `{others[0]}` too; leave one out.")


def _records(study: str | None, table: Path | None, metric: str | None, mode: Any, chosen: Chosen) -> Records:
    """The records of a study, or of a table."""
    if table is not None:
        from study.findings.table import read_table

        return read_table(table, str(metric), mode)
    from study.findings.collect import load

    return load(str(study), chosen.connections.tracking)


def _undriven(url: str) -> list[str]:
    """The studies of the ledger that no driver runs; none where it cannot say."""
    from study.execute.lease import driven

    try:
        return [name for name, alive in driven(url).items() if not alive]
    except BadInput as error:
        say(f"the ledger does not say which studies have no driver any more: {error}")
        return []


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
