"""Tables and plain data on stdout, for people or as JSON or YAML."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from study.design.document import as_text, dump_document, plain
from study.errors import BadInput, Interrupted, printable

if TYPE_CHECKING:
    import pandas as pd

    from study.design.config import StudyConfig
    from study.design.schema import SeedResult, Setting
    from study.design.study import Study
    from study.execute.plan import Plan
    from study.execute.printed import Page
    from study.execute.train.probe import Room

Format = Literal["table", "json", "yaml"]
PictureForm = Literal["png", "svg"]

USES = {  # what to do with the file that a command wrote
    "export": '; load it with belay.load_defaults("{}", steps=...)',
    "rows": "; `belay-study best --from {} ...` reads it",
    "report": "; open it in a browser",
    "plot": "",
}

MEANS = {"mean", "best"}  # columns whose standard error is the column `se`, where there is one
LAST_LINES, LONGEST_LINE = 5, 300  # of an error, for people
WIDE = 1000  # characters a line where stdout is no terminal: more than any table has, so that grep finds whole rows


def number(value: Any) -> str:
    """A number at four digits; any other value as the text from which it can be told what it is.

    A number just below 1, as decays are, has six, and so many that two are left of its distance from 1.
    """
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        digits = max(6, 1 - math.floor(math.log10(1 - value))) if 0.99 < value < 1 else 4
        return f"{value:.{digits}g}"
    return printable(as_text(value))


def mean_text(mean: float, error: float) -> str:
    """A mean at four digits, or as many as its standard error leaves it."""
    if not (0 < error < math.inf and mean):
        return number(mean)
    digits = math.floor(math.log10(abs(mean))) - math.floor(math.log10(error)) + 1
    return f"{mean:.{min(max(digits, 4), 15)}g}"


def show_table(table: pd.DataFrame, width: int | None = None) -> None:
    """Prints a table, one line for each row; says on stderr which columns are left out as a line has no room for them.

    Args:
        table: The table.
        width: Characters of a line; by default the terminal's, or as many as it takes where stdout is no terminal.
    """
    terminal = Console(markup=False, emoji=False, highlight=False)
    room = width or (terminal.width if sys.stdout.isatty() else WIDE)
    columns = {printable(str(name)): column for name, column in table.items()}
    cells = {name: [number(value) for value in column] for name, column in columns.items()}
    for name in columns.keys() & MEANS if "se" in columns else ():
        cells[name] = [mean_text(mean, error) for mean, error in zip(columns[name], columns["se"], strict=True)]
    widths = {name: max(map(cell_len, [name, *texts])) for name, texts in cells.items()}
    shown = _fitting(widths, room)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in shown:
        numeric = columns[name].infer_objects().dtype.kind in "if"
        drawn.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in zip(*(cells[name] for name in shown), strict=True):
        drawn.add_row(*row)
    terminal.width = max(room, _width([widths[name] for name in shown]))
    terminal.print(drawn)
    if left := [name for name in columns if name not in shown]:
        print(  # noqa: T201
            f"left out, as a line has {room} characters: {', '.join(left)}; `--format json` has all of them.",
            file=sys.stderr,
        )


def _fitting(widths: Mapping[str, int], room: int) -> list[str]:
    """The columns that are shown: the first, and of the others, from left to right, each that there is room for."""
    shown: list[str] = []
    for name in widths:
        if not shown or _width([widths[other] for other in (*shown, name)]) <= room:
            shown.append(name)
    return shown


def _width(columns: Sequence[int]) -> int:
    """Characters of a table's lines: those of the columns, three between two of them, and one at the end."""
    return sum(columns) + 3 * (len(columns) - 1) + 1


def show_data(data: Any, form: Format) -> None:
    """Prints plain data as JSON or YAML."""
    if form == "json":
        text = json.dumps(data, indent=2, allow_nan=False)  # ASCII, of which only DEL acts on a terminal
        print(text.replace("\x7f", "\\u007f"))  # noqa: T201 # rich would wrap long lines
    else:
        print(dump_document(data), end="")  # noqa: T201


