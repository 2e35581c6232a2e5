"""A study's results as a table to take away, a row for each setting and seed, and such a table read back."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from study import results
from study.design.document import as_text, from_text
from study.design.faults import shown
from study.design.schema import (
    AVERAGE,
    CONFIRMATION,
    LIVE,
    PARAMETERS,
    STATES,
    Direction,
    Role,
    family,
    host_of,
    natural,
    oscillator_of,
)
from study.errors import BadInput, reason
from study.findings.collect import Records, tidy
from study.findings.columns import metric_values

TableForm = Literal["csv", "parquet"]
MARKS = ("setting", "role", "state")  # columns by which an exported table is known
PLANNED = "seeds_planned"  # seeds of the search that every setting gets; a race gives some more
OWN = (*MARKS, "seed", PLANNED, "message", "diverged_at", "rider_of")  # columns that are neither parameters nor metrics
LARGEST_INTEGER = 2**63  # in size, of a Parquet file


def export(rows: pd.DataFrame, form: TableForm, seeds: int) -> bytes:
    """A table of results (`study.results`) as a file, with a column for each parameter, which `read_export` reads back.

    A parameter keeps its type: in CSV, and in Parquet where its values are not all numbers or all truth values, it is
    written as a text that `study.design.document.from_text` reads.

    Args:
        rows: A row for each setting and seed.
        form: The kind of file.
        seeds: Seeds of the search that every setting gets.
    """
    table = rows[["setting", "seed", "role", "state", "message", "diverged_at"]].assign(
        diverged_at=rows["diverged_at"].astype("Int64"), rider_of=rows["setting"].map(host_of).astype("Int64")
    )
    table.insert(list(table).index("message"), PLANNED, seeds)
    first = rows.drop_duplicates("setting").set_index("setting")["parameters"].map(json.loads)
    names = [*PARAMETERS, *sorted({name for values in first for name in values} - {*PARAMETERS})]
    columns = {name: _cells([values.get(name) for values in first], form) for name in names}
    parameters = pd.DataFrame(columns, first.index, dtype=object).loc[rows["setting"]].reset_index(drop=True)
    metrics = rows[[name for name in rows if name not in results.COLUMNS]]
    whole = pd.concat([table.reset_index(drop=True), parameters, metrics.reset_index(drop=True)], axis=1)
    if form == "csv":
        messages = whole["message"].map(lambda text: text and as_text(text))
        return whole.assign(message=messages).to_csv(index=False).encode()
    file = io.BytesIO()
    whole.to_parquet(file, engine="pyarrow", compression="zstd", index=False)
    return file.getvalue()


def _cells(values: Sequence[Any], form: TableForm) -> Sequence[Any]:
    """A parameter's values as they are in Parquet where they are numbers, or truth values, of one type; else texts."""
    kinds = {type(value) for value in values if value is not None}
    whole = [value for value in values if isinstance(value, int)]
    if form == "parquet" and kinds in ({bool}, {int}, {float}) and max(map(abs, whole), default=0) < LARGEST_INTEGER:
        return values
    return [as_text(value) for value in values]


def is_export(columns: Mapping[str, Sequence[Any]]) -> bool:
    """Whether columns are those of an exported table."""
    return columns.keys() >= {*MARKS} and {*columns["role"]} <= {*get_args(Role)}


def read_export(path: Path, columns: Mapping[str, Sequence[Any]], metric: str, mode: Direction) -> Records:
    """The records of a study's exported table, riders and confirmation on fresh seeds included.

    Riders that have no value of the metric in the search are no part of them.

    Args:
        path: The file.
        columns: What it holds.
        metric: The metric that decides.
        mode: Which direction is better.

    Raises:
        BadInput: It is not as `export` wrote it, or without some of its rows.
    """
    _check(columns)
    metrics = [name for name in columns if name.startswith((AVERAGE, LIVE))]
    ended = {number for number, state in zip(columns["setting"], columns["state"], strict=True) if state != "complete"}
    if metric not in metrics and (metrics or {*columns["setting"]} - ended):  # where none is complete, it has none
        raise BadInput(f"`metric` must be one of the table's metrics {shown(metrics)}, got {shown(metric)}; change it.")
    typed = path.suffix.lower() == ".parquet"
    cells = {
        name: [from_text(cell) if typed and isinstance(cell, str) else cell for cell in values]
        for name, values in columns.items()
        if name not in (*OWN, *metrics)
    }
    values = {name: metric_values(columns[name], name) for name in metrics}
    rows = results.table(list(_rows(columns, _parameters(columns["setting"], cells), values)))
    if alone := {*rows["setting"]} - {*rows.loc[rows["role"] != "confirmation", "setting"]}:
        raise BadInput(
            f"`table` must have the rows of the search of each setting, got none of setting {min(alone)}; add them, or "
            "remove those of its confirmation."
        )
    seeds = columns[PLANNED][0]
    table, fresh, parameters = tidy(_measured(rows, metric), seeds)
    steps = {*cells["steps"]}
    return Records(
        name=path.name,
        uri="",
        run="",
        metric=metric,
        mode=mode,
        steps=steps.pop() if len(steps) == 1 else 0,
        seeds=seeds,
        planned=sum(host_of(number) is None for number in {*columns["setting"]}),
        task={},
        tags={},
        table=table,
        fresh=fresh,
        parameters=parameters,
    )


