"""The report holds the answer, the settings and what it takes to have them again, as one file, as text."""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import html
import io
import json
import re

import pandas as pd
import pytest
import recorded
from study_pages import MARKUP, hostile
from typer.testing import CliRunner

from study import cli
from study.answer import answer
from study.design.schema import regime_of
from study.findings.compare import ranking
from study.findings.recommend import recommend
from study.findings.regimes import Range, region
from study.report import listing, words
from study.report.page import report
from study.report.words import key_figures
from study.show import number

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]


def text_of(page: str, pattern: str) -> list[str]:
    found = re.findall(pattern, without_scripts(page), re.DOTALL)
    return [html.unescape(re.sub("<[^>]+>", " ", each)) for each in found]


def without_scripts(page: str) -> str:
    return re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)


@functools.cache
def page_of(name: str) -> str:
    return report(recorded.records(name))


def data_of(page: str) -> dict[str, object]:
    (found,) = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.DOTALL)
    return dict(json.loads(found))


def test_it_begins_with_the_verdict_and_the_setting_to_take() -> None:
    records = recorded.records("raced")
    (lead,) = re.findall('<p class="lead">(.*?)</p>', page_of(records.name))
    verdict, take = text_of(lead, "<span>(.*?)</span>")
    assert verdict == "Better than the best EMA, beyond chance."
    assert take.startswith("Take decay 0.96, damping 1, coupling 0.2: an overdamped BELAY with memory 4.17 % of")
    assert "It came to average/excess_loss 0.185 on the 14 seeds that chose it, +0.015" in take
    told = answer(recommend(records))
    for figure in ("+0.015 (95 % +0.00667 to +0.0233) over the best EMA", "0.185"):
        assert figure in told


def test_each_figure_has_the_range_of_the_truly_best_one_s_beside_it() -> None:
    found = recommend(recorded.records("mixed"))
    where, told = region(found.records, found.setting), {head: more for head, _, more in key_figures(found)}
    assert where is not None
    for head, name in {"damping ratio": "damping_ratio", "memory": "lag", "mass ratio": "mass_ratio"}.items():
        ends = where.ranges[name]
        assert ends.low < ends.high
        assert f"{number(ends.low)} to {number(ends.high)} with 95 %" in told[head]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mixed", "Of 9 settings that were planned 7 are done."),
        (
            "one-seed",
            "One seed tells nothing of chance: there are no errors and no intervals, and none is told from the best.",
        ),
        ("coupled", "Chosen and measured on the same seeds: the figures flatter the winner. `confirm` mends it."),
    ],
)
def test_it_says_what_to_beware_of(name: str, said: str) -> None:
    assert said in text_of(page_of(name), '<p class="notice">(.*?)</p>')


def test_with_one_seed_it_is_unknown_what_cannot_be_told_from_the_best() -> None:
    figures = key_figures(recommend(recorded.records("one-seed")))
    assert ("cannot be told from it", "unknown", "unknown with one seed; give `seeds` at least 2") in figures


def test_a_hyperparameter_may_be_called_rank() -> None:
    records = recorded.records("mixed")
    named = ["rank" if name == "lr" else name for name in records.parameters]
    ranked = dataclasses.replace(records, table=records.table.rename(columns={"lr": "rank"}), parameters=named)
    (heads, rows), (before, same) = listing.table(ranked), listing.table(records)
    assert [head.name for head in heads] == ["rank" if head.name == "lr" else head.name for head in before]
    assert [row.cells for row in rows] == [row.cells for row in same]


@pytest.mark.parametrize("name", ["all-diverged", "all-failed"])
def test_a_study_without_an_answer_says_why(name: str) -> None:
    page = page_of(name)
    assert "There is no answer: a setting must have completed every seed" in page
    assert "No setting was completed by every seed." in page


def test_its_table_has_every_complete_setting_best_first_and_below_it_those_that_did_not_finish() -> None:
    records = recorded.records("mixed")
    heads, rows = listing.table(records)
    place = [head.name for head in heads].index("setting")
    assert [int(row.cells[place]) for row in rows] == list(ranking(records).index)
    assert [row.cells[-1] for row in rows][:1] == [regime_of(recommend(records).oscillator)]
    ended, note = listing.ended(records)
    assert [(setting, state, step) for setting, state, step, _ in ended] == [
        ("5", "diverged", "17"),
        ("6", "failed", "-"),
    ]
    assert ended[1][3] == "RuntimeError: no batch fits\\nhere"
    assert note == "2 settings in all; riders are not counted."


