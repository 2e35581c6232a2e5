"""Studies from Python: what `study.run` and `study.load` give, and how a notebook shows it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from documents import blocks
from studies import small, write

import belay
import study
from study.answer import answer
from study.errors import BadInput
from study.execute.packs import Progress
from study.notebook import Results

CONFIG = small()


@pytest.fixture(scope="module")
def home(made_databases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of these tests."""
    from studies import copy_databases

    folder = tmp_path_factory.mktemp("notebook")
    copy_databases(made_databases, folder)
    return folder


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    for variable in ("MLFLOW_TRACKING_URI", "BELAY_STORAGE_URL"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def found(home: Path) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        changes = ["search.settings=6", "search.baseline=2"]
        return study.run(CONFIG, changes, watch=lambda progress: None, inline=True)


def test_a_study_is_run_from_a_mapping_which_stays_as_it_is(found: Results) -> None:
    assert found.records.planned == 8
    assert small() == CONFIG
    assert repr(found) == "Results('small': average/excess_loss of 48 settings and riders)"


def test_progress_goes_to_the_function_that_watches_or_to_stderr(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Progress] = []
    config = write(home / "other.yaml", name="other", search={"sampler": "random", "settings": 2, "baseline": 0})
    study.run(config, watch=seen.append, inline=True)
    assert (seen[-1].done, seen[-1].finished) == (2, True)
    assert capsys.readouterr().err == ""
    study.run(str(config), inline=True)
    assert "other: 2 settings x 2 seeds of 60 steps; starting MLflow" in capsys.readouterr().err


def test_the_best_setting_is_shown_as_text_and_as_a_table(found: Results) -> None:
    best = study.load("small").best()
    assert best.recommendation.setting == found.best().recommendation.setting
    assert repr(best) == answer(best.recommendation)
    heads = [line[:10].strip() for line in repr(best).splitlines()]
    assert best._repr_html_().count("<tr>") == len(heads)
    assert all(f">{head}</th>" in best._repr_html_() for head in heads)
    assert best.recommendation.mean == found.settings()["mean"].iloc[0]


def test_the_defaults_that_it_exports_can_be_loaded(found: Results, home: Path) -> None:
    file = found.best().export("defaults.yaml")
    oscillator = belay.load_defaults(home / file, steps=60)
    assert oscillator.decay == pytest.approx(found.best().recommendation.parameters["decay"])


def test_findings_come_as_tables_and_typed_objects(found: Results) -> None:
    compared = found.compare()
    assert isinstance(compared, pd.DataFrame)
    assert "ema" in set(compared["baseline"])
    assert list(found.compare(family="ema", baseline="none")["baseline"]) == ["none"]
    assert found.compare(family="none", baseline="none")["difference"].item() == 0
    where = found.region()
    assert where is not None
    assert sum(where.families.values()) == pytest.approx(1)
    assert found.importance().unknown  # of eight settings


def test_pictures_and_the_report_are_shown_and_saved(found: Results) -> None:
    drawn = found.plot("stability", theme="dark")
    assert drawn._repr_svg_().startswith("<svg")
    assert repr(drawn) == drawn.picture.description
    assert drawn.save("limit.png").read_bytes().startswith(b"\x89PNG")
    assert drawn.save("limit.svg").read_text() == drawn._repr_svg_()
    assert found.report("report.html").read_text().startswith("<!doctype html>")


def test_the_readme_s_lines_run(found: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("python notebook")
    monkeypatch.setattr(study, "run", lambda config: found)  # that study is CI's first command; this one is small
    exec(compile(block, "README.md", "exec"), {})
    assert Path("defaults.yaml").exists()


@pytest.mark.parametrize(
    ("ask", "rule"),
    [
        (lambda found: study.load("none"), "the study must exist"),
        (lambda found: found.plot("pie"), "`kind` must be one of"),
        (lambda found: found.plot("regimes").save("map.pdf"), "`path` must be a file whose name ends in"),
        (lambda found: found.plot("regimes").save("no/map.svg"), "`path` must be a writable file, got no/map.svg: No"),
        (lambda found: found.report("no/report.html"), "`path` must be a writable file, got no/report.html: No"),
        (lambda found: found.best().export("no/best.yaml"), "`path` must be a writable file, got no/best.yaml: No"),
        (lambda found: found.compare(family="adam"), "`family` must have been measured, got 'adam'"),
        (lambda found: study.run("missing.yaml"), "missing.yaml"),
        (lambda found: study.run(small(seeds=0)), "`seeds` must be"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(found: Results, ask, rule: str) -> None:
    with pytest.raises(BadInput, match=rule) as told:
        ask(found)
    assert "\n" not in str(told.value)
