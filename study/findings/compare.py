"""Compares settings, paired over their seeds: means, standard errors, differences with intervals."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from study.design.schema import AVERAGE, LIVE, NATURAL, PARAMETERS, over_seeds
from study.errors import BadInput
from study.findings.collect import Records

CONFIDENCE = 0.95
Baseline = Literal["ema", "damped", "belay", "push", "none"]
BASELINES: tuple[Baseline, ...] = ("ema", "damped", "belay", "push", "none")
DISTINCT = 12  # the most values of a parameter that are shown one by one


@dataclass(frozen=True)
class Difference:
    """A paired difference in the better direction: positive is better, whatever the metric's mode.

    Attributes:
        mean: Mean over seeds, in the metric's unit.
        low: Lower end of the 95 % t interval; nan with one seed.
        high: Upper end; nan with one seed.
        seeds: Number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """The best setting against a baseline's best.

    Attributes:
        baseline: "ema" (damping 1, coupling 0), "damped" (damping not 1, coupling 0), "belay" (coupling above 0),
            "push" (coupling below 0) or "none" (no averaging: the model's own weights, coupling 0).
        setting: Number of the baseline's best setting.
        metric: What was measured of it.
        mean: Its mean over seeds.
        difference: The best setting minus it.
        fresh: Whether both were measured on fresh seeds, which took no part in choosing them.
    """

    baseline: Baseline
    setting: int
    metric: str
    mean: float
    difference: Difference
    fresh: bool


def row(table: pd.DataFrame, setting: int) -> pd.Series:
    """A setting's row of a table whose index is the setting."""
    return cast("pd.Series", table.loc[setting])


def values(records: Records, metric: str, fresh: bool = False) -> pd.DataFrame:
    """A metric by setting (rows) and seed (columns), of the settings that completed every seed.

    In a race nan stands for the seeds that a setting was not given.

    Args:
        records: The study's records.
        metric: Its name.
        fresh: Whether on the finalists' fresh seeds, or on those of the search.
    """
    table = records.fresh if fresh else records.table
    if metric not in table:
        return pd.DataFrame()
    complete = table[table["state"] == "complete"]
    measured = complete.pivot(index="setting", columns="seed", values=metric)
    return measured.dropna(subset=measured.columns[: None if fresh else records.seeds])


def confirmed(records: Records) -> list[int]:
    """The finalists that completed every fresh seed, best first by the seeds of the search."""
    measured = values(records, records.metric, fresh=True)
    return [int(setting) for setting in ranking(records).index if setting in measured.index]


def ranking(records: Records, metric: str | None = None) -> pd.DataFrame:
    """Complete settings, best first: index ``setting``, columns mean, se, seeds, both systems' parameters, family.

    The mean is over so many seeds, se its standard error (nan with one seed). Those that were longer in a race come
    before the others. Ties go to the lower number.
    """
    measured = values(records, metric or records.metric)
    settings = records.table.drop_duplicates("setting").set_index("setting")[[*records.parameters, *NATURAL, "family"]]
    table = settings.loc[measured.index].copy()
    table.insert(0, "mean", [over_seeds(seeds[~np.isnan(seeds)]) for seeds in measured.to_numpy()])
    table.insert(1, "se", measured.sem(axis=1))
    table.insert(2, "seeds", measured.count(axis=1))
    return table.sort_values(["seeds", "mean"], ascending=[False, records.mode == "min"], kind="stable")


def paired(ours: pd.Series, theirs: pd.Series, mode: str) -> Difference:
    """The difference of two settings over the seeds that both have.

    Args:
        ours: Values by seed.
        theirs: Values by seed.
        mode: Which direction is better, "max" or "min".

    Returns:
        Its mean and 95 % interval (Student's t over the paired differences).
    """
    differences = (ours - theirs if mode == "max" else theirs - ours).dropna()
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Difference(mean, math.nan, math.nan, n)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2) * differences.sem())
    return Difference(mean, mean - reach, mean + reach, n)


def rivals(records: Records, best: int) -> list[int]:
    """Settings that are not shown to be worse than the best (paired, at 95 %), best first; none with one seed.

    Each is compared with the best on its own: of many settings, a few are called rivals, or not, by chance. One that
    left a race before the best is no rival.
    """
    measured = values(records, records.metric)
    measured = measured[row(measured, best).dropna().index].dropna()
    seeds = len(measured.columns)
    if seeds < 2:
        return []
    lead = (row(measured, best) - measured) * (1 if records.mode == "max" else -1)
    low = lead.mean(axis=1) - stdtrit(seeds - 1, (1 + CONFIDENCE) / 2) * lead.sem(axis=1)
    level = [setting for setting in ranking(records).index if setting in low.index and setting != best]
    return [int(setting) for setting in level if not low[setting] > 0]


