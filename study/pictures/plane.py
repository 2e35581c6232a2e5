"""The regime map: decay x damping, with the curves of theory and the measured settings."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from study.findings.collect import Records
from study.pictures.base import HEIGHT, Picture, Unsupported, digits, specification, tooltips
from study.pictures.points import TEXTS, TITLES, complete, points, recommended, usual

Window = tuple[tuple[float, float], tuple[float, float]]  # ranges of 1 - decay and of damping
LINE = 200  # points of a curve
MARGIN = 1.6  # factor beyond the outermost settings
ROOMY = 0.35  # 1 - decay up to which damping 0.9 is overdamped, with room to spare
ALTERNATING = 1.0  # damping above which the average rings with alternating sign
WHOLE = 2.0  # damping below which an average is stable
REACH = 4.0  # distances of the median from the best over which colours run
SIZES = {"complete": 36, "bad": 28, "best": 220}  # square pixels


def regime_map(records: Records) -> Picture:
    """Where the measured settings lie among the regimes, coloured by the objective."""
    found = points(records)
    window = _window(found)
    frame = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X(
            "gap:Q",
            scale=alt.Scale(type="log", domain=window[0], nice=False),
            title="1 - decay (to the left, longer memory)",
            axis=alt.Axis(format="~g", tickCount=6),
        ),
        y=alt.Y("damping:Q", scale=alt.Scale(domain=window[1], nice=False), title="damping"),
    )
    brush = frame.mark_point(opacity=0, size=1).add_params(alt.selection_interval(name="brush", encodings=["x", "y"]))
    layers = [brush.properties(name="brushed"), *_regions(window), *_settings(records, found)]
    return Picture(
        chart=specification(alt.layer(*layers).properties(name="map", height=HEIGHT + 60)),
        data={"points": found, "curves": _curves(window), "labels": _labels(window)},
        caption=_caption(records, found, window[1][1] == WHOLE),
        description=f"Scatter plot of {len(found)} settings by 1 - decay and damping, with the critical curve.",
    )


def _caption(records: Records, found: pd.DataFrame, alternating: bool) -> str:
    bad = int((found["state"] != "complete").sum())
    ended = f"; {bad} that did not finish are crosses" if bad else ""
    ring = "; the ring marks the recommended one" if bad < len(found) else ""
    drag = " Drag a box to list its settings alone in the table." if bad < len(found) else ""
    edge = "Above the dashed line the average itself is unstable. " if alternating else ""
    return (
        f"All {len(found)} settings and riders, a point each, coloured by {records.metric}{ended}{ring}. "
        "On the curve the average is critically damped: it forgets fastest without overshooting. "
        f"Above the curve it creeps (EMA has damping 1), in the shaded region below it swings. {edge}Where several "
        f"differ in other parameters alone, the best lies on top.{drag}"
    )


def _window(found: pd.DataFrame) -> Window:
    """The ranges of 1 - decay and damping that are drawn."""
    low, high = float(found["gap"].min()), float(found["gap"].max())
    top = WHOLE if found["damping"].max() > ALTERNATING else ALTERNATING * 1.06
    return (low / MARGIN, min(high * MARGIN, 1.0)), (0.0, top)


def _curves(window: Window) -> pd.DataFrame:
    """Over k = 1 - decay, the critical damping, ``k = (1 - sqrt(1 - c))^2``, and the greatest, ``k = 4 - 2 c``."""
    (left, right), (_, top) = window
    gap = np.geomspace(left, right, LINE)
    frames = [pd.DataFrame({"gap": gap, "damping": 2 * np.sqrt(gap) - gap, "curve": "critical"})]
    if top == WHOLE:
        frames.append(pd.DataFrame({"gap": gap, "damping": 2 - gap / 2, "curve": "limit"}))
    return pd.concat(frames, ignore_index=True)


def _labels(window: Window) -> pd.DataFrame:
    """Names of the regions, each well inside its own, where the window shows it."""
    (left, right), (_, top) = window
    rows = [("EMA", right / 1.05, 1.0, "right")]
    if left < ROOMY:
        rows.append(("overdamped", left * 1.08, 0.9, "left"))
    critical = 2 * math.sqrt(right) - right
    if critical > 0.12:
        rows.append(("underdamped", right / 1.08, critical * 0.3, "right"))
    if top == WHOLE:
        rows.append(("alternating", left * 1.08, 1.3, "left"))
    return pd.DataFrame(rows, columns=["text", "gap", "damping", "align"])


def _regions(window: Window) -> list[alt.Chart]:
    curves = alt.Chart(alt.NamedData("curves"))
    critical = curves.transform_filter("datum.curve == 'critical'")
    place = {"x": alt.X("gap:Q"), "y": alt.Y("damping:Q")}
    drawn = [
        critical.mark_area(style="shade", clip=True).encode(**place),
        critical.mark_line(style="theory", clip=True).encode(**place),
    ]
    if window[1][1] == WHOLE:
        limit = curves.transform_filter("datum.curve == 'limit'")
        drawn.append(limit.mark_line(style="limit", clip=True).encode(**place))
    for align in ("left", "right"):
        names = alt.Chart(alt.NamedData("labels")).transform_filter(f"datum.align == '{align}'")
        drawn.append(names.mark_text(style="region", align=align, dy=-8).encode(**place, text="text:N"))
    return drawn


def _settings(records: Records, found: pd.DataFrame) -> list[alt.Chart]:
    """The settings as marks: those that did not finish, those that did, and the recommended one."""
    base = alt.Chart(alt.NamedData("points"))
    shown = tooltips(TITLES, TEXTS)
    place: dict[str, Any] = {"x": alt.X("gap:Q"), "y": alt.Y("damping:Q")}
    bad = base.transform_filter("datum.objective == null").mark_point(
        shape="cross", style="bad", size=SIZES["bad"], angle=45, filled=False
    )
    drawn = [bad.encode(**place, tooltip=shown)]
    try:
        done, best = complete(records), recommended(records).setting
    except Unsupported:
        return drawn
    good = base.transform_filter("datum.objective != null").mark_circle(size=SIZES["complete"], opacity=0.9)
    order = alt.Order("objective:Q", sort="ascending" if records.mode == "max" else "descending")
    drawn.append(good.encode(**place, color=colour(records, done["objective"]), order=order, tooltip=shown))
    ring = base.transform_filter(f"datum.setting == {best}").mark_point(style="best", size=SIZES["best"], filled=False)
    return [*drawn, ring.encode(**place)]


def colour(records: Records, objective: pd.Series, reach: float = REACH) -> Any:
    """The objective as a colour, the best most prominent; none where all are equal."""
    found = usual(objective, records.mode, reach)
    if found is None:
        return alt.Undefined
    low, high, wide = found
    scale = alt.Scale(
        type="log" if wide else "linear", domain=(low, high), clamp=True, reverse=records.mode == "min", nice=False
    )
    shown = max(4, digits(max(abs(low), abs(high)), high - low, least=3))
    legend = alt.Legend(format=f".{shown}~g")
    return alt.Color("objective:Q", scale=scale, title=records.metric, legend=legend)
