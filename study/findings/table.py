"""Reads anybody's table of results as records: a row for each setting and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from study.design.faults import shown
from study.design.schema import (
    NATURAL,
    NUMERIC,
    PARAMETERS,
    PLAIN,
    Direction,
    family,
    identity,
    natural,
    oscillator_of,
)
from study.errors import BadInput, counted, reason
from study.findings.choose import best_first
from study.findings.collect import Records
from study.findings.columns import metric_values, read_columns
from study.findings.rows import is_export, read_export

SEED, DECAY, STEPS = "seed", "decay", "steps"
RECORDED = {"setting", "state", "message", "diverged_at"}  # other columns of records
SHOWN = {"mean", "se", "seeds", "settings", "best", "median", "from", "to"}  # columns that stand beside a parameter
SMALLEST = 1e-100  # in size, up to LARGEST_METRIC; between these a metric's square is a number too
KEY = ["setting", SEED]
NAMED = 5  # settings or seeds that a note names


def read_table(path: Path, metric: str, mode: Direction) -> Records:
    """The records of a table: columns ``seed``, the metric, and the settings' parameters, of any name and type.

    A setting has diverged where its metric is empty or not finite. Of the seeds, those count that at least half of the
    other settings have; a setting that lacks one of these is unfinished. Neither can be the best. Where there is a
    column ``decay``, settings are averages, with a damping of 1 and a coupling of 0 unless there are columns of them;
    ``steps``, if it is the same everywhere, is then the length of each run. A table that was exported of a study is
    read as that study's records.

    Args:
        path: A CSV, TSV or Parquet file.
        metric: The metric's column.
        mode: Which direction is better.

    Raises:
        BadInput: The file cannot be read, lacks a column, contradicts itself, or has no settings to compare.
    """
    columns = read_columns(path)
    if is_export(columns):
        return read_export(path, columns, metric, mode)
    _check_columns(columns, metric)
    notes: list[str] = []
    called = _names(columns, metric, notes)
    values = _metric(columns.pop(metric), metric)
    seeds, places = _seeds(columns.pop(SEED))
    parameters, settings = _settings({called[name]: cells for name, cells in columns.items()}, len(values))
    rows = _once(pd.DataFrame({"setting": settings, SEED: places, "value": values}), parameters, notes)
    kept = _compared(rows, parameters, seeds, mode, notes)
    steps = _steps(parameters)
    shared = _averages(parameters, steps)
    states = rows["value"].isna().groupby(rows["setting"]).any().map({True: "diverged", False: "complete"})
    index = pd.MultiIndex.from_product([parameters.index, kept], names=KEY)
    table = rows.set_index(KEY)["value"].rename(called[metric]).reindex(index).reset_index()
    table = table.join(shared, on="setting").assign(
        state=table["setting"].map(states), message="", diverged_at=math.nan
    )
    first = PARAMETERS if DECAY in parameters else ()
    return Records(
        name=path.name,
        uri="",
        run="",
        metric=called[metric],
        mode=mode,
        steps=steps,
        seeds=len(kept),
        planned=len(parameters),
        task={},
        tags={},
        table=table,
        fresh=table.iloc[:0],
        parameters=[*first, *(str(name) for name in parameters if name not in first)],
        notes=tuple(notes),
        of_a_study=False,
    )


def _check_columns(columns: Mapping[str, Sequence[Any]], metric: str) -> None:
    if SEED not in columns:
        raise BadInput(
            f"`table` must have a column {SEED!r}, by which settings are compared, got {shown(list(columns))}; add it."
        )
    if metric not in columns or metric == SEED:
        others = [name for name in columns if name != SEED]
        raise BadInput(f"`metric` must be one of the table's columns {shown(others)}, got {shown(metric)}; change it.")


def _names(columns: Mapping[str, Any], metric: str, notes: list[str]) -> dict[str, str]:
    """What each column is called here: with an underscore if its name has another meaning here, as a note says."""
    recorded = RECORDED | ({*NATURAL, "family"} if DECAY in columns and metric != DECAY else set())
    called: dict[str, str] = {}
    for name in columns:
        new = name
        while new in (recorded if name == metric else recorded | SHOWN) or (new != name and new in columns):
            new += "_"
        called[name] = new
        if new != name:
            notes.append(f"the column {shown(name)} is called {shown(new)} here, where {name} means something else")
    return called


def _metric(cells: Sequence[Any], metric: str) -> list[float]:
    """The metric's values, of which some are large enough for their squares to be told from 0."""
    values = metric_values(cells, metric)
    if 0 < max((abs(value) for value in values if value == value), default=0) < SMALLEST:
        raise BadInput(
            f"`metric` must have values above {SMALLEST:g} in size, got none in {shown(metric)}; rescale it."
        )
    return values


