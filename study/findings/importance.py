"""Which parameters matter for the objective, by Optuna's evaluators, and which act together."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from study.design.schema import host_of
from study.errors import FailedWork
from study.findings.collect import Records
from study.findings.explained import Share, System, held_out, objective, sample, untold, varying

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator

FANOVA, PED_ANOVA = (
    "FanovaImportanceEvaluator",
    "PedAnovaImportanceEvaluator",
)  # shares of variance; being among the best
FEWEST_OF_A_TENTH = 40  # settings below which PED-ANOVA's best tenth are so few that its intervals hold no truth
HALVES = 12  # of the settings, evaluated for the intervals
TREES, DEPTH = 16, 6  # of fANOVA, whose time grows with the leaves
PAIR_TREES, PLACES = 50, 40  # trees that pairs are told by, and settings that their predictions are averaged over
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """How much a parameter matters.

    Attributes:
        evaluator: The class of `optuna.importance` that says so.
        parameter: Its name.
        importance: In [0, 1]; those of an evaluator sum to 1.
        low: Lower end of the 95 % interval, by half-samples.
        high: Upper end.
    """

    evaluator: str
    parameter: str
    importance: float
    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """How much two parameters act together.

    Attributes:
        first: One of them.
        second: The other.
        share: Of the variance that trees predict, the share that the two make together beyond what each does alone.
        low: Lower end of the 95 % interval, by half-samples.
        high: Upper end.
    """

    first: str
    second: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    """Which parameters matter.

    Attributes:
        settings: Asked settings that it is told of. Riders are left out: they lie on a grid, beside few trainings.
        logarithm: Whether it is the objective's logarithm that they matter for.
        system: In which coordinates the average is: natural ones, in which memory varies wherever decay does.
        unknown: Why nothing can be told; "" if it can.
        predicted: How much of the variance over settings that were held out the parameters explain together; None if
            nothing can be told. If its interval holds 0, the importances may be those of noise.
        single: The importances, by evaluator, the largest first; without PED-ANOVA's where its best tenth, which it
            compares with all, is too few settings.
        pairs: All pairs of parameters, those that act together most first; none where fewer than two vary.
    """

    settings: int
    logarithm: bool
    system: System
    unknown: str
    predicted: Share | None
    single: list[Importance]
    pairs: list[Pair]


def importances(records: Records) -> Importances:
    """How much each parameter matters for the objective of the complete settings.

    Each counts by its rank among the settings that were tried, so that evaluators weigh these evenly on any scale.

    Raises:
        FailedWork: No setting is complete.
    """
    means, logarithm = objective(records)
    means = means[[host_of(int(setting)) is None for setting in means.index]]
    if means.empty:
        raise FailedWork(
            f"a setting must have completed every seed for its parameters to matter, got none of {records.name!r}; "
            "lower the learning rate or mend the task."
        )
    target = sample(means)
    columns = varying(records, target.index, "natural").rank(pct=True)
    unknown = untold(target) or _too_few([str(name) for name in columns])
    if unknown:
        return Importances(len(target), logarithm, "natural", unknown, None, [], [])
    rng = np.random.default_rng(0)
    halves = [rng.permutation(len(target))[: len(target) // 2] for _ in range(HALVES)]
    evaluators = [FANOVA] if len(target) < FEWEST_OF_A_TENTH else [FANOVA, PED_ANOVA]
    single = [one for name in evaluators for one in _single(name, columns, target, records.mode, halves)]
    pairs = _pairs(columns, target, halves)
    return Importances(len(target), logarithm, "natural", "", held_out(columns, target), single, pairs)


def _too_few(names: list[str]) -> str:
    if not names:
        return "no parameter varies, so none can matter"
    return f"{names[0]} alone varies, so there is nothing to weigh it against" if len(names) == 1 else ""


def _single(
    evaluator: str, columns: pd.DataFrame, target: pd.Series, mode: str, halves: list[NDArray[np.int64]]
) -> list[Importance]:
    """Each parameter's importance, the largest first."""
    whole = _evaluate(evaluator, columns, target, mode)
    drawn = [_evaluate(evaluator, columns.iloc[half], target.iloc[half], mode) for half in halves]
    found = [
        Importance(evaluator, name, value, *_interval(value, np.array([each[name] for each in drawn])))
        for name, value in whole.items()
    ]
    return sorted(found, key=lambda one: -one.importance)