def show_rows(table: pd.DataFrame, form: Format) -> None:
    """Prints a table in the form asked for."""
    if form == "table":
        show_table(table)
    else:
        show_data(rows_of(table), form)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as plain data."""
    return [{str(name): plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def show_failures(failed: pd.DataFrame, form: Format) -> None:
    """Prints the settings that failed: for people a line of values, and below it the end of what was raised."""
    if form != "table":
        show_rows(failed, form)
        return
    for row in failed.drop(columns="message").to_dict("records"):
        print(", ".join(f"{name} {number(value)}" for name, value in row.items()))  # noqa: T201
        for line in last_lines(failed.loc[failed["setting"] == row["setting"], "message"].item()):
            print(f"    {line}")  # noqa: T201
    if failed.empty:
        print("no setting failed", file=sys.stderr)  # noqa: T201


def show_printed(pages: Sequence[Page]) -> None:
    """Prints what a setting printed as it trained."""
    for page in pages:
        seeds = f"seed{'s' if len(page.seeds) > 1 else ''} {', '.join(map(str, page.seeds))}"
        together = f", settings {', '.join(map(str, page.settings))} together" if len(page.settings) > 1 else ""
        print(f"--- {seeds}{together}")  # noqa: T201
        for line in page.text.splitlines():
            print(printable(line))  # noqa: T201
    if not pages:
        print("the setting printed nothing, or before that was kept", file=sys.stderr)  # noqa: T201


def last_lines(message: str) -> list[str]:
    """The end of a message, as a traceback has the error there, a line at a time, each cut to a readable length."""
    lines = [printable(line) for line in message.rstrip().splitlines()[-LAST_LINES:]]
    return [line if len(line) <= LONGEST_LINE else f"...{line[-LONGEST_LINE:]}" for line in lines]


def as_plain(found: Any) -> Any:
    """A finding, of dataclasses, mappings and lists, as plain data."""
    if is_dataclass(found) and not isinstance(found, type):
        found = asdict(found)
    if isinstance(found, dict):
        return {name: as_plain(value) for name, value in found.items()}
    return [as_plain(value) for value in found] if isinstance(found, list) else plain(found)


def show_catalogue(tasks: list[dict[str, Any]]) -> None:
    """Prints the built-in tasks for people."""
    for task in tasks:
        print(f"{task['name']}: {task['summary']}")  # noqa: T201
        for field in task["hyperparameters"]:
            print(f"    {field['name']:<14}{field['default']!s:<9}{field['description']}")  # noqa: T201
        for metric, direction in task["metrics"].items():
            print(f"    average/{metric}, live/{metric} ({direction})")  # noqa: T201


def show_plan(study: Study, plan: Plan, room: Room) -> None:
    """Prints what a study would run."""
    config = study.config
    sizes = {name: len(plan.numbers(name)) for name in dict.fromkeys(plan.searches)}
    searches = ", ".join(
        f"{count} {'of plain EMA' if name == 'ema' else 'of the space'}" for name, count in sizes.items()
    )
    confirm = config.confirm
    confirmation = [("confirmed", f"{confirm.finalists} finalists on {confirm.seeds} fresh seeds")] if confirm else []
    steps = ", ".join(map(str, config.rung_steps))
    rungs = (
        [("rungs", f"after steps {steps} a setting stops that does worse than half of those before")] if steps else []
    )
    carried = len(study.riders) if config.search.riders.carried == "always" or room.runs > 1 else 0
    riders = [("riders", f"{carried} beside each training that no average pulls")] if carried else []
    lines = [
        ("study", f"{config.name}: {config.task.name}, {config.objective.metric}"),
        ("settings", f"{plan.settings}: {searches}, by {config.search.sampler}"),
        *([("start", f"{len(config.search.start)} known settings first")] if config.search.start else []),
        ("runs", f"{_runs(plan, config)}, {config.steps} steps"),
        *rungs,
        *confirmation,
        *riders,
        ("packs", f"on {config.resources.cpus:g} CPU and {config.resources.gpus:g} GPU, {_packs(room)}"),
    ]
    for name, dimension in config.space.items():
        lines.append((name, dimension.words))
    width = max(12, *(len(head) + 1 for head, _ in lines))
    print("\n".join(f"{head:<{width}}{text}" for head, text in lines))  # noqa: T201


def _runs(plan: Plan, config: StudyConfig) -> str:
    count = plan.settings * config.seeds
    if not config.search.race:
        return f"{count}: {config.seeds} seeds of each"
    first, second, third = map(len, config.stages)
    return f"about {count}: {first} seeds of each, {second} more of the best quarter, {third} more of the best eighth"


def _packs(room: Room) -> str:
    if room.runs == 1:
        return f"each setting with all its seeds, one after the other: {room.reason}"
    return f"up to {room.runs} trainings side by side"


def show_seed(setting: Setting, result: SeedResult) -> None:
    """Prints what one seed of a setting measured, a line an evaluation."""
    values = ", ".join(f"{name} {number(value)}" for name, value in setting.items())
    lines = [("setting", values), ("seed", str(result.seed))]
    for step, metrics in result.history:
        lines.append((f"step {step}", ", ".join(f"{name} {number(value)}" for name, value in metrics.items())))
    ended = f" at step {result.diverged_at}" if result.diverged_at is not None else ""
    lines.append(("state", f"{result.state}{ended}{result.message and ': ' + printable(result.message)}"))
    print("\n".join(f"{head:<12}{text}" for head, text in lines))  # noqa: T201


def check_agreed(what: str) -> None:
    """Asks at the terminal whether something is to be deleted.

    Args:
        what: Is to be deleted, in words.

    Raises:
        BadInput: There is no terminal to ask at.
        Interrupted: The answer is no.
    """
    if not sys.stdin.isatty():
        raise BadInput(
            f"`delete` must have `--yes` where there is no terminal to ask at, got neither; add it to delete {what}."
        )
    print(f"{what}\ndelete all of it? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Interrupted("nothing was deleted.")


def picture_form(output: Path | None, form: PictureForm | None, option: str = "--output") -> PictureForm:
    """The form of a picture's file: the one asked for, or that of the file's name; SVG where neither says.

    Raises:
        BadInput: The file's name ends in another form; `option` is what named it.
    """
    ending = output.suffix.lower().removeprefix(".") if output is not None else form or "svg"
    if ending not in ("png", "svg") or (form or ending) != ending:
        raise BadInput(
            f"`{option}` must be a file whose name ends in {'.png or .svg' if form is None else f'.{form}'}, got "
            f"{output}; change it."
        )
    return "png" if ending == "png" else "svg"


def export_use(form: str, output: Path | None) -> str:
    """Which of `USES` an export in this form has.

    Raises:
        BadInput: It is Parquet, which is no text, without a file to go into.
    """
    if form == "parquet" and output is None:
        raise BadInput("`--output` must name a file where `--format` is parquet, got none; add `-o results.parquet`.")
    return "export" if form == "yaml" else "rows"


def write(path: Path, content: bytes, option: str) -> Path:
    """Writes a file; its path.

    Raises:
        BadInput: It cannot be written; `option` is what named it.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BadInput(f"`{option}` must be a writable file, got {path}: {error.strerror}; choose another.") from error
    return path


def deliver(content: bytes, output: Path | None, use: str) -> None:
    """Writes what a command made to stdout, or to a file and says what that is for.

    Args:
        content: What it made.
        output: The file, if any.
        use: Which of `USES` the file has.

    Raises:
        BadInput: It cannot be written.
    """
    if output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    write(output, content, "--output")
    shown = printable(str(output))
    print(f"wrote {shown}{USES[use].format(shown)}", file=sys.stderr)  # noqa: T201
