"""The objective over the coordinates that carry over from task to task."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from study.findings.collect import Records
from study.pictures.base import HEIGHT, Picture, specification, spread, tooltips
from study.pictures.points import TEXTS, TITLES, complete, decade, family_colour, points, ratio_axis, usual

REACH = 6.0  # distances of the median from the best that the vertical axis shows
TITLE_OF = {
    "mass_ratio": "mass ratio: push below 0, pull above",
    "memory": "memory: (lag + 1) / run",
    "shown_ratio": "damping ratio",
}


def coordinates(records: Records) -> Picture:
    """The objective over mass ratio (from push to pull, EMA at 0), memory and damping ratio.

    Raises:
        Unsupported: No setting is complete.
    """
    done = complete(records)
    edge = decade(points(records)["damping_ratio"])
    brush = alt.selection_interval(name="brush", encodings=["x", "y"])
    first, *others = [_panel(records, done, name, edge, brush) for name in TITLE_OF]
    chart = specification(alt.concat(first.add_params(brush), *others, columns=len(TITLE_OF), spacing=28))
    chart["params"][0]["views"] = [f"panel_{name}" for name in TITLE_OF]  # one brush for all; altair would warn
    return Picture(
        chart=chart,
        data={"points": points(records)},
        caption=(
            f"{records.metric} of all {len(done)} complete settings and riders over the figures that carry over "
            "to other tasks. Averages without coupling have mass ratio 0; EMA has no finite damping ratio and stands "
            "at the right. What is far worse than most lies at the edge. Drag over one picture to see the same "
            "settings in the others."
        ),
        description="Three scatter plots: the objective over mass ratio, memory and damping ratio.",
        columns=len(TITLE_OF),
    )


def _panel(records: Records, done: pd.DataFrame, name: str, edge: float, brush: alt.Parameter) -> alt.Chart:
    low, high, wide = usual(done["objective"], records.mode, REACH) or (*spread(done["objective"]), False)
    if not wide:
        low, high = low - (high - low) * 0.03, high + (high - low) * 0.05
    y = alt.Y(
        "objective:Q",
        scale=alt.Scale(type="log" if wide else "linear", domain=(low, high), nice=False, clamp=True),
        title=records.metric if name == next(iter(TITLE_OF)) else None,
        axis=alt.Axis(format="~g"),
    )
    measured = alt.Chart(alt.NamedData("points")).transform_filter("datum.objective != null")
    marks = measured.mark_circle(size=26).properties(name=f"panel_{name}", height=HEIGHT - 60)
    panel: alt.Chart = marks.encode(
        x=_axis(name, done, edge),
        y=y,
        color=family_colour(done),
        fillOpacity=alt.condition(brush, alt.value(0.75), alt.value(0.06)),
        tooltip=tooltips(TITLES, TEXTS),
    )
    return panel


def _axis(name: str, done: pd.DataFrame, edge: float) -> alt.X:
    """A panel's horizontal axis."""
    if name == "mass_ratio":
        low, high = spread(done["mass_ratio"])
        marks = [value for value in (-0.9, -0.5, 0, 1, 3, 10, 30, 100, 1000) if low <= value <= high]
        scale = alt.Scale(type="symlog", constant=0.5, domain=(low, high), nice=False)
        return alt.X("mass_ratio:Q", scale=scale, title=TITLE_OF[name], axis=alt.Axis(format="~g", values=marks))
    axis = alt.Axis(format="~g", tickCount=5)
    if name == "shown_ratio":
        finite = done["damping_ratio"].map(math.isfinite).any()
        axis = ratio_axis(edge, [10.0**power for power in range(-3, int(math.log10(edge)))] if finite else [])
    return alt.X(f"{name}:Q", scale=alt.Scale(type="log", nice=False, padding=8), title=TITLE_OF[name], axis=axis)
