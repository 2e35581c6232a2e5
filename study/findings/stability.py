"""The stability limit of training beside what was measured on both sides of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from statistics import median

import pandas as pd

from belay import Oscillator
from study.design.schema import PARAMETERS, Tag, host_of
from study.findings.collect import Records
from study.findings.compare import ranking

UNASKED = "it takes plain SGD and a space of `lr` and averages alone"


@dataclass(frozen=True)
class Side:
    """What was measured on one side of the limit.

    Attributes:
        settings: How many, riders left out.
        diverged: How many of these diverged.
        best: The best one's objective; nan where none was completed by every seed.
        median: Of the objectives.
    """

    settings: int
    diverged: int
    best: float
    median: float


@dataclass(frozen=True)
class Stability:
    """Where plain SGD is unstable by theory, ``lr * curvature > max_stable_step``, and what was measured there.

    Attributes:
        curvature: Largest eigenvalue of the loss's Hessian at the initial weights, median over `seeds`.
        low: The least of the seeds.
        high: The greatest.
        seeds: How many seeds' weights it was measured at.
        within: The settings up to the limit.
        beyond: Those above it.
        chosen: How far the recommended setting goes, as a share of the limit.
    """

    curvature: float
    low: float
    high: float
    seeds: int
    within: Side
    beyond: Side
    chosen: float


def stability(records: Records, best: int) -> Stability | None:
    """The limit and its two sides; None where the study measured no curvature.

    Args:
        records: The study's records.
        best: The recommended setting.
    """
    found = curvatures(records)
    if not found:
        return None
    share = shares(records, median(found))
    asked = share[[host_of(number) is None for number in share.index]]
    return Stability(
        curvature=median(found),
        low=min(found),
        high=max(found),
        seeds=len(found),
        within=_side(records, asked.index[asked <= 1]),
        beyond=_side(records, asked.index[asked > 1]),
        chosen=float(share[best]),
    )


def curvatures(records: Records) -> list[float]:
    """The largest curvature at some seeds' initial weights; none where it is not known."""
    found = _curvatures(records)
    return [] if isinstance(found, str) else found


def unknown(records: Records) -> str:
    """Why the curvature is not known; "" where it is."""
    found = _curvatures(records)
    return found if isinstance(found, str) else ""


def _curvatures(records: Records) -> list[float] | str:
    found: list[float] | str = json.loads(records.tags.get(Tag.CURVATURES, "[]"))
    return found or UNASKED


def shares(records: Records, curvature: float) -> pd.Series:
    """By setting and rider: ``lr * curvature / max_stable_step``."""
    settings = records.settings
    averages = [Oscillator(*average) for average in settings[list(PARAMETERS)].itertuples(index=False)]
    limits = [average.max_stable_step for average in averages]
    return settings["lr"].astype(float) * curvature / limits


def _side(records: Records, numbers: pd.Index) -> Side:
    measured = ranking(records)["mean"].reindex(numbers).dropna()
    best = (measured.max() if records.mode == "max" else measured.min()) if len(measured) else math.nan
    return Side(
        settings=len(numbers),
        diverged=int(records.settings["state"][numbers].eq("diverged").sum()),
        best=float(best),
        median=float(measured.median()),
    )
