"""Settings as oscillators: in which region the best one lies, how sure that is, and the top settings' figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from belay import Oscillator
from belay.oscillator import Regime
from study.design.schema import PARAMETERS, Family, figures, regime_of
from study.findings.chances import chances
from study.findings.choose import CONFIDENCE
from study.findings.collect import Records
from study.findings.compare import beside, ranking, values

IMPOSSIBLE = 1e-4  # a probability below which a kind is not worth its words


@dataclass(frozen=True)
class Range:
    """Where a figure of the truly best setting lies.

    Attributes:
        low: Least value among the fewest candidates of which one is the best with 95 %; nan where none has a value, as
            those that alternate have no damping ratio.
        median: The best one's value is as probably at most this as at least this.
        high: Largest value among them; may be inf, an EMA's damping ratio.
    """

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Region:
    """Where the truly best setting lies, given that chance decided which one measured best.

    Attributes:
        candidates: Settings and riders that may be it: those with all seeds of the one that measured best.
        seeds: Seeds of the search that they are judged by.
        fresh: Fresh seeds that finalists are judged by; 0 without.
        likely: How many candidates, at least, it takes for one of them to be the best with 95 %.
        regimes: Probability of each regime.
        families: Probability of each family.
        ranges: Of each figure in `study.design.schema.FIGURES`, and of each hyperparameter that varies and is a number.
    """

    candidates: int
    seeds: int
    fresh: int
    likely: int
    regimes: dict[Regime, float]
    families: dict[Family, float]
    ranges: dict[str, Range]


def region(records: Records, best: int) -> Region | None:
    """The region in which the truly best setting lies; None where settings have one seed, as nothing is known of it.

    Args:
        records: The study's records.
        best: The setting that measured best, whose seeds the others are judged by.
    """
    searched, fresh = beside(records, best), values(records, records.metric, fresh=True)
    if len(searched.columns) < 2 or len(fresh.columns) == 1:
        return None
    chance = chances(searched, fresh, records.mode)
    settings = records.settings.loc[chance.index]
    likely = int((chance.cumsum() < CONFIDENCE - 1e-9).sum()) + 1
    averages = [Oscillator(*average) for average in settings[list(PARAMETERS)].itertuples(index=False)]
    kinds: list[str] = [regime_of(average) for average in averages]
    columns = pd.DataFrame([figures(average, records.steps) for average in averages], index=settings.index)
    for name in records.varied:
        if name not in PARAMETERS and records.settings[name].infer_objects().dtype.kind in "if":
            columns[name] = settings[name].astype(float)
    return Region(
        candidates=len(searched),
        seeds=len(searched.columns),
        fresh=len(fresh.columns),
        likely=likely,
        regimes={kind: _share(chance, kinds, kind) for kind in get_args(Regime)},
        families={kind: _share(chance, list(settings["family"]), kind) for kind in get_args(Family)},
        ranges={str(name): _range(column, chance, likely) for name, column in columns.items()},
    )


def possible(probabilities: Mapping[Any, float]) -> dict[str, float]:
    """The kinds that the truly best setting may be of, with their probabilities."""
    return {str(kind): share for kind, share in probabilities.items() if share >= IMPOSSIBLE}


def _share(chance: pd.Series, kinds: list[str], kind: str) -> float:
    """Probability that the best candidate is of a kind."""
    return min(1.0, float(chance[[each == kind for each in kinds]].sum()))


def _range(column: pd.Series, chance: pd.Series, likely: int) -> Range:
    """The range of a figure over the `likely` first candidates, and its median by their chances."""
    inside, known = column.iloc[:likely].dropna(), column.dropna().sort_values()
    if inside.empty:
        return Range(math.nan, math.nan, math.nan)
    reached = chance.loc[known.index].cumsum().to_numpy()
    median = known.iloc[int(np.searchsorted(reached, reached[-1] / 2))]
    return Range(float(inside.min()), float(median), float(inside.max()))


def regimes(records: Records, top: int) -> pd.DataFrame:
    """The best settings, best first, with their regime and the figures of `study.design.schema.FIGURES`."""
    table = ranking(records).head(top)
    averages = [Oscillator(*setting) for setting in table[list(PARAMETERS)].itertuples(index=False)]
    derived = pd.DataFrame([figures(average, records.steps) for average in averages], index=table.index)
    derived.insert(0, "regime", [regime_of(average) for average in averages])
    return pd.concat([table[["mean", "se", *PARAMETERS]], derived], axis=1)
