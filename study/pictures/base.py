"""A picture: a Vega-Lite chart without colours or size, its data by name, and the words that go with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from study.pictures.theme import CONFIG, PALETTES

DIGITS = 6  # significant ones of a number that is drawn
HEIGHT, WIDTH = 320, 720  # of a picture in a file of its own, in pixels
GAP = 76  # pixels beside each of several charts in a row, for its axis


class Unsupported(Exception):
    """The records cannot support a picture; the text is the end of "left out: ...", for people."""


@dataclass(frozen=True)
class Picture:
    """A chart with its words.

    Attributes:
        chart: The Vega-Lite specification, with named data, without theme and width.
        data: The frames it draws, by those names.
        caption: What to see in it, and what is not drawn.
        description: What is on it, for those who cannot see it.
        columns: Charts side by side, where there is room.
    """

    chart: dict[str, Any]
    data: Mapping[str, pd.DataFrame]
    caption: str
    description: str
    columns: int = 1

    def complete(self, theme: str) -> dict[str, Any]:
        """The specification that stands for itself: with data, theme ("light" or "dark") and size."""
        spec = {**self.chart, "config": CONFIG[theme], "background": PALETTES[theme]["paper"], "padding": 12}
        if self.columns == 1:
            spec["width"] = WIDTH
        else:
            spec["concat"] = [{**part, "width": WIDTH // self.columns - GAP // 2} for part in self.chart["concat"]]
        return spec | {"datasets": {name: _rows(frame) for name, frame in self.data.items()}}


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as plain data, without altair's theme."""
    return {name: value for name, value in chart.to_dict().items() if name != "config"}


def columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """The frame's columns as JSON can hold them: numbers rounded, null for what is not finite.

    A column of floats keeps its differences too, where there is a column ``metric`` those within each metric.
    """
    metrics = frame["metric"].to_numpy() if "metric" in frame else np.zeros(len(frame))
    return {str(name): list(map(drawn, frame[name].tolist(), _spans(frame[name], metrics))) for name in frame}


def drawn(value: Any, span: float = 0.0) -> Any:
    """A value as it is drawn: a float at `DIGITS` digits of its own, or of the range of its column, `span`."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits(value, span)}g}")


def digits(value: float, span: float, least: int = DIGITS) -> int:
    """Significant digits of a value that keep so many of its own, and so many of the range that it lies in."""
    if not 0 < span < abs(value):
        return least
    return least + math.floor(math.log10(abs(value))) - math.floor(math.log10(span))


def _spans(values: pd.Series, metrics: np.ndarray) -> list[float]:
    """For each row, from the least to the greatest finite value of its metric; 0 of a column that is not of floats."""
    if values.dtype.kind != "f":
        return [0.0] * len(values)
    groups = values.where(np.isfinite(values)).groupby(metrics)
    return list(groups.transform("max") - groups.transform("min"))


def spread(values: pd.Series, share: float = 0.05) -> tuple[float, float]:
    """The range of the finite values with a margin on both sides; never empty."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = (high - low) * share or abs(low) * share or 1.0
    return low - margin, high + margin


def tooltips(titles: Mapping[str, str], texts: Sequence[str] = ()) -> list[alt.Tooltip]:
    """Tooltip entries of columns by their titles; `texts` names those that hold no numbers."""
    plain = [alt.Tooltip(name, title=title, type="nominal") for name, title in titles.items() if name in texts]
    numbers = {name: title for name, title in titles.items() if name not in texts}
    return plain + [
        alt.Tooltip(name, title=title, type="quantitative", format=".4~g") for name, title in numbers.items()
    ]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    held = columns(frame)
    return [dict(zip(held, values, strict=True)) for values in zip(*held.values(), strict=True)]