def _check(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raises BadInput unless columns and their values are an exported table's."""
    needed = ("seed", PLANNED, "steps", *PARAMETERS)
    if lacking := [name for name in needed if name not in columns]:
        raise BadInput(
            f"`table` must have the columns {', '.join(needed)} where it has {', '.join(MARKS)}, got no {lacking[0]}; "
            "export it again, or remove these if it is no study's."
        )
    for name in ("setting", "seed", "steps", PLANNED):
        if wrong := [cell for cell in columns[name] if type(cell) is not int or cell < 0]:
            raise BadInput(f"`table` must have whole numbers as {name}, got {shown(wrong[0])}; export it again.")
    if wrong := [state for state in columns["state"] if state not in STATES]:
        raise BadInput(f"`table` must have {', '.join(STATES)} as state, got {shown(wrong[0])}; export it again.")
    planned = sorted({*columns[PLANNED]})
    if len(planned) > 1 or not 1 <= planned[0] < CONFIRMATION:
        raise BadInput(
            f"`table` must have the same number in all rows as {PLANNED}, from 1 to {CONFIRMATION - 1:,}, got "
            f"{shown(planned)}; export it again."
        )
    (setting, seed), times = Counter(zip(columns["setting"], columns["seed"], strict=True)).most_common(1)[0]
    if times > 1:
        raise BadInput(
            f"`table` must have one row for a setting and seed, got several of setting {setting} and seed {seed}; "
            "remove all but one."
        )


def _measured(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows without riders of which no seed of the search has a value of the metric, unless there are only these."""
    if metric not in rows:
        return rows
    riders = rows[rows["setting"].map(host_of).notna()]
    has = riders[(riders["role"] != "confirmation") & riders[metric].notna()]
    left = rows[~rows["setting"].isin({*riders["setting"]} - {*has["setting"]})]
    return rows if left.empty else left


def _parameters(settings: Sequence[int], cells: Mapping[str, Sequence[Any]]) -> dict[int, dict[str, Any]]:
    """Each setting's parameters, by its number.

    Raises:
        BadInput: Two rows of a setting have different ones.
    """
    found: dict[int, dict[str, Any]] = {}
    for setting, *values in zip(settings, *cells.values(), strict=True):
        own = dict(zip(cells, values, strict=True))
        if found.setdefault(setting, own) != own:
            name = next(name for name in own if own[name] != found[setting][name])
            raise BadInput(
                f"`table` must have the same {name} in all rows of a setting, got {shown(found[setting][name])} and "
                f"{shown(own[name])} in those of setting {setting}; export it again."
            )
    return found


def _rows(
    columns: Mapping[str, Sequence[Any]],
    parameters: Mapping[int, Mapping[str, Any]],
    metrics: Mapping[str, Sequence[float]],
) -> Iterator[dict[str, Any]]:
    """Rows as `study.results.rows` makes them.

    Raises:
        BadInput: A setting is no average.
    """
    shared = {number: _shared(number, values) for number, values in parameters.items()}
    absent = [None] * len(columns["setting"])
    for place, number in enumerate(columns["setting"]):
        message, step = (columns.get(name, absent)[place] for name in ("message", "diverged_at"))
        yield {
            **shared[number],
            **{name: columns[name][place] for name in ("setting", "seed", "role", "state")},
            "message": "" if message is None else str(message),
            "diverged_at": math.nan if step is None else step,
            **{name: values[place] for name, values in metrics.items()},
        }


def _shared(number: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is the same in all rows of a setting."""
    try:
        average = oscillator_of(values)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"`table` must have averages as settings, got setting {number}: {reason(error)}; export it again."
        ) from error
    shared = {"family": family(average), **natural(average, values["steps"])}
    return shared | {"seconds": math.nan, "run": "", "parameters": json.dumps(values)}
