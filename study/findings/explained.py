"""How much of the objective's variance over settings parameters explain: natural coordinates, and raw ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.design.schema import NATURAL, PARAMETERS, host_of, order
from study.errors import counted
from study.findings.collect import Records
from study.findings.compare import values

System = Literal["natural", "raw"]
FEWEST = 20  # trainings with different parameters of which anything is said
MOST = 600  # settings that a model is fitted to, the same at every call
DECADES = 2.0  # an objective that is positive and spans as many powers of ten is taken by its logarithm
FOLDS, REPEATS, TREES, RESAMPLES = 5, 2, 25, 1000


@dataclass(frozen=True)
class Share:
    """A share of the objective's variance over settings that were held out.

    Attributes:
        share: At most 1; below 0 where it is predicted worse than by the mean.
        low: Lower end of the 95 % interval, by resampling the trainings.
        high: Upper end.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Explained:
    """How much of the objective's variance over settings is explained, each system with the other hyperparameters.

    Attributes:
        settings: Settings and riders that it is told of; all those that completed every seed, or `MOST` of them.
        logarithm: Whether it is the variance of the objective's logarithm.
        unknown: Why nothing can be told; "" if it can.
        natural: By memory, damping ratio and mass ratio; None if nothing can be told.
        raw: By decay, damping and coupling; None if nothing can be told.
    """

    settings: int
    logarithm: bool
    unknown: str
    natural: Share | None
    raw: Share | None


def explained(records: Records) -> Explained:
    """How much either system explains, by extra trees, which no change of a parameter's scale affects.

    Settings of one training, a host and its riders, are held out together.
    """
    means, logarithm = objective(records)
    unknown = untold(means)
    if unknown:
        return Explained(len(means), logarithm, unknown, None, None)
    chosen = sample(means)
    natural, raw = (held_out(varying(records, chosen.index, system), chosen) for system in ("natural", "raw"))
    return Explained(len(chosen), logarithm, "", natural, raw)


def objective(records: Records) -> tuple[pd.Series, bool]:
    """The objective by setting, its mean over the seeds that all have, and whether it is the logarithm of that.

    Without the logarithm a few settings close to divergence would be all of the variance.
    """
    means = values(records, records.metric).iloc[:, : records.seeds].mean(axis=1)
    if len(means) and means.min() > 0 and math.log10(means.max() / means.min()) >= DECADES:
        return means.map(math.log), True
    return means, False


def untold(means: pd.Series) -> str:
    """Why nothing can be told of what the objective depends on; "" if it can."""
    if len(means) > 1 and not np.ptp(means) > 1e-12 * means.abs().max():
        return "all settings measured the same, so there is nothing to explain"
    trainings = len(set(_trainings(means.index)))
    if trainings < FEWEST:
        few = counted(trainings, "training")
        return f"nothing can be told from {few} with different parameters; try {FEWEST} settings or more"
    return ""


def sample(means: pd.Series) -> pd.Series:
    """At most `MOST` settings, the same at every call, in their order."""
    return means.iloc[np.sort(np.random.default_rng(0).permutation(len(means))[:MOST])]


def varying(records: Records, settings: pd.Index, system: System) -> pd.DataFrame:
    """The parameters that these settings differ in, as numbers in which trees may split.

    The damping ratio becomes a finite number in the same order: EMA has 1, and averages that alternate have their
    damping, above 1. Values that are no numbers are replaced by their place in sorted order, null first.
    """
    table = records.settings.loc[settings].copy()
    ratio = table["damping_ratio"].astype(float)
    table["damping_ratio"] = (ratio / (1 + ratio)).mask(ratio == math.inf, 1.0).fillna(table["damping"])
    table[list(NATURAL)] = table[list(NATURAL)].map(lambda value: float(f"{value:.9g}"))  # computed, equal to rounding
    own = list(NATURAL if system == "natural" else PARAMETERS)
    columns = {}
    for name in [*own, *records.parameters[len(PARAMETERS) :]]:
        column = table[name].infer_objects()
        if column.dtype.kind not in "bif" or column.isna().any():
            column = pd.Series(order(table[name]), column.index)
        if column.nunique() > 1:
            columns[name] = column.astype(float)
    return pd.DataFrame(columns, index=settings)


def held_out(columns: pd.DataFrame, target: pd.Series) -> Share:
    """How much of the target's variance a model explains in trainings that it was not fitted to."""
    _, training = np.unique(_trainings(target.index), return_inverse=True)
    errors = _errors(columns.to_numpy(), target.to_numpy(), training)
    whole = (target - target.mean()).to_numpy() ** 2
    parts = np.column_stack([np.bincount(training, errors), np.bincount(training, whole)])
    drawn = np.random.default_rng(0).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), RESAMPLES) @ parts
    low, high = np.quantile(1 - drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return Share(1 - float(errors.sum() / whole.sum()), float(low), float(high))


def _trainings(settings: pd.Index) -> list[int]:
    """The setting whose training each one is measured on: its own, or its host's."""
    return [number if (host := host_of(number)) is None else host for number in map(int, settings)]


def _errors(x: NDArray[np.float64], y: NDArray[np.float64], training: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each setting's squared error by models that saw nothing of its training, mean over the repeats."""
    from sklearn.ensemble import ExtraTreesRegressor

    errors = np.zeros(len(y))
    if not x.shape[1]:
        return np.asarray(np.square(y - y.mean()))
    for repeat in range(REPEATS):
        fold = np.random.default_rng(repeat).permutation(training.max() + 1)[training] % FOLDS
        for outside in range(FOLDS):
            inside = fold != outside
            model = ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=repeat).fit(x[inside], y[inside])
            errors[~inside] += (model.predict(x[~inside]) - y[~inside]) ** 2 / REPEATS
    return errors
