"""The settings as points: the frame that the regime map, the coordinates, the riders and the limit draw."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from study.design.schema import NATURAL, PARAMETERS
from study.errors import FailedWork
from study.findings.collect import Records
from study.findings.compare import ranking
from study.findings.recommend import Recommendation, recommend
from study.pictures.base import Unsupported
from study.show import number

SHOWN = 2000  # settings up to which each point carries its hyperparameters
WIDE = 30  # ratio of greatest to least from which a scale is logarithmic
FAMILIES = {"ema": "EMA", "damped": "damped", "belay": "BELAY", "push": "push"}
TITLES = {
    "setting": "setting",
    "state": "state",
    "family": "family",
    "objective": "objective",
    "se": "standard error",
    "seeds": "seeds",
    **{name: name for name in PARAMETERS},
    "damping_ratio": "damping ratio",
    "memory": "memory, share of the run",
    "mass_ratio": "mass ratio",
    "others": "with",
}
TEXTS = ("state", "family", "others")


@functools.lru_cache(maxsize=2)
def points(records: Records) -> pd.DataFrame:
    """A row for each setting and rider, by number: what `TITLES` names, ``gap``, 1 - decay, and ``shown_ratio``."""
    settings, ranked = records.settings, ranking(records)
    found = settings[["state", *PARAMETERS, *NATURAL]].reset_index()
    found[["objective", "se", "seeds"]] = ranked[["mean", "se", "seeds"]].reindex(settings.index).to_numpy()
    found["state"] = found["state"].mask((found["state"] == "complete") & found["objective"].isna(), "unfinished")
    found["family"] = settings["family"].map(FAMILIES).to_numpy()
    found["gap"] = 1 - found["decay"]
    found["shown_ratio"] = shown(found["damping_ratio"], decade(found["damping_ratio"]))
    found["others"] = _others(records)
    return found


def complete(records: Records) -> pd.DataFrame:
    """The points that have an objective, the best last, where it is drawn above the others.

    Raises:
        Unsupported: There is none.
    """
    found = points(records)
    found = found[found["objective"].notna()]
    if found.empty:
        raise Unsupported("no setting was completed by every seed")
    return found.sort_values("objective", ascending=records.mode == "max", kind="stable")


@functools.lru_cache(maxsize=2)
def recommended(records: Records) -> Recommendation:
    """The setting to take.

    Raises:
        Unsupported: No setting was completed.
    """
    try:
        return recommend(records)
    except FailedWork as error:
        raise Unsupported("no setting was completed by every seed") from error


def family_colour(drawn: pd.DataFrame) -> alt.Color:
    """The family as a colour, in all pictures the same; the legend has those that are drawn."""
    names = list(FAMILIES.values())
    there = [name for name in names if name in set(drawn["family"])]
    return alt.Color("family:N", scale=alt.Scale(domain=names), legend=alt.Legend(values=there), title=None)


def usual(values: pd.Series, mode: str, reach: float) -> tuple[float, float, bool] | None:
    """The range that is worth its ink: from the best to `reach` times as far as the median, and whether logarithmic.

    Settings that did not learn at all would else leave nothing to be seen of all others. None if all values are equal.
    """
    wide = is_wide(float(values.min()), float(values.max()))
    held = np.log(values) if wide else values
    best, worst = (held.max(), held.min()) if mode == "max" else (held.min(), held.max())
    far = best + reach * (held.median() - best)
    if held.median() != best and abs(far - best) < abs(worst - best):
        worst = far
    low, high = sorted((float(best), float(worst)))
    if wide:
        low, high = math.exp(low), math.exp(high)
    return (low, high, wide) if low < high else None


def is_wide(low: float, high: float) -> bool:
    """Whether values span so much that they want a logarithmic scale."""
    return low > 0 and high / low > WIDE


def decade(ratio: pd.Series) -> float:
    """The decade above the greatest finite damping ratio."""
    most = ratio[np.isfinite(ratio)].max()
    return float(10.0 ** (math.floor(math.log10(most)) + 1)) if most > 0 else 10.0


def shown(ratio: pd.Series, edge: float) -> pd.Series:
    """Damping ratios where a logarithmic axis can show them: EMA's, which is infinite, at thrice a finite `edge`."""
    return ratio.where(np.isfinite(ratio), 3 * edge).where(ratio.notna())


def ratio_axis(edge: float, values: Sequence[float], **options: Any) -> alt.Axis:
    """An axis of such damping ratios, with ticks at some values and, by its name, at EMA's place."""
    text = f"datum.value > {edge * 2} ? 'EMA' : format(datum.value, '.3~g')"
    return alt.Axis(values=[*values, edge * 3], labelExpr=text, **options)


def _others(records: Records) -> list[str]:
    """The hyperparameters that vary, as text; without them where settings are many."""
    names, settings = [name for name in records.varied if name not in PARAMETERS], records.settings
    if not names or len(settings) > SHOWN:
        return [""] * len(settings)
    return [
        ", ".join(f"{name} {number(value)}" for name, value in zip(names, values, strict=True))
        for values in settings[names].astype(object).itertuples(index=False, name=None)
    ]
