"""What happens over steps: the learning curves, and how the winner's average answers to an impulse and a step."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pandas as pd

from belay import Oscillator
from study.design.schema import AVERAGE, figures, host_of, oscillator_of, regime_of
from study.errors import BadInput
from study.findings.collect import Records, curves
from study.findings.compare import ranking
from study.pictures.base import HEIGHT, Picture, Unsupported, specification, tooltips
from study.pictures.points import FAMILIES, recommended
from study.show import number

LONGEST = 100_000  # steps of a response that are computed
DRAWN = 400  # of these, points that are drawn
HALVINGS = 10  # half-lives of the slower average after which nothing moves any more
Averages = dict[str, tuple[str, Oscillator]]  # by family: what it is called, and which it is

MEAN = ["mean over seeds,", "band of a standard error"]
DASHES = {"averaged": [1, 0], "live": [4, 3]}


def response(records: Records) -> Picture:
    """Impulse and step response of the recommended average and of the best EMA.

    Raises:
        Unsupported: No setting is complete.
    """
    averages = _averages(records)
    slowest = max(average.half_life for _, average in averages.values())
    steps = min(records.steps, LONGEST, math.ceil(HALVINGS * slowest) + 2)
    panels = [
        _answer(averages, "impulse", "weight of an old step"),
        _answer(averages, "step", "share of a step followed"),
    ]
    return Picture(
        chart=specification(alt.concat(*panels, columns=2, spacing=36, name="response")),
        data={"responses": _responses(averages, max(steps, 4))},
        caption=(
            "Left: how much weight the average gives to the model of so many steps ago. Right: how it follows when the "
            "model jumps; what goes above 1 overshoots. These are the averages alone, without what a coupling does to "
            f"the model. In figures: {_words(averages, records.steps)}"
        ),
        description="Two line plots over steps: impulse and step response of the recommended setting and the best EMA.",
        columns=2,
    )


def _averages(records: Records) -> Averages:
    """The best EMA and the recommended average, which may be the same."""
    found = recommended(records)
    emas = [comparison.setting for comparison in found.versus if comparison.baseline == "ema"]
    averages = {"ema": ("best EMA", Oscillator.ema(float(records.settings["decay"][emas[0]])))} if emas else {}
    family = records.settings["family"][found.setting]
    taken = oscillator_of(found.parameters)
    return averages | {family: (f"recommended, {regime_of(taken)}", taken)}


def _in_colours(names: Averages) -> list[str]:
    """A name for each family in turn, so that each has the same colour in all pictures."""
    return [names[family][0] if family in names else family for family in FAMILIES]


def _answer(averages: Averages, kind: str, title: str) -> alt.Chart:
    base = alt.Chart(alt.NamedData("responses"), height=HEIGHT - 60).mark_line(strokeWidth=2)
    shown = [alt.Tooltip("average:N"), alt.Tooltip("age:Q", title="steps since"), alt.Tooltip("value:Q", format=".4~g")]
    panel: alt.Chart = base.transform_filter(f"datum.kind == '{kind}'").properties(name=kind)
    return panel.encode(
        x=alt.X("age:Q", title="steps since", axis=alt.Axis(format="~s", tickCount=6), scale=alt.Scale(nice=False)),
        y=alt.Y("value:Q", title=title, axis=alt.Axis(format="~g")),
        color=alt.Color(
            "average:N",
            scale=alt.Scale(domain=_in_colours(averages)),
            title=None,
            legend=alt.Legend(labelLimit=320, values=[name for name, _ in averages.values()]),
        ),
        tooltip=shown,
    )


def _words(averages: Averages, steps: int) -> str:
    parts = []
    for name, one in averages.values():
        derived = figures(one, steps)
        lag, half_life = number(derived["lag"]), number(derived["half_life"])
        parts.append(f"{name}: lag {lag} steps, half-life {half_life}, overshoot {100 * derived['overshoot']:.2g} %")
    return f"{'; '.join(parts)}."


def _responses(averages: Averages, steps: int) -> pd.DataFrame:
    """Both responses of each average at evenly spread ages, up to so many steps."""
    ages = np.unique(np.linspace(0, steps - 1, min(DRAWN, steps)).astype(int))
    frames = []
    for name, one in averages.values():
        kernel = one.kernel(steps)
        for kind, values in {"impulse": kernel, "step": np.cumsum(kernel)}.items():
            frames.append(pd.DataFrame({"average": name, "kind": kind, "age": ages, "value": values[ages]}))
    return pd.concat(frames, ignore_index=True)


def learning_curves(records: Records) -> Picture:
    """Live and averaged weights over steps, of the best setting of each family.

    Raises:
        Unsupported: No setting is complete, fewer than two evaluations are on record, or the records are out of reach.
    """
    data = _curves(records)
    metrics, series = list(dict.fromkeys(data["metric"])), list(dict.fromkeys(data["series"]))
    wanted = records.metric.partition("/")[2]
    first = wanted if wanted in metrics else metrics[0]
    which = alt.param(name="metric", value=first, bind=alt.binding_select(options=metrics, name="Metric "))
    title = alt.TitleParams(alt.ExprRef("metric"), anchor="start")
    layers = alt.layer(*_lines(series)).add_params(which)
    return Picture(
        chart=specification(layers.properties(name="curves", height=HEIGHT, title=title)),
        data={"curves_of": data},
        caption=(
            "The averaged weights (solid) and the model's own (dashed) over the run, of the best of each family "
            "that has a training of its own: mean over the seeds of the search, with bands of one standard error. "
            "Where the solid line lies on the good side of the dashed one, averaging helps at that step."
        ),
        description=f"Line plot of {first} over steps, averaged and live weights of {len(series)} settings.",
    )


def _lines(series: list[str]) -> list[alt.Chart]:
    symbol = alt.Legend(symbolType="stroke", symbolSize=300, labelLimit=260)
    scale, axis = alt.Scale(zero=False), alt.Axis(format="~g")
    low, mean = (alt.Y(f"{name}:Q", title=MEAN, scale=scale, axis=axis) for name in ("low", "mean"))
    base = alt.Chart(alt.NamedData("curves_of")).transform_filter("datum.metric == metric")
    base = base.encode(
        x=alt.X(
            "step:Q", title="optimizer steps", axis=alt.Axis(format="~s", tickCount=6), scale=alt.Scale(nice=False)
        ),
    )
    weights = alt.Scale(domain=list(DASHES), range=list(DASHES.values()))
    shown = tooltips({"series": "", "weights": "", "step": "step", "mean": "mean", "se": "standard error"},
                     ("series", "weights"))  # fmt: skip
    colours = alt.Scale(domain=[f"best {name}" for name in FAMILIES.values()])
    named = alt.Legend(symbolType="stroke", symbolSize=300, symbolOpacity=1, values=series)
    band = base.mark_area(opacity=0.16).encode(
        y=low, y2="high:Q", detail="weights:N", color=alt.Color("series:N", scale=colours, title=None, legend=named)
    )
    line = base.mark_line(strokeWidth=2).encode(
        y=mean,
        color=alt.Color("series:N", scale=colours, title=None, legend=named),
        strokeDash=alt.StrokeDash("weights:N", scale=weights, title=None, legend=symbol),
        tooltip=shown,
    )
    return [band, line]


def _curves(records: Records) -> pd.DataFrame:
    """The curves of the best setting of each family, told apart by whose weights they measure."""
    ranked = ranking(records)
    if ranked.empty:
        raise Unsupported("no setting was completed by every seed")
    own = ranked[ranked.index.map(host_of).isna()]
    best = {kind: int(members.index[0]) for kind, members in own.groupby("family")}
    names = {best[kind]: f"best {name}" for kind, name in FAMILIES.items() if kind in best}
    try:
        rows = curves(records, list(names))
    except BadInput as error:
        raise Unsupported(f"they are out of reach: {str(error).rstrip('.')}") from error
    if rows.empty or rows["step"].nunique() < 2:
        raise Unsupported("the study measured its settings at one step only; give `evaluations` at least 2")
    whose = rows["metric"].str.partition("/")
    rows["weights"] = np.where(whose[0] + "/" == AVERAGE, "averaged", "live")
    rows["metric"], rows["series"] = whose[2], rows["setting"].map(names)
    rows["low"], rows["high"] = rows["mean"] - rows["se"].fillna(0), rows["mean"] + rows["se"].fillna(0)
    return rows
