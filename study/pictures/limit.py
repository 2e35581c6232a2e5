"""The objective over the learning rate as a share of the largest that is stable."""

from __future__ import annotations

from statistics import median
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from study.design.schema import host_of
from study.findings.collect import Records
from study.findings.stability import curvatures, shares, unknown
from study.pictures.base import HEIGHT, Picture, Unsupported, specification, spread, tooltips
from study.pictures.points import TEXTS, TITLES, complete, family_colour, is_wide, points, recommended

MARGIN = 1.25  # factor beyond the outermost settings
SIZES = {"complete": 40, "bad": 40, "best": 220}  # square pixels


def limit(records: Records) -> Picture:
    """What settings came to on both sides of the stability limit of training.

    Raises:
        Unsupported: The study measured no curvature, or completed no setting.
    """
    found = curvatures(records)
    if not found:
        raise Unsupported(f"the limit is not known: {unknown(records)}")
    objective = complete(records)["objective"]
    wide = is_wide(float(objective.min()), float(objective.max()))
    low, high = (objective.min() / 1.2, objective.max() * 1.2) if wide else spread(objective)
    asked = points(records)
    asked = asked[[host_of(number) is None for number in asked["setting"]]]
    data = asked.assign(
        share=shares(records, median(found)).loc[asked["setting"]].to_numpy(),
        shown=asked["objective"].fillna(high if records.mode == "min" else low),
    )
    ended = int(asked["objective"].isna().sum())
    crosses = f" The {ended} that did not finish are crosses at the edge." if ended else ""
    best = recommended(records).setting
    host = host_of(best)
    ringed = "recommended setting" if host is None else "setting whose training the recommended rider watched"
    y = alt.Y(
        "shown:Q",
        scale=alt.Scale(type="log" if wide else "linear", domain=(low, high), nice=False),
        title=records.metric,
        axis=alt.Axis(format="~g"),
    )
    return Picture(
        chart=specification(_chart(data, y, best if host is None else host)),
        data={"limits": data},
        caption=(
            f"{records.metric} of the {len(data)} settings over lr x curvature / max_stable_step; riders, which only "
            "watch, are left out. Beyond the dashed line plain SGD is unstable by theory, if the loss curves all along "
            f"as it does at the initial weights, where its largest curvature is {median(found):.3g}. The ring marks "
            f"the {ringed}.{crosses}"
        ),
        description=f"Scatter plot: the objective of {len(data)} settings below and above the stability limit.",
    )


def _axis(share: pd.Series) -> alt.X:
    """The horizontal axis, which reaches over the limit."""
    known = share[np.isfinite(share) & (share > 0)]
    low, high = min([1.0, *known]), max([1.0, *known])
    return alt.X(
        "share:Q",
        scale=alt.Scale(type="log", domain=(low / MARGIN, high * MARGIN), nice=False),
        title="learning rate, as a share of the largest that is stable",
        axis=alt.Axis(format="~g", tickCount=6),
    )


def _chart(data: pd.DataFrame, y: alt.Y, ringed: int) -> alt.TopLevelMixin:
    """Settings as marks, one of them with a ring, and the limit as a line."""
    base = alt.Chart(alt.NamedData("limits"))
    place: dict[str, Any] = {"x": _axis(data["share"]), "y": y}
    shown = tooltips({"share": "share of the limit", **TITLES}, TEXTS)
    colour = family_colour(data[data["objective"].notna()])
    good = base.transform_filter("datum.objective != null").mark_circle(size=SIZES["complete"], opacity=0.8)
    bad = base.transform_filter("datum.objective == null").mark_point(
        shape="cross", style="bad", size=SIZES["bad"], angle=45, filled=False
    )
    ring = base.transform_filter(f"datum.setting == {ringed}").mark_point(
        style="best", size=SIZES["best"], filled=False
    )
    line = base.transform_aggregate(settings="count()").mark_rule(style="limit").encode(x=alt.datum(1))  # one for all
    layers = [
        line,
        good.encode(**place, color=colour, tooltip=shown),
        bad.encode(**place, tooltip=shown),
        ring.encode(**place),
    ]
    return alt.layer(*layers).properties(name="limit", height=HEIGHT)
