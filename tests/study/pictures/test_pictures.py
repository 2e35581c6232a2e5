"""Each picture draws what the records hold, says why it cannot, and becomes a file."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import altair as alt
import pandas as pd
import pytest
import recorded
import vl_convert
from recorded import STEPS
from typer.testing import CliRunner

from belay import Oscillator
from study import cli
from study.cli.parameters import PICTURES
from study.design.schema import RIDERS, Tag
from study.errors import BadInput
from study.findings.collect import Records
from study.findings.compare import comparisons, ranking
from study.findings.recommend import recommend
from study.pictures import parallel as of_parallel
from study.pictures.base import Picture, columns, drawn
from study.pictures.catalogue import KINDS, image, picture
from study.pictures.plane import colour
from study.pictures.points import FAMILIES, points
from study.pictures.riders import LONE, _ends
from study.pictures.theme import PALETTES

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]

STOPPED = ("all-diverged", "all-failed")


def of(name: str, kind: str) -> Picture:
    return picture(recorded.records(name), kind)


def test_the_command_line_offers_every_kind_of_picture_and_no_other() -> None:
    assert tuple(KINDS) == PICTURES


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_becomes_a_file_in_both_forms_and_themes(kind: str) -> None:
    drawn = of({"importance": "steep", "stability": "tiny", "riders": "ridden"}.get(kind, "mixed"), kind)
    assert image(drawn, "png", "light").startswith(b"\x89PNG")
    dark = image(drawn, "svg", "dark")
    assert dark.startswith(b"<svg")
    assert PALETTES["dark"]["paper"] in dark.decode()


def test_every_setting_is_a_point_with_its_value_or_its_state() -> None:
    records, ranked = recorded.records("mixed"), ranking(recorded.records("mixed"))
    data = of("mixed", "regimes").data["points"].set_index("setting")
    assert list(data.index) == list(range(7))
    assert data["objective"].dropna().to_dict() == ranked["mean"].sort_index().to_dict()
    assert data["state"].to_dict() == {**dict.fromkeys(range(5), "complete"), 5: "diverged", 6: "failed"}
    assert list(data["family"]) == [FAMILIES[name] for name in records.settings["family"]]
    assert data.loc[3, "others"] == "lr 1, optimizer sgd"


@pytest.mark.parametrize("name", ["mixed", "tiny"])  # greater is better; smaller is
def test_the_best_lies_on_top(name: str) -> None:
    svg = image(of(name, "regimes"), "svg", "light").decode()
    circles = re.findall(r'setting: (\d+);[^"]*" role="graphics-symbol" aria-roledescription="circle"', svg)
    assert [int(number) for number in reversed(circles)] == list(ranking(recorded.records(name)).index)


def test_the_critical_curve_is_where_an_average_begins_to_swing() -> None:
    curves = of("mixed", "regimes").data["curves"]
    for gap, damping in curves.loc[curves["curve"] == "critical", ["gap", "damping"]].itertuples(index=False):
        assert Oscillator(1 - gap, 1.001 * damping).regime == "overdamped"
        assert Oscillator(1 - gap, 0.999 * damping).regime == "underdamped"


def test_the_ring_is_around_the_setting_to_take() -> None:
    best = recommend(recorded.records("mixed")).setting
    rings = [layer["transform"] for layer in of("mixed", "regimes").chart["layer"] if "best" in str(layer.get("mark"))]
    assert rings == [[{"filter": f"datum.setting == {best}"}]]


def test_a_setting_that_left_a_race_is_drawn_and_not_called_unfinished() -> None:
    assert set(points(recorded.records("raced"))["state"]) == {"complete"}
    assert points(recorded.records("raced"))["seeds"].tolist() == [2, 6, 14, 2, 14]


def test_the_intervals_are_those_of_the_comparisons() -> None:
    records = recorded.records("mixed")
    data = of("mixed", "comparison").data["compared"]
    told = comparisons(records, recommend(records).setting).set_index("baseline")
    assert list(data["baseline"]) == ["ema", "damped", "none"]  # of BELAY it is the best itself
    for row in data.itertuples():
        assert (row.low, row.difference, row.high) == tuple(told.loc[row.baseline, ["low", "difference", "high"]])


def test_the_curves_are_the_means_over_seeds_with_their_errors_of_the_best_of_each_family() -> None:
    data = of("mixed", "curves").data["curves_of"]
    assert set(data["series"]) == {"best EMA", "best damped", "best BELAY"}
    values = recorded.MIXED[3].values[recorded.AVERAGE]
    mean = math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    best = data[(data["series"] == "best BELAY") & (data["weights"] == "averaged")].set_index("step")
    assert best["mean"].to_dict() == pytest.approx({300: mean - 1, 600: mean})
    assert best["se"].to_dict() == pytest.approx({300: error, 600: error})


def test_the_responses_are_those_of_the_average_to_take_and_of_the_best_ema() -> None:
    records = recorded.records("mixed")
    data = of("mixed", "response").data["responses"]
    oscillator = recommend(records).oscillator
    ours = data[(data["average"] == f"recommended, {oscillator.regime}") & (data["kind"] == "impulse")]
    assert ours["value"].to_numpy() == pytest.approx(oscillator.kernel(STEPS)[ours["age"]])
    ema = data[(data["average"] == "best EMA") & (data["kind"] == "step")].set_index("age")["value"]
    assert ema[0] == pytest.approx(1 - 0.99)


def test_the_bars_are_the_importances_by_either_evaluator_the_largest_first() -> None:
    found = of("steep", "importance")
    assert set(found.data["importances"]["by"]) == {"fANOVA", "PED-ANOVA"}
    bars = found.chart["layer"][0]["encoding"]
    assert bars["y"]["sort"][0] == "lr"
    assert set(bars["y"]["sort"]) == {"lr", "memory", "damping_ratio"}
    assert "noise" not in found.caption


def test_the_riders_are_cells_around_their_place_each_the_best_of_the_trainings_that_it_watched() -> None:
    found = of("ridden", "riders")
    cells = found.data["cells"].set_index(["memory", "damping_ratio"])
    assert cells["objective"].to_dict() == pytest.approx(
        {(0.05, math.inf): 0.75, (0.05, 1): 0.95, (0.2, math.inf): 0.77, (0.2, 1): 0.78}
    )
    assert cells["trainings"].to_dict() == {(0.05, math.inf): 2, (0.05, 1): 2, (0.2, math.inf): 2, (0.2, 1): 1}
    assert cells["others"].to_dict()[0.05, 1] == "lr 1"
    ends = cells.loc[(0.05, 1), ["left", "right", "bottom", "top"]].tolist()
    assert ends == pytest.approx([0.025, 0.1, 1 / math.sqrt(3), math.sqrt(3)])  # EMA's place is 3
    assert "Outlined is the best of all: memory 0.05, damping ratio 1." in found.caption
    ring = found.chart["layer"][-1]["transform"]
    assert ring == [{"filter": f"datum.setting == {cells.loc[(0.05, 1), 'setting']}"}]
    drawn = image(found, "svg", "light").decode()
    assert len(re.findall(r'aria-roledescription="circle"', drawn)) == 2  # the two EMAs that were asked, and no BELAY


def test_riders_of_one_memory_are_cells_too() -> None:
    assert _ends(pd.Series([0.1, 0.1])).tolist() == pytest.approx(
        2 * [pytest.approx([0.1 / LONE**0.5, 0.1 * LONE**0.5])]
    )


def test_an_ema_s_infinite_damping_ratio_has_a_place_and_a_name_on_each_axis() -> None:
    panel = of("mixed", "coordinates").chart["concat"][2]["encoding"]["x"]
    assert "'EMA'" in panel["axis"]["labelExpr"]
    shown = of("mixed", "coordinates").data["points"]
    emas = shown["family"] == "EMA"
    assert (shown.loc[emas, "shown_ratio"] == max(panel["axis"]["values"])).all()
    lines, ticks = (of("mixed", "parallel").data[name] for name in ("lines", "ticks"))
    ratio = lines[lines["axis"] == "damping_ratio"].set_index("setting")["place"]
    assert (ratio[[0, 1]] == 1).all()
    assert (ratio[[2, 3, 4]] < 1).all()
    assert "inf" in set(ticks.loc[ticks["axis"] == "damping_ratio", "text"])


def test_parameters_of_every_type_have_places_side_by_side() -> None:
    lines = of("shaped", "parallel").data["lines"]
    assert lines["place"].between(0, 1).all()
    layers = lines[lines["axis"] == "layers"].set_index("setting")["place"]
    assert layers[0] == layers[2] != layers[1]


def test_the_ends_of_colours_over_decades_are_short_numbers() -> None:
    values = pd.DataFrame({"objective": [0.0855660342316, 0.5, 8.7638446917]})
    chart = alt.Chart(values).mark_point().encode(color=colour(recorded.records("mixed"), values["objective"], 100.0))
    texts = re.findall(r">([0-9.]+)</text>", vl_convert.vegalite_to_svg(chart.to_dict()))
    assert {"0.08557", "8.764"} <= {*texts}


def test_numbers_stand_above_null_side_by_side() -> None:
    """A parameter that varies in some settings only keeps its scale."""
    ticks, lines = (of("conditional", "parallel").data[name] for name in ("ticks", "lines"))
    beta, texts = (each[each["axis"] == "beta"] for each in (lines.set_index("setting"), ticks))
    assert beta.loc[[2, 0, 1], "place"].tolist() == pytest.approx([0.0, 0.15, 1.0])
    assert beta.loc[3, "place"] == pytest.approx(0.15 + 0.85 / 2, abs=0.02)
    assert texts.loc[texts["place"] == 0, "text"].tolist() == ["null", ""]
    assert {"0.1", "0.9"} < set(texts["text"])


def test_where_all_are_emas_their_place_alone_is_named() -> None:
    panel = of("conditional", "coordinates").chart["concat"][2]["encoding"]["x"]
    assert len(panel["axis"]["values"]) == 1


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("one-seed", "comparison", "one seed gives no interval; give `seeds` at least 2"),
        ("coupled", "comparison", "the study measured nothing to compare the recommended setting with"),
        ("pushed", "parallel", "fewer than two parameters vary among complete settings"),
        ("mixed", "riders", "no averages watched its trainings; `search.riders` gives a grid of them"),
        ("mixed", "importance", "nothing can be told from 5 trainings"),
        ("shaped", "curves", "the study measured its settings at one step only; give `evaluations` at least 2"),
        *((name, kind, "no setting was completed") for name in STOPPED for kind in ("curves", "response")),
    ],
)  # fmt: skip
def test_a_picture_that_the_study_cannot_support_says_why_and_where_all_that_it_supports_are(
    name: str, kind: str, why: str
) -> None:
    said = rf"`kind` must be one that '{name}' has data for, got '{kind}': {why}.*; `belay-study report {name}` has all"
    with pytest.raises(BadInput, match=said):
        of(name, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["one-seed", "all-diverged", "constant", "raced", "shaped"])
def test_a_picture_of_a_poor_study_is_drawn_or_left_out(name: str, kind: str) -> None:
    try:
        found = of(name, kind)
    except BadInput:
        assert name in STOPPED or kind in ("comparison", "parallel", "curves", "importance", "stability", "riders")
    else:
        assert vl_convert.vegalite_to_vega(found.complete("light"))["marks"]
        assert found.caption.endswith(".")


def test_what_is_not_finite_is_drawn_as_nothing() -> None:
    assert [drawn(value) for value in (math.inf, math.nan, 0.123456789, 3, None, "x")] == [
        None,
        None,
        0.123457,
        3,
        None,
        "x",
    ]


def test_what_lies_far_from_zero_keeps_its_differences() -> None:
    values = [1e9 + 0.123456789, 1e9 + 1, math.nan, 1e9 + 0.5, math.inf]
    frame = pd.DataFrame({"far": values, "near": [0.123456789, 1.0, 0.5, 0.0, 0.0], "whole": range(5)})
    found = columns(frame)
    assert found["far"] == [1e9 + 0.123457, 1e9 + 1, None, 1e9 + 0.5, None]
    assert found["near"] == [0.123457, 1.0, 0.5, 0.0, 0.0]
    assert found["whole"] == [0, 1, 2, 3, 4]


def test_one_metric_far_from_zero_keeps_its_differences_beside_another() -> None:
    frame = pd.DataFrame({"metric": ["loss", "loss", "score"], "mean": [1e9 + 0.25, 1e9 + 1, 0.123456789]})
    assert columns(frame)["mean"] == [1e9 + 0.25, 1e9 + 1, 0.123457]


@pytest.mark.parametrize(("kind", "axes"), [("coordinates", 3), ("regimes", 1)])
def test_the_labels_of_an_objective_far_from_zero_differ(kind: str, axes: int) -> None:
    records = recorded.records("mixed")
    far = replace(records, table=records.table.assign(**{records.metric: records.table[records.metric] + 1e9}))
    labels = re.findall(r">(10000000[0-9.]+)</text>", image(picture(far, kind), "svg", "light").decode())
    assert len(labels) == axes * len(set(labels))
    assert len(set(labels)) > 1


def test_of_few_settings_the_best_is_drawn_at_first_and_of_all_the_share_that_the_slider_has() -> None:
    found = of("mixed", "parallel")
    ranks = found.data["lines"].drop_duplicates("setting").set_index("setting")["rank"]
    assert ranks.to_dict() == dict(zip(ranking(recorded.records("mixed")).index, [0, 20, 40, 60, 80], strict=True))
    drawn = image(found, "svg", "light").decode()
    assert len(re.findall('aria-roledescription="line mark"', drawn)) == 1
    assert found.chart["params"][0]["bind"]["name"] == "Best (% of 5) "
    assert found.caption.startswith("All 5 complete settings, ")
    assert "the best 20 % are shown at first" in found.caption


def test_the_slider_over_the_best_of_many_is_named_after_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_parallel, "MOST", 3)
    found = of("mixed", "parallel")
    assert found.chart["params"][0]["bind"]["name"] == "Best (% of 3) "
    assert found.caption.startswith("The best 3 of 5 complete settings, ")


def cut(records: Records, setting: int) -> Records:
    """The records where a setting lacks its last seed so far."""
    lacking = (records.table["setting"] == setting) & (records.table["seed"] == records.seeds - 1)
    return replace(records, table=records.table.assign(**{records.metric: records.table[records.metric].mask(lacking)}))


@pytest.mark.parametrize(("kind", "name"), [("regimes", "mixed"), ("stability", "tiny")])
def test_what_lacks_seeds_is_said_not_to_have_finished(kind: str, name: str) -> None:
    records = cut(recorded.records(name), 0)
    caption = picture(with_limit(records), kind).caption
    count = 3 if name == "mixed" else 1
    assert re.search(rf"\b{count} that did not finish are crosses", caption)
    assert "diverged" not in caption


def with_limit(records: Records) -> Records:
    return replace(records, tags=records.tags | {Tag.CURVATURES: json.dumps([2.0])})


def test_where_a_rider_is_recommended_the_ring_is_around_the_setting_that_it_watched() -> None:
    records = with_limit(recorded.records("ridden"))
    assert recommend(records).setting >= RIDERS
    found = picture(records, "stability")
    rings = [layer["transform"] for layer in found.chart["layer"] if "best" in str(layer.get("mark"))]
    assert rings == [[{"filter": "datum.setting == 1"}]]
    assert "The ring marks the setting whose training the recommended rider watched." in found.caption


@pytest.mark.parametrize("kind", ["stability", "coordinates"])
def test_a_legend_names_the_families_that_are_drawn_in_the_colours_of_all_pictures(kind: str) -> None:
    found = image(of("tiny", kind), "svg", "light").decode()
    assert re.findall(r"role-legend-label.*?>(\w+)</text>", found) == ["EMA", "BELAY"]
    assert PALETTES["light"]["category"][2] in found  # BELAY's, the third


@pytest.mark.parametrize("width", [250, 350])
def test_labels_of_a_narrow_picture_stand_apart(width: int) -> None:
    spec = of("mixed", "comparison").complete("light") | {"width": width, "autosize": {"type": "fit-x"}}
    svg = vl_convert.vegalite_to_svg(spec)
    axis = svg.split("role-axis-label")[1].split("</g>")[0]
    labels = re.findall(r'translate\(([0-9.]+),[^>]*font-size="11px"[^>]*opacity="1"[^>]*>([^<]+)<', axis)
    ends = [(float(at) - 3.2 * len(text), float(at) + 3.2 * len(text)) for at, text in labels]  # half as wide
    assert len(ends) > 1
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(ends))


def test_the_command_writes_the_form_that_the_file_s_name_asks_for_or_svg_to_stdout(tmp_path: Path) -> None:
    recorded.records("mixed")
    command, file = ["plot", "mixed", "response", "--tracking", recorded.uri()], tmp_path / "a.png"
    told = CliRunner().invoke(cli.app, [*command, "-o", str(file)])
    assert told.stderr.endswith(f"wrote {file}\n")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(cli.app, [*command, "--theme", "dark"]).stdout.startswith("<svg")


@pytest.mark.parametrize("arguments", [["-o", "a.pdf"], ["-o", "a"], ["-o", "a.png", "--format", "svg"]])
def test_another_form_of_file_is_refused_before_anything_is_read(arguments: list[str]) -> None:
    with pytest.raises(BadInput, match=r"`--output` must be a file whose name ends in \.(png or \.svg|svg), got a"):
        CliRunner().invoke(cli.app, ["plot", "none", "response", *arguments], catch_exceptions=False)