def test_what_lacks_seeds_is_listed_with_how_many_it_has() -> None:
    records = recorded.records("mixed")
    lacking = (records.table["setting"] == 2) & (records.table["seed"] >= 3)
    table = records.table.assign(**{records.metric: records.table[records.metric].mask(lacking)})
    ended, note = listing.ended(dataclasses.replace(records, table=table))
    assert ended[0] == ("2", "unfinished", "-", "3 of 5 seeds so far")
    assert [setting for setting, *_ in ended] == ["2", "5", "6"]
    assert note == "3 settings in all; riders are not counted."


def test_one_setting_is_told_as_one() -> None:
    records = recorded.records("mixed")
    one = dataclasses.replace(records, table=records.table[records.table["setting"].isin([0, 5])])
    assert listing.table_note(one, 1) == "The only setting that is complete."
    assert listing.ended(one)[1] == "1 setting in all; riders are not counted."
    assert listing.table_note(records, 5).startswith("All 5 complete settings and riders, ")


def test_a_range_whose_ends_print_the_same_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    records = recorded.records("mixed")
    found = recommend(records)
    where = region(records, found.setting)
    assert where is not None
    ranges = where.ranges | {"mass_ratio": Range(1.99999, 2.0, 2.00001), "damping_ratio": Range(1.0, 2.0, 3.0)}
    monkeypatch.setattr(words, "region", lambda *_: dataclasses.replace(where, ranges=ranges))
    figures = {head: more for head, _, more in words.key_figures(found)}
    assert figures["mass ratio"].startswith("coupling")
    assert " to " not in figures["mass ratio"]
    assert figures["damping ratio"] == "1 to 3 with 95 %"


def test_all_its_data_can_be_taken_out_of_it() -> None:
    records = recorded.records("mixed")
    (content,) = re.findall(r'href="data:application/gzip;base64,(.*?)"', page_of(records.name))
    table = pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(content))))
    assert len(table) == len(records.table)
    assert table[recorded.AVERAGE].sum() == pytest.approx(records.table[recorded.AVERAGE].sum())


def test_data_that_are_too_many_are_taken_out_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "CELLS", 10)
    found = listing.download(recorded.records("mixed"))
    assert found.name == "mixed-settings.csv.gz"
    assert found.note.startswith("7 rows, one for each setting")


def test_it_has_the_config_and_the_commands_that_make_it_again() -> None:
    page = page_of("mixed")
    commands, config = text_of(page, "<pre>(.*?)</pre>")
    assert commands.endswith("belay-study report mixed -o report.html")
    assert "name: mixed" in config
    assert "label_noise: 0.2" in config


def test_the_same_records_give_the_same_page() -> None:
    assert page_of("mixed") == report(dataclasses.replace(recorded.records("mixed")))


def test_it_asks_for_nothing_from_elsewhere() -> None:
    page = page_of("mixed")
    assert "default-src 'none'" in html.unescape(page)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', without_scripts(page))


def test_nothing_that_a_study_names_is_markup() -> None:
    page = report(hostile())
    assert "<img src=x" not in page
    assert text_of(page, "<h1>(.*?)</h1>") == [MARKUP]
    assert any("<img src=x" in value for value in data_of(page)["data"]["points"]["others"])  # type: ignore[index]


def test_the_command_writes_the_page(tmp_path: object) -> None:
    records = recorded.records("mixed")
    told = CliRunner().invoke(cli.app, ["report", "mixed", "--tracking", recorded.uri(), "-o", f"{tmp_path}/r.html"])
    assert told.exit_code == 0, told.output
    assert told.stderr.endswith(f"wrote {tmp_path}/r.html; open it in a browser\n")
    assert open(f"{tmp_path}/r.html", encoding="utf-8").read() == page_of(records.name)  # noqa: SIM115, PTH123
