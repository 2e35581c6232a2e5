"""How pictures look, in light and in dark. Palettes are told apart by all common kinds of colour blindness."""

from __future__ import annotations

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SEPARATION = 8  # pixels between two labels of an axis, of which those without room are left out
VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"]
PALETTES = {
    "light": {
        "ink": "#1d2127", "soft": "#5d6673", "line": "#d9dde3", "shade": "#eef1f5", "paper": "#ffffff",
        "bad": "#c8500a", "best": "#d0006f", "category": ["#0072b2", "#d98a00", "#008f68", "#6b7280", "#a3479d"],
        "ramp": VIRIDIS[8::-1],
    },
    "dark": {
        "ink": "#e8eaed", "soft": "#9aa4b1", "line": "#343a44", "shade": "#1d2128", "paper": "#14161a",
        "bad": "#ff8a4c", "best": "#ff6fb5", "category": ["#56b4e9", "#f0a830", "#2fc79a", "#aab2bd", "#d78ad1"],
        "ramp": VIRIDIS[2:],
    },
}  # fmt: skip


def _config(palette: dict[str, Any]) -> dict[str, Any]:
    """Vega-Lite's config for a palette."""
    labels = {"labelColor": palette["soft"], "titleColor": palette["ink"], "labelFont": FONT, "titleFont": FONT}
    labels |= {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": 500}
    return {
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "axis": labels
        | {"domainColor": palette["line"], "tickColor": palette["line"], "gridColor": palette["line"]}
        | {"gridOpacity": 0.6, "titlePadding": 8, "labelPadding": 4, "tickSize": 4, "labelFlush": False}
        | {"labelSeparation": SEPARATION},
        "legend": labels | {"orient": "top", "symbolStrokeWidth": 2, "gradientLength": 140, "gradientThickness": 8},
        "title": {"color": palette["ink"], "font": FONT, "fontSize": 12, "fontWeight": 500, "anchor": "start"},
        "range": {"category": palette["category"], **dict.fromkeys(("ordinal", "ramp", "heatmap"), palette["ramp"])},
        "point": {"filled": True, "strokeWidth": 0},
        "style": {  # `color` is what Vega-Lite takes for a mark's fill or stroke
            "region": {"color": palette["soft"], "font": FONT, "fontSize": 12, "fontStyle": "italic"},
            "label": {"color": palette["ink"], "font": FONT, "fontSize": 10},
            "halo": {
                "color": palette["paper"],
                "stroke": palette["paper"],
                "strokeWidth": 3,
                "font": FONT,
                "fontSize": 10,
            },
            "shade": {"color": palette["shade"], "opacity": 1},
            "theory": {"color": palette["ink"], "strokeWidth": 1.5},
            "limit": {"color": palette["bad"], "strokeWidth": 1.5, "strokeDash": [5, 3]},
            "zero": {"color": palette["soft"], "strokeDash": [4, 3]},
            "axis": {"color": palette["line"], "strokeWidth": 1.5},
            "bad": {"color": palette["bad"], "strokeWidth": 1.4, "strokeOpacity": 0.75, "opacity": 1},
            "best": {"color": palette["best"], "strokeWidth": 2.5, "opacity": 1},
            "between": {"stroke": palette["paper"], "strokeWidth": 1.5},
            "interval": {"color": palette["category"][0]},
        },
    }


CONFIG = {name: _config(palette) for name, palette in PALETTES.items()}
