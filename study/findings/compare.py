"""Compares settings, paired over their seeds: means, standard errors, differences with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from study.design.schema import AVERAGE, LIVE, NATURAL, PARAMETERS, live_of, order, over_seeds
from study.errors import BadInput
from study.findings.choose import CONFIDENCE, FEWEST, best_first, dunnett, leads, level, row, seeds_needed, sign_flip
from study.findings.collect import Records

Baseline = Literal["ema", "damped", "belay", "push", "none"]
Method = Literal["ema_of_ema", "pace", "primal_averaging", "nesterov"]  # of `belay.methods`: each a part of a family
BASELINES: tuple[Baseline, ...] = ("ema", "damped", "belay", "push", "none")
ADVISED = 4  # finalists that are advised where none were confirmed
DISTINCT = 12  # the most values of a parameter that are shown one by one


@dataclass(frozen=True)
class Difference:
    """A paired difference in the better direction: positive is better, whatever the metric's mode.

    Attributes:
        mean: Mean over seeds, in the metric's unit.
        low: Lower end of the 95 % interval, which holds for all that was chosen from at once; nan with one seed.
        high: Upper end; nan with one seed.
        seeds: Number of seeds that both have.
        superiority: Share of the seeds on which it is above 0, ties by half: how probably it is on another seed.
        p: Exact probability of a mean as far from 0 by chance, by flipping signs, of this pair alone; nan with more
            than 16 seeds.
        needed: Seeds on which as large a difference would be told from 0, four times in five: more of the same, or,
            of a study without confirmation, fresh ones of `ADVISED` finalists. Inf where it is 0, nan with one seed.
    """

    mean: float
    low: float
    high: float
    seeds: int
    superiority: float
    p: float
    needed: float

    @property
    def settled(self) -> bool:
        """Whether it is told from 0; fewer than six seeds settle nothing."""
        return self.seeds >= FEWEST and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """The best setting against a baseline's best.

    Attributes:
        baseline: "ema" (damping 1, coupling 0), "damped" (damping not 1, coupling 0), "belay" (coupling above 0),
            "push" (coupling below 0) or "none" (no averaging: the model's own weights, coupling 0); or a method, as
            `members` says.
        setting: Number of the baseline's best setting.
        itself: Whether that is the best setting itself.
        metric: What was measured of it.
        mean: Its mean over seeds.
        difference: The best setting minus it.
        fresh: Whether both were measured on fresh seeds, which took no part in the search.
    """

    baseline: Baseline | Method
    setting: int
    itself: bool
    metric: str
    mean: float
    difference: Difference
    fresh: bool


def values(records: Records, metric: str, fresh: bool = False) -> pd.DataFrame:
    """A metric by setting (rows) and seed (columns), of the settings that completed every seed.

    In a race nan stands for the seeds that a setting was not given.

    Args:
        records: The study's records.
        metric: Its name.
        fresh: Whether on the finalists' fresh seeds, or on those of the search.
    """
    table = records.fresh if fresh else records.table
    if metric not in table or metric in records.parameters:
        return pd.DataFrame()
    complete = table[table["state"] == "complete"]
    measured = complete.pivot(index="setting", columns="seed", values=metric)
    return measured.dropna(subset=measured.columns[: None if fresh else records.seeds])


def confirmed(records: Records) -> list[int]:
    """The finalists that completed every fresh seed, best first by these, ties by the search."""
    measured = values(records, records.metric, fresh=True)
    return best_first(measured.loc[ranking(records).index.intersection(measured.index)], records.mode)


def ranking(records: Records, metric: str | None = None) -> pd.DataFrame:
    """Complete settings, best first: index ``setting``, columns mean, se, seeds, both systems' parameters, family.

    The mean is over so many seeds, se its standard error (nan with one seed). Those that were longer in a race come
    before the others. Ties go to the lower number.
    """
    measured = values(records, metric or records.metric)
    table = records.settings.loc[measured.index, [*records.parameters, *records.derived]].copy()
    table.insert(0, "mean", [over_seeds(seeds[~np.isnan(seeds)]) for seeds in measured.to_numpy()])
    table.insert(1, "se", measured.sem(axis=1))
    table.insert(2, "seeds", measured.count(axis=1))
    return table.sort_values(["seeds", "mean"], ascending=[False, records.mode == "min"], kind="stable")


def difference(
    ours: pd.Series,
    others: pd.DataFrame,
    setting: int,
    mode: str,
    chosen_from: int,
    two_sided: bool = True,
    told_among: int | None = None,
) -> Difference:
    """The difference of two settings over the seeds that both have.

    Args:
        ours: Values by seed.
        others: Values by setting and seed, of all that ours may be compared with; how much their differences vary says
            how much this one does.
        setting: The other of the two.
        mode: Which direction is better, "max" or "min".
        chosen_from: How many settings these two were chosen from, for which the interval has to hold at once.
        two_sided: Whether the interval is two-sided; else each end is a one-sided bound, as `rivals` uses.
        told_among: How many settings the seeds are for that would tell it; by default as many.
    """
    lead = row(leads(ours, others, mode), setting)
    theirs = row(others, setting)
    each = (ours - theirs if mode == "max" else theirs - ours).dropna().to_numpy()
    mean, se, df, seeds = float(lead["mean"]), float(lead["se"]), float(lead["df"]), len(each)
    if seeds < 2:
        return Difference(mean, math.nan, math.nan, seeds, math.nan, math.nan, math.nan)
    if not each.any():  # of a setting to itself, or to one that is the same in all but name
        return Difference(0.0, 0.0, 0.0, seeds, 0.5, 1.0, math.inf)
    critical = dunnett(max(1, chosen_from - 1), df, two_sided=two_sided)
    superiority = float((each > 0).mean() + (each == 0).mean() / 2)
    needed = seeds_needed(mean, se, seeds, df, max(1, (told_among or chosen_from) - 1), two_sided)
    return Difference(mean, mean - critical * se, mean + critical * se, seeds, superiority, sign_flip(each), needed)


def beside(records: Records, best: int) -> pd.DataFrame:
    """The objective by setting and seed, on the best setting's seeds of the search, of those that have all of them."""
    searched = values(records, records.metric)
    return searched[row(searched, best).dropna().index].dropna()


def rivals(records: Records, best: int) -> list[int] | None:
    """Settings that cannot be told from the best, best first: at 95 % over all of them at once; None with one seed.

    Finalists are judged by their fresh seeds, all others by those of the search. One that left a race before the best
    is no rival.
    """
    searched, fresh = beside(records, best), values(records, records.metric, fresh=True)
    if max(len(searched.columns), len(fresh.columns)) < 2:
        return None
    confidence = (1 + CONFIDENCE) / 2 if len(fresh) else CONFIDENCE  # of each of two statements
    found = [setting for setting in level(searched, records.mode, confidence) if setting not in fresh.index]
    if len(fresh):
        found = [*level(fresh, records.mode, confidence), *found]
    return [setting for setting in found if setting != best]


def runner_up(records: Records, best: int, rivals: list[int] | None) -> tuple[int, Difference] | None:
    """The next best setting and the lead over it, where there is another setting; a rival before one that is none.

    Args:
        records: The study's records; if it has finalists, the next best is one of them.
        best: The best setting.
        rivals: Those that cannot be told from it.
    """
    fresh = values(records, records.metric, fresh=True)
    measured = fresh if best in fresh.index else beside(records, best)
    ranked = [*(rivals or []), *(int(setting) for setting in ranking(records).index)]
    others = [setting for setting in ranked if setting != best and setting in measured.index]
    if not others:
        return None
    count = len(measured)
    among = _told_among(records, measured is fresh)
    lead = difference(row(measured, best), measured, others[0], records.mode, count, count == 2, among)
    return others[0], lead


def members(table: pd.DataFrame, baseline: Baseline | Method) -> pd.Series:
    """Which settings of a table belong to a family, to no averaging or to a method, each with any learning rate.

    An EMA of an EMA is every damped average without coupling that neither rings nor alternates; PACE with a constant
    pull, as elastic averaging and Lookahead at every step, pulls at damping 1; generalized primal averaging pushes at
    damping 1; Nesterov's momentum does so with a decay of 0.
    """
    plain, coupling = table["damping"] == 1, table["coupling"]
    if baseline == "none":
        return coupling == 0
    if baseline == "ema_of_ema":
        return (coupling == 0) & (table["damping"] < 1) & (table["damping_ratio"] > 1 - 1e-6)
    if baseline == "pace":
        return plain & (coupling > 0)
    if baseline in ("primal_averaging", "nesterov"):
        return plain & (coupling < 0) & ((table["decay"] == 0) | (baseline == "primal_averaging"))
    return table["family"] == baseline


def metric_of(records: Records, family: Baseline | Method) -> str | None:
    """The metric that a family is judged by: no averaging by the model's own weights. None if the study has none.

    Where the objective is the model's own weights', those that no average pulls are all without averaging.
    """
    if family == "none":
        return live_of(records.metric) if records.metric.startswith((AVERAGE, LIVE)) else None
    watching = family in ("ema", "damped", "ema_of_ema")
    return None if watching and records.metric.startswith(LIVE) else records.metric


def best_of(records: Records, family: Baseline | Method) -> int:
    """The best setting of a family, or of no averaging: of its finalists by their fresh seeds, else by the search.

    Raises:
        BadInput: None of its settings was completed.
    """
    found = _best_of(records, family)
    if found is None:
        raise BadInput(_unmeasured(records, "family", family))
    return found[0]


def _best_of(records: Records, family: Baseline | Method, confirmed: bool = True) -> tuple[int, bool] | None:
    """The best setting of a family, and whether it is so by fresh seeds; None if none was measured.

    Args:
        records: The study's records.
        family: The family.
        confirmed: Whether its finalists come first, if it has any.
    """
    metric = metric_of(records, family)
    if metric is None or not records.derived:
        return None
    table = ranking(records, metric)
    candidates = table.index[members(table, family)]
    measured = values(records, metric, fresh=True)
    finalists = candidates.intersection(measured.index, sort=False)  # ties go to the one that the search ranks first
    if confirmed and len(finalists):
        return best_first(measured.loc[finalists], records.mode)[0], True
    return (int(candidates[0]), False) if len(candidates) else None


def _told_among(records: Records, fresh: bool) -> int | None:
    """How many settings the seeds are for that would tell them apart; None for as many as there are."""
    return ADVISED if records.of_a_study and not fresh else None


def against(
    records: Records, best: int, baseline: Baseline | Method, metric_of_best: str | None = None
) -> Comparison | None:
    """A setting, by the objective or another metric, against a baseline's own best; None if that was not measured."""
    metric, metric_of_best = metric_of(records, baseline), metric_of_best or records.metric
    confirmed = best in values(records, metric_of_best, fresh=True).index
    found = _best_of(records, baseline, confirmed)
    if metric is None or found is None:
        return None
    setting, fresh = found
    measured, ours = values(records, metric, fresh), values(records, metric_of_best, fresh)
    among = _told_among(records, fresh)
    between = difference(row(ours, best), measured, setting, records.mode, chosen_from=len(ours), told_among=among)
    itself, mean = (setting, metric) == (best, metric_of_best), over_seeds(row(measured, setting).dropna())
    return Comparison(baseline, setting, itself, metric, mean, between, fresh)


def comparisons(
    records: Records, best: int, only: Baseline | Method | None = None, metric_of_best: str | None = None
) -> pd.DataFrame:
    """A row for each baseline: its best setting, metric, mean, and the paired difference of a setting to it.

    ``difference`` is the mean of `Difference`, whose other columns follow; ``fresh`` tells whether it is over fresh
    seeds, on which both settings were confirmed.

    Args:
        records: The study's records.
        best: The setting.
        only: The one baseline to compare it with.
        metric_of_best: What is measured of it, where that is not the objective.

    Raises:
        BadInput: A baseline that was asked for has not been measured.
    """
    rows = []
    for baseline in (only,) if only else BASELINES:
        found = against(records, best, baseline, metric_of_best)
        if found is not None:
            line: dict[str, Any] = {
                "baseline": baseline,
                "setting": found.setting,
                "metric": found.metric,
                "mean": found.mean,
            }
            between = found.difference
            line |= {"difference": between.mean, "low": between.low, "high": between.high, "seeds": between.seeds}
            line |= {"superiority": between.superiority, "p": between.p, "needed": between.needed}
            line["settled"] = between.settled
            line["fresh"] = found.fresh
            rows.append(line)
        elif only:
            raise BadInput(_unmeasured(records, "baseline", only))
    return pd.DataFrame(rows)


def _unmeasured(records: Records, option: str, family: str) -> str:
    return (
        f"`{option}` must have been measured, got {family!r}: no setting of {records.name} belongs to it or reports "
        "its metric; add it to the space or to `search.baseline`."
    )


def best_by(records: Records, parameter: str) -> pd.DataFrame:
    """The best setting for each value of a parameter; of a continuous one, for each quarter of its settings.

    The columns are the parameter's value in the best setting, of quarters the least and largest value (``from``,
    ``to``), how many ``settings`` there are, the ``best`` one's mean, its standard error ``se`` and number ``setting``,
    and the ``median`` of all means. Averages have memory, damping_ratio and mass_ratio too. Settings whose number is
    infinite are a group of their own.

    Raises:
        BadInput: There is no such parameter.
    """
    table = ranking(records)
    names = records.parameters
    if records.derived:
        names = [*PARAMETERS, *NATURAL, *names[len(PARAMETERS) :]]
    if parameter not in names:
        raise BadInput(f"`parameter` must be one of {', '.join(names)}, got {parameter!r}.")
    if parameter in NATURAL and records.derived:  # computed, so that values that were drawn equal are equal to rounding
        table[parameter] = table[parameter].map(lambda value: float(f"{value:.6g}"))
    column = table[parameter]
    known = column.dropna()
    finite = known[known != math.inf].infer_objects()
    quarters = pd.api.types.is_numeric_dtype(finite) and finite.nunique() > DISTINCT
    if quarters:
        groups = pd.qcut(finite, 4, labels=False, duplicates="drop").reindex(table.index)
        groups = groups.mask(column == math.inf, math.inf)
    else:
        groups = pd.Series(order(known), known.index).reindex(table.index)
    rows = []
    for _, group in table.groupby(groups, dropna=False):
        first, inside = group.iloc[0], group[parameter].dropna()
        line = {parameter: first[parameter]}
        if quarters:
            line |= {"from": inside.min(), "to": inside.max()}
        line |= {"settings": len(group), "best": first["mean"], "se": first["se"]}
        rows.append(line | {"setting": int(group.index[0]), "median": group["mean"].median()})
    best = pd.DataFrame(rows)
    best[parameter] = pd.Series([line[parameter] for line in rows], dtype=object)  # as recorded: null is no nan
    return best
