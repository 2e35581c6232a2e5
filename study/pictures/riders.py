"""The riders as a surface: the objective over memory x damping ratio of averages that leave training alone."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from study.design.schema import RIDERS, host_of
from study.findings.collect import Records
from study.findings.compare import ranking
from study.pictures.base import HEIGHT, Picture, Unsupported, specification, tooltips
from study.pictures.coordinates import TITLE_OF
from study.pictures.plane import colour
from study.pictures.points import TEXTS, TITLES, points, ratio_axis, shown

LONE = 2.0  # ratio of a cell's ends where there is no other beside it
SIZE = 40  # square pixels


def surface(records: Records) -> Picture:
    """The best rider at each place of their grid, and on it the settings without coupling that were asked.

    Raises:
        Unsupported: There are no riders.
    """
    cells, edge = _cells(records)
    hosts, best = cells["trainings"].max(), cells.iloc[0]
    ratio = "EMA" if math.isinf(best["damping_ratio"]) else f"damping ratio {best['damping_ratio']:.3g}"
    return Picture(
        chart=specification(_chart(records, cells, edge)),
        data={"cells": cells, "points": points(records)},
        caption=(
            f"{records.metric} of the averages that watched trainings without coupling: at each place the best of up "
            f"to {hosts} trainings, which flatters it; in a race, of those that were in it longest. Outlined is the "
            f"best of all: memory {best['memory']:.3g}, {ratio}. At a damping ratio of 1, the line, an average is "
            "critically damped. Points are settings without coupling that were asked themselves."
        ),
        description=f"Heat map of {len(cells)} averages by memory and damping ratio, EMA at the top.",
    )


def _cells(records: Records) -> tuple[pd.DataFrame, float]:
    """A row for each place of the riders' grid, the best first, and the largest finite damping ratio in it."""
    ranked = ranking(records)
    riders = ranked[[host_of(int(number)) is not None for number in ranked.index]]
    if riders.empty:
        raise Unsupported("no averages watched its trainings; `search.riders` gives a grid of them")
    rounded = riders[["memory", "damping_ratio"]].map(lambda value: float(f"{value:.6g}"))
    first = ~rounded.duplicated()  # as `ranking` has the best first
    number = rounded.groupby(["memory", "damping_ratio"])["memory"].transform("size")
    told = points(records).set_index("setting").loc[riders.index]
    cells = told.assign(**rounded, trainings=number)[first].reset_index()
    edge = float(max([ratio for ratio in cells["damping_ratio"] if math.isfinite(ratio)], default=1.0))
    cells["shown_ratio"] = shown(cells["damping_ratio"], edge)
    cells[["left", "right"]] = _ends(cells["memory"])
    cells[["bottom", "top"]] = _ends(cells["shown_ratio"])
    return cells, edge


def _ends(values: pd.Series) -> np.ndarray:
    """Where each value's part of a logarithmic axis begins and ends, shape (values, 2): half-way to its neighbours."""
    places = np.log(np.unique(values))
    half = np.diff(places) / 2 if len(places) > 1 else np.array([math.log(LONE) / 2])
    lows, highs = places - np.r_[half[0], half][: len(places)], places + np.r_[half, half[-1]][: len(places)]
    where = np.searchsorted(places, np.log(values))
    ends: np.ndarray = np.exp(np.column_stack([lows[where], highs[where]]))
    return ends


def _chart(records: Records, cells: pd.DataFrame, edge: float) -> alt.TopLevelMixin:
    memories, ratios = np.unique(cells["memory"]), np.unique(cells["damping_ratio"])
    x = alt.X(
        "left:Q",
        scale=alt.Scale(type="log", domain=[cells["left"].min(), cells["right"].max()], nice=False),
        title=TITLE_OF["memory"],
        axis=alt.Axis(format=".3~g", values=list(memories), grid=False),
    )
    heights = alt.Scale(type="log", domain=[cells["bottom"].min(), cells["top"].max()], nice=False)
    axis = ratio_axis(edge, [float(ratio) for ratio in ratios if math.isfinite(ratio)], grid=False)
    y = alt.Y("bottom:Q", scale=heights, title="damping ratio", axis=axis)
    place: dict[str, Any] = {"x": x, "x2": "right:Q", "y": y, "y2": "top:Q"}
    shade = colour(records, cells["objective"])
    titles = tooltips({**TITLES, "trainings": "best of trainings"}, TEXTS)
    base = alt.Chart(alt.NamedData("cells"))
    ring = base.transform_filter(f"datum.setting == {cells['setting'][0]}").mark_rect(filled=False, style="best")
    line = base.transform_aggregate(cells="count()").mark_rule(style="theory", clip=True).encode(y=alt.datum(1))
    marks = _asked(edge, cells).mark_circle(size=SIZE, opacity=1, style="between", clip=True)
    layers = [
        base.mark_rect().encode(**place, color=shade, tooltip=titles),
        line,
        marks.encode(x="memory:Q", y="height:Q", color=shade, tooltip=tooltips(TITLES, TEXTS)),
        ring.encode(**place),
    ]
    return alt.layer(*layers).properties(name="riders", height=HEIGHT)


def _asked(edge: float, cells: pd.DataFrame) -> alt.Chart:
    """The settings without coupling that were asked: EMAs, and those whose damping ratios the cells reach."""
    finite = cells[cells["damping_ratio"].map(math.isfinite)]
    low, high = (finite["bottom"].min(), finite["top"].max()) if len(finite) else (1.0, 0.0)
    inside = f"datum.damping_ratio >= {low} && datum.damping_ratio <= {high}"
    own = f"datum.objective !== null && datum.coupling === 0 && datum.setting < {RIDERS}"
    asked = alt.Chart(alt.NamedData("points")).transform_filter(f"{own} && (datum.damping === 1 || ({inside}))")
    chart: alt.Chart = asked.transform_calculate(height=f"datum.damping === 1 ? {3 * edge} : datum.damping_ratio")
    return chart
