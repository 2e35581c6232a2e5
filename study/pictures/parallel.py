"""Each of the best settings as a line over all parameters that vary."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from study.design.schema import NATURAL, PARAMETERS, identity
from study.findings.collect import Records
from study.findings.compare import ranking
from study.pictures.base import HEIGHT, Picture, Unsupported, specification, tooltips
from study.pictures.plane import colour
from study.pictures.points import is_wide, usual
from study.show import number

NEAR = 2.0  # distances of the median from the best that the objective's axis shows
MOST = 500  # settings drawn as lines
TICKS = 4  # values written at an axis
NAMED = 12  # categories up to which each has its name written
OF_NUMBERS = 0.85  # share of an axis that numbers have beside inf, or beside null
SHARE = 20  # per cent of the drawn settings that are shown at first

Axis = tuple[str, pd.Series, list[tuple[float, str]]]  # title, each setting's place in 0..1, places and texts of ticks


def parallel(records: Records) -> Picture:
    """The best settings over all parameters side by side.

    Raises:
        Unsupported: Fewer than two parameters vary, or no setting is complete.
    """
    ranked = ranking(records)
    others = [name for name in records.varied if name not in PARAMETERS]
    names = [name for name in NATURAL if ranked[name].nunique() > 1]
    names += [name for name in others if ranked[name].map(identity).nunique() > 1]
    if len(names) < 2:
        raise Unsupported("fewer than two parameters vary among complete settings")
    best = ranked.head(MOST)
    axes = [_scaled(ranked[name], name) for name in names] + [_objective(records, ranked["mean"])]
    titles = [title for title, _, _ in axes]
    return Picture(
        chart=specification(alt.layer(*_layers(records, best, titles)).properties(name="parallel", height=HEIGHT)),
        data={"lines": _lines(best, axes), "ticks": _ticks(axes)},
        caption=(
            f"{_which(len(best), len(ranked))} complete settings, a line each from parameter to parameter and on to "
            f"{records.metric}. Lines that gather mark a value that matters; lines that spread, one that does not. Of "
            f"these lines the best {SHARE} % are shown at first; the slider shows more or fewer."
        ),
        description=f"Parallel coordinates of the best {len(best)} settings over {', '.join(titles)}.",
    )


def _which(drawn: int, complete: int) -> str:
    return f"The best {drawn} of {complete}" if drawn < complete else f"All {complete}"


def _layers(records: Records, best: pd.DataFrame, titles: list[str]) -> list[alt.Chart]:
    bound = alt.binding_range(min=1, max=100, step=1, name=f"Best (% of {len(best)}) ")
    share = alt.param(name="share", value=SHARE, bind=bound)
    picked = alt.selection_point(name="picked", fields=["setting"], on="pointerover", empty=False, clear="pointerout")
    axis = alt.Axis(labelAngle=-20, domain=False, ticks=False)
    x = alt.X("axis:N", sort=titles, title=None, axis=axis, scale=alt.Scale(padding=0.1))
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=(-0.03, 1.03), nice=False))
    lines = alt.Chart(alt.NamedData("lines"), name="lines").transform_filter("datum.rank < share").mark_line()
    curves = lines.encode(
        x=x,
        y=y,
        detail="setting:N",
        color=colour(records, best["mean"], NEAR),
        strokeOpacity=alt.condition(picked, alt.value(1), alt.value(0.4)),
        strokeWidth=alt.condition(picked, alt.value(3), alt.value(1.2)),
        order="index:Q",
        tooltip=tooltips({"setting": "setting", "objective": records.metric}),
    ).add_params(share, picked)
    marks = alt.Chart(alt.NamedData("ticks")).encode(x=x, y=y)
    rule = marks.transform_filter("datum.place == 0").mark_rule(style="axis").encode(y2=alt.datum(1))
    texts = [marks.mark_text(style=style, align="left", dx=5).encode(text="text:N") for style in ("halo", "label")]
    return [rule, curves, *texts]


def _scaled(values: pd.Series, title: str) -> Axis:
    """A column as places on an axis: categories in order, numbers that span decades by their logarithm, above null."""
    there = values.dropna()  # an average that alternates has no damping ratio
    if not pd.api.types.is_numeric_dtype(there.infer_objects()) or any(isinstance(value, bool) for value in there):
        kinds = [number(value) for _, value in sorted({identity(value): value for value in values}.items())]
        texts = values.map(number)
        where = {kind: index / max(1, len(kinds) - 1) for index, kind in enumerate(kinds)}
        return title, texts.map(where), [(where[kind], kind[:24]) for kind in kinds if len(kinds) <= NAMED]
    if len(there) < len(values):
        _, places, ticks = _scaled(there.infer_objects(), title)
        above = [(1 - OF_NUMBERS * (1 - place), text) for place, text in ticks]
        return title, (1 - OF_NUMBERS * (1 - places)).reindex(values.index, fill_value=0.0), [(0.0, "null"), *above]
    numbers = values.astype(float)
    finite = numbers[np.isfinite(numbers)]
    log = is_wide(float(finite.min()), float(finite.max()))
    finite = finite.map(math.log) if log else finite
    least, width = float(finite.min()), float(finite.max() - finite.min()) or 1.0
    top = 1.0 if len(finite) == len(numbers) else OF_NUMBERS
    places = (top * (finite - least) / width).reindex(numbers.index, fill_value=1.0)
    ticks = [(1.0, "inf")] if top < 1 else []
    for share in np.linspace(0, 1, TICKS):
        value = least + share * width
        ticks.append((top * float(share), number(math.exp(value) if log else value)))
    return title, places, ticks


def _objective(records: Records, values: pd.Series) -> Axis:
    """The last axis, the objective: what is far worse than most lies at its end."""
    found = usual(values, records.mode, NEAR)
    return _scaled(values if found is None else values.clip(found[0], found[1]), records.metric)


def _lines(best: pd.DataFrame, axes: list[Axis]) -> pd.DataFrame:
    """A row for each setting and axis; ``rank`` is the setting's, from 0, in per cent."""
    shared = {
        "setting": best.index,
        "objective": best["mean"].to_numpy(),
        "rank": 100 * np.arange(len(best)) / len(best),
    }
    return pd.concat(
        [
            pd.DataFrame({**shared, "axis": title, "index": index, "place": places.loc[best.index].to_numpy()})
            for index, (title, places, _) in enumerate(axes)
        ],
        ignore_index=True,
    )


def _ticks(axes: list[Axis]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for title, _, ticks in axes:
        rows += [{"axis": title, "place": place, "text": text} for place, text in [*ticks, (0.0, "")]]
    return pd.DataFrame(rows)