def against(records: Records, best: int, baseline: Baseline) -> Comparison | None:
    """The best setting against a baseline's own best; None if the study has not measured the baseline."""
    metric = records.metric
    if baseline == "none":
        if not metric.startswith(AVERAGE):
            return None
        metric = LIVE + metric.removeprefix(AVERAGE)
    table = ranking(records, metric)
    if table.empty:
        return None
    candidates = table.index[table["coupling"] == 0 if baseline == "none" else table["family"] == baseline]
    if candidates.empty:
        return None
    measured = values(records, metric, fresh=True)
    finalists = [setting for setting in candidates if setting in measured.index]
    fresh = bool(finalists) and best in values(records, records.metric, fresh=True).index
    setting = int(finalists[0] if fresh else candidates[0])
    ours = row(values(records, records.metric, fresh), best)
    theirs = row(values(records, metric, fresh), setting).dropna()
    return Comparison(baseline, setting, metric, over_seeds(theirs), paired(ours, theirs, records.mode), fresh)


def comparisons(records: Records, best: int, only: Baseline | None = None) -> pd.DataFrame:
    """A row for each baseline: its best setting, metric, mean, and the paired difference of the best setting to it.

    ``fresh`` tells whether that is over fresh seeds, on which both settings were confirmed.

    Raises:
        BadInput: A baseline that was asked for has not been measured.
    """
    rows = []
    for baseline in (only,) if only else BASELINES:
        found = against(records, best, baseline)
        if found is not None:
            line: dict[str, Any] = {
                "baseline": baseline,
                "setting": found.setting,
                "metric": found.metric,
                "mean": found.mean,
            }
            between = found.difference
            line |= {"difference": between.mean, "low": between.low, "high": between.high, "seeds": between.seeds}
            line["fresh"] = found.fresh
            rows.append(line)
        elif only:
            raise BadInput(
                f"`baseline` must have been measured, got {baseline!r}: no setting of {records.name} belongs to it "
                f"or reports its metric; add it to the space or to `search.baseline`."
            )
    return pd.DataFrame(rows)


def best_by(records: Records, parameter: str) -> pd.DataFrame:
    """The best setting for each value of a parameter; of a continuous one, for each quarter of its settings.

    The columns are the parameter's value in the best setting, of quarters the least and largest value (``from``,
    ``to``), how many ``settings`` there are, the ``best`` one's mean, its standard error ``se`` and number ``setting``,
    and the ``median`` of all means. Any study has memory, damping_ratio and mass_ratio too. Settings whose number is
    infinite are a group of their own.

    Raises:
        BadInput: There is no such parameter.
    """
    table = ranking(records)
    if parameter not in (names := [*PARAMETERS, *NATURAL, *records.parameters[len(PARAMETERS) :]]):
        raise BadInput(f"`parameter` must be one of {', '.join(names)}, got {parameter!r}.")
    if parameter in NATURAL:  # computed, so that values that were drawn equal are equal to rounding
        table[parameter] = table[parameter].map(lambda value: float(f"{value:.6g}"))
    column = table[parameter].map(lambda value: json.dumps(value) if isinstance(value, list | dict) else value)
    known = column[column != math.inf].dropna().infer_objects()
    quarters = pd.api.types.is_numeric_dtype(known) and known.nunique() > DISTINCT
    groups = pd.qcut(known, 4, labels=False, duplicates="drop").reindex(table.index) if quarters else column
    groups = groups.mask(column == math.inf, math.inf) if (column == math.inf).any() else groups
    rows = []
    for _, members in table.groupby(groups, dropna=False):
        first, inside = members.iloc[0], members[parameter].dropna()
        line = {parameter: first[parameter]}
        if quarters:
            line |= {"from": inside.min(), "to": inside.max()}
        line |= {"settings": len(members), "best": first["mean"], "se": first["se"]}
        rows.append(line | {"setting": int(members.index[0]), "median": members["mean"].median()})
    best = pd.DataFrame(rows)
    best[parameter] = pd.Series([line[parameter] for line in rows], dtype=object)  # as recorded: null is no nan
    return best