def _seeds(cells: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The seeds in their order, and the place among them of each row's seed."""
    if None in cells:
        raise BadInput(f"`table` must have a seed in every row, got none in row {cells.index(None) + 1}; add it.")
    places = {seed: place for place, seed in enumerate(sorted(set(map(identity, cells))))}
    return [seed for _, seed in places], [places[identity(cell)] for cell in cells]


def _settings(columns: Mapping[str, Sequence[Any]], rows: int) -> tuple[pd.DataFrame, list[int]]:
    """The distinct settings in the order of their values, by number, and each row's setting."""
    cells = list(zip(*columns.values(), strict=True)) if columns else [()] * rows
    keys = [tuple(map(identity, values)) for values in cells]
    distinct = {key: values for values, key in sorted(zip(cells, keys, strict=True), key=repr)}  # 1 or 1.0: always one
    numbers = {key: number for number, key in enumerate(sorted(distinct))}
    ordered = [distinct[key] for key in numbers]
    index = pd.RangeIndex(len(numbers), name="setting")
    by_name = {
        name: pd.Series([values[place] for values in ordered], index, dtype=object)
        for place, name in enumerate(columns)
    }
    return pd.DataFrame(by_name, index), [numbers[key] for key in keys]


def _once(rows: pd.DataFrame, parameters: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows without repetitions.

    Raises:
        BadInput: Two rows of a setting and seed have different values.
    """
    once = rows.drop_duplicates()
    if len(once) < len(rows):
        notes.append(f"left out as repetitions: {counted(len(rows) - len(once), 'row')}")
    twice = once[once.duplicated(KEY, keep=False)]
    if not twice.empty:
        first = twice[(twice[KEY] == twice[KEY].iloc[0]).all(axis=1)]
        numbers = ", ".join(str(int(place) + 1) for place in first.index)
        setting = f" for {_described(parameters, int(first['setting'].iloc[0]))}" if len(parameters) > 1 else ""
        raise BadInput(
            f"`table` must have one value for a setting and seed, got {shown(first['value'].tolist())} in rows "
            f"{numbers}{setting}; remove one, or number the seeds."
        )
    return once


def _compared(
    rows: pd.DataFrame, parameters: pd.DataFrame, seeds: Sequence[Any], mode: Direction, notes: list[str]
) -> list[int]:
    """The seeds that settings are compared over: those that at least half of the settings have that did not diverge.

    Raises:
        BadInput: None of these settings has all of these seeds.
    """
    whole = rows[~rows["setting"].isin(rows.loc[rows["value"].isna(), "setting"])]
    counts = whole[SEED].value_counts().reindex(range(len(seeds)), fill_value=0).tolist()
    half = whole["setting"].nunique() / 2
    kept = [place for place, count in enumerate(counts) if count >= half]
    if left := [f"{seeds[place]} ({counted(count, 'setting')})" for place, count in enumerate(counts) if count < half]:
        notes.append(f"left out as seeds that less than half of the settings have: {_some(left[:NAMED], len(left))}")
    has = whole[whole[SEED].isin(kept)].groupby("setting").size().reindex(whole["setting"].unique(), fill_value=0)
    unfinished = sorted(has.index[has < len(kept)])
    if (half and (not kept or len(unfinished) == len(has))) or (len(seeds) > 1 and rows["setting"].is_unique):
        raise BadInput(
            f"`table` must have settings that share their seeds, got {counted(len(parameters), 'setting')} in "
            f"{counted(len(rows), 'row')}; {_advice(rows, parameters)}."
        )
    if unfinished:
        named = _some([_described(parameters, setting) for setting in unfinished[:NAMED]], len(unfinished))
        notes.append(
            f"{counted(len(unfinished), 'setting')} cannot be the best, without a row of each seed that at least half "
            f"of the settings have: {named}{_ahead(whole, kept, unfinished, parameters, mode)}"
        )
    return kept


def _ahead(
    rows: pd.DataFrame, seeds: Sequence[int], unfinished: Sequence[int], parameters: pd.DataFrame, mode: Direction
) -> str:
    """Which unfinished settings measured better than the best one on the seeds that both have; "" if none did."""
    values = rows.pivot(index="setting", columns=SEED, values="value")[list(seeds)]
    leads = values - values.loc[best_first(values.drop(index=unfinished), mode)[0]]
    means = (leads if mode == "max" else -leads).mean(axis=1)
    ahead = [setting for setting in unfinished if means[setting] > 0]
    if not ahead:
        return ""
    named = _some([_described(parameters, setting) for setting in ahead[:NAMED]], len(ahead))
    which = "it" if len(unfinished) == 1 else named
    return f", though {which} measured better than the best on the seeds that both have"


def _advice(rows: pd.DataFrame, parameters: pd.DataFrame) -> str:
    """What to do about settings that share no seeds, by what is the least likely to be as it should be."""
    if rows[SEED].is_unique and not rows["setting"].is_unique:
        return "number the seeds of each setting alike"
    return f"add the missing rows{_suspect(parameters)}"


def _suspect(parameters: pd.DataFrame) -> str:
    """Advice about the column that is the least likely to be a parameter."""
    counts = {str(name): len(set(map(identity, parameters[name]))) for name in parameters}
    if not counts:
        return ""
    name = max(counts, key=lambda name: counts[name])
    return f", or remove columns that are no parameters, as {shown(name)} with its {counts[name]} values may be"


def _steps(parameters: pd.DataFrame) -> int:
    """The length of every run; 0 if it is not known, or not the same."""
    found = set(map(identity, parameters.get(STEPS, ())))
    kind, value = found.pop() if len(found) == 1 else (0, 0)
    return int(value) if kind == NUMERIC and value >= 1 and value == int(value) else 0


def _averages(parameters: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The parameters, and where they are averages' all coordinates and the family.

    Raises:
        BadInput: They have a decay and are no averages.
    """
    if DECAY not in parameters:
        return parameters.copy()
    found = []
    for values in parameters.to_dict("records"):
        own = {name: values.get(name, PLAIN.get(name)) for name in PARAMETERS}
        try:
            average = oscillator_of(own)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"`table` must have averages where it has a column {DECAY!r}, got {shown(own)}: {reason(error)}; mend "
                "it, or rename the column if it is another decay."
            ) from error
        found.append({name: getattr(average, name) for name in PARAMETERS})
        found[-1] |= {**natural(average, steps), "family": family(average)}
    averages = pd.DataFrame(found, parameters.index)
    return averages.join(parameters.drop(columns=[*PARAMETERS], errors="ignore"))


def _described(parameters: pd.DataFrame, setting: int) -> str:
    """A setting by the parameters in which settings differ."""
    return shown(
        {str(name): cells[setting] for name, cells in parameters.items() if len(set(map(identity, cells))) > 1}
    )


def _some(first: Sequence[str], count: int) -> str:
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
