"""How sure it is, and what matters: intervals of the comparisons, and the parameters' importance."""

from __future__ import annotations

import altair as alt
import pandas as pd

from study.answer import BASELINE_TEXTS
from study.errors import FailedWork
from study.findings.collect import Records
from study.findings.compare import comparisons
from study.findings.importance import FANOVA, PED_ANOVA, importances
from study.pictures.base import Picture, Unsupported, specification, tooltips
from study.pictures.points import recommended

EVALUATORS = {FANOVA: "fANOVA", PED_ANOVA: "PED-ANOVA"}
ROW = 44  # pixels of a line of bars or intervals
TICKS = "clamp(round(width / 60), 2, 6)"  # of the differences: as many as a narrow page has room for


def comparison(records: Records) -> Picture:
    """The paired difference of the recommended setting to the best of each family.

    Raises:
        Unsupported: There is nothing to compare with, or one seed.
    """
    best = recommended(records)
    itself = best.setting, records.metric
    compared = comparisons(records, best.setting).to_dict("records")
    data = pd.DataFrame([line for line in compared if (line["setting"], line["metric"]) != itself])
    if data.empty:
        raise Unsupported("the study measured nothing to compare the recommended setting with")
    if data["low"].isna().all():
        raise Unsupported("one seed gives no interval; give `seeds` at least 2")
    data = data.drop(columns="metric").assign(against="vs " + data["baseline"].map(BASELINE_TEXTS))
    told = "; ".join(
        f"{one.against} {one.difference:+.3g} ({one.low:+.3g} to {one.high:+.3g})" for one in data.itertuples()
    )
    return Picture(
        chart=specification(alt.layer(*_intervals(records)).properties(name="comparison", height=ROW * len(data) + 20)),
        data={"compared": data},
        caption=(
            "The recommended setting against the best of each family, paired seed by seed"
            f"{', on fresh seeds where they have them' if data['fresh'].any() else ''}: mean difference and its 95 % "
            "interval, which holds for all that it was chosen from, in the metric's unit, better to the right. An "
            "interval that reaches over the dashed line leaves open which is better."
        ),
        description=f"Intervals of the paired differences: {told}.",
    )


def importance(records: Records) -> Picture:
    """How much each parameter matters for the objective.

    Raises:
        Unsupported: Nothing can be told from these settings.
    """
    try:
        found = importances(records)
    except FailedWork as error:
        raise Unsupported("no setting was completed by every seed") from error
    if found.predicted is None:
        raise Unsupported(found.unknown)
    data = pd.DataFrame(found.single).assign(by=[EVALUATORS[one.evaluator] for one in found.single])
    order = list(data.groupby("parameter", sort=False)["importance"].max().sort_values(ascending=False).index)
    tenth = ", and for being among the best (PED-ANOVA)" if data["by"].nunique() > 1 else ""
    trust = "" if found.predicted.low > 0 else " They predict nothing in settings held out: this may be noise."
    return Picture(
        chart=specification(
            alt.layer(*_bars(order, list(data["by"].unique()))).properties(
                name="importance", height=ROW * len(order) + 20
            )
        ),
        data={"importances": data},
        caption=(
            f"How much each parameter matters for {records.metric} over {found.settings} settings, with 95 % "
            f"intervals: as a share of the variance over all that was searched (fANOVA){tenth}. Riders are left out."
            f"{trust}"
        ),
        description=f"Bars: importance of {', '.join(order)}, most important first.",
    )


def _bars(order: list[str], evaluators: list[str]) -> list[alt.Chart]:
    base = alt.Chart(alt.NamedData("importances")).encode(
        y=alt.Y("parameter:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=220)),
        yOffset=alt.YOffset("by:N", sort=evaluators),
        tooltip=[
            alt.Tooltip("parameter:N"),
            alt.Tooltip("by:N"),
            *tooltips({"importance": "importance", "low": "95 % from", "high": "to"}),
        ],
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        x=alt.X("importance:Q", title="importance, share of the whole", axis=alt.Axis(format="~g", tickCount=6)),
        color=alt.Color("by:N", scale=alt.Scale(domain=evaluators), title=None),
    )
    return [bars, base.mark_rule(style="theory").encode(x="low:Q", x2="high:Q")]


def _intervals(records: Records) -> list[alt.Chart]:
    base = alt.Chart(alt.NamedData("compared")).encode(
        y=alt.Y("against:N", title=None, sort=None, axis=alt.Axis(domain=False, ticks=False))
    )
    title = ["difference in", records.metric, "better to the right"]
    shown = [
        alt.Tooltip("against:N"),
        alt.Tooltip("difference:Q", format="+.4~g"),
        alt.Tooltip("low:Q", title="95 % from", format="+.4~g"),
        alt.Tooltip("high:Q", title="to", format="+.4~g"),
        *tooltips({"setting": "setting", "seeds": "seeds"}),
    ]
    axis = alt.Axis(format="~g", tickCount=alt.ExprRef(TICKS))
    return [
        alt.Chart(alt.NamedData("compared")).mark_rule(style="zero").encode(x=alt.datum(0)),
        base.mark_rule(style="interval", strokeWidth=4, opacity=0.45).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_circle(style="interval", size=110, opacity=1).encode(
            x=alt.X("difference:Q", title=title, axis=axis), tooltip=shown
        ),
    ]