def _interval(value: float, halves: Array) -> tuple[float, float]:
    """95 % around a value in [0, 1], by Student's quantile for so many halves.

    Halves are as far from the value, in the mean square, as it is from the truth: leaving out a share d of the settings
    has the factor (1 - d) / d, which is 1 of a half. Source: Shao and Wu 1989, the delete-d jackknife.
    """
    reach = float(stdtrit(len(halves), 0.975)) * math.sqrt(float(np.square(halves - value).mean()))
    return max(0.0, value - reach), min(1.0, value + reach)


def _evaluate(evaluator: str, columns: pd.DataFrame, target: pd.Series, mode: str) -> dict[str, float]:
    """Importances that sum to 1; 0 of a parameter that varies in none of these settings, or where none can be told."""
    import optuna

    nothing = dict.fromkeys(map(str, columns), 0.0)
    names = [str(name) for name in columns if columns[name].nunique() > 1]
    spread: dict[str, BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(float(columns[name].min()), float(columns[name].max()))
        for name in names
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        for row, value in zip(columns[names].to_numpy(), target, strict=True):
            params = dict(zip(names, map(float, row), strict=True))
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spread, value=float(value)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that evaluators are experimental
            found = optuna.importance.get_param_importances(study, evaluator=_evaluator(evaluator))
    except RuntimeError:  # of fANOVA, where every tree has one value for all: nearly all settings measured the same
        return nothing
    finally:
        optuna.logging.set_verbosity(verbosity)
    return nothing | {name: float(value) for name, value in found.items()}


def _evaluator(name: str) -> BaseImportanceEvaluator:
    from optuna import importance

    if name == FANOVA:
        return importance.FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0)
    return importance.PedAnovaImportanceEvaluator()


def _pairs(columns: pd.DataFrame, target: pd.Series, halves: list[NDArray[np.int64]]) -> list[Pair]:
    """How much pairs act together, the most first."""
    whole = _together(columns, target)
    drawn = [_together(columns.iloc[half], target.iloc[half]) for half in halves]
    found = [
        Pair(*pair, share, *_interval(share, np.array([each[pair] for each in drawn]))) for pair, share in whole.items()
    ]
    return sorted(found, key=lambda pair: -pair.share)


def _together(columns: pd.DataFrame, target: pd.Series) -> dict[tuple[str, str], float]:
    """Of the variance of trees' predictions, the share of each pair beyond its two parameters alone.

    Source: Friedman and Popescu 2008, partial dependence, over the variance of all predictions.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    x, names = columns.to_numpy(), [str(name) for name in columns]
    model = ExtraTreesRegressor(PAIR_TREES, min_samples_leaf=2, random_state=0).fit(x, target.to_numpy())
    some = x[np.random.default_rng(0).permutation(len(x))[:PLACES]]
    total = float(model.predict(some).var())

    def dependence(*chosen: int) -> Array:
        """The mean prediction at each place of these parameters over the others' places, centred."""
        places = np.tile(some, (len(some), 1))
        places[:, chosen] = np.repeat(some[:, chosen], len(some), axis=0)
        means = model.predict(places).reshape(len(some), len(some)).mean(axis=1)
        return np.asarray(means - means.mean())

    alone = [dependence(place) for place in range(len(names))]
    return {
        (names[one], names[two]): float((dependence(one, two) - alone[one] - alone[two]).var()) / total
        if total
        else 0.0
        for one, two in itertools.combinations(range(len(names)), 2)
    }
