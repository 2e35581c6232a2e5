"""A whole study in natural coordinates, trained in this process by each sampler."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from studies import CommandLine, write

from belay import load_defaults
from study.design.schema import NATURAL, natural

SPACE = {
    "memory": {"log": [0.05, 0.5]},
    "damping_ratio": {"log": [0.5, 10]},
    "mass_ratio": {"uniform": [-0.5, 2]},
    "lr": {"log": [0.05, 1.0]},
}
LISTS = {
    "memory": {"choice": [0.1, 0.3]},
    "damping_ratio": {"choice": [0.5, 1, "inf"]},
    "mass_ratio": {"choice": [-0.5, 0, 1]},
    "lr": 0.2,
}


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp", "grid"])
def test_every_sampler_draws_natural_coordinates(
    sampler: str, belay_study: CommandLine, tmp_path: Path, databases: Path
) -> None:
    space = LISTS if sampler == "grid" else SPACE
    search = {"sampler": sampler} | ({} if sampler == "grid" else {"settings": 12, "baseline": 2, "in_flight": 1})
    search["riders"] = "none"
    answer = belay_study("run", write(tmp_path / "study.yaml", steps=60, space=space, search=search), "--inline")
    assert answer.code == 0, answer.err
    table = json.loads(belay_study("best", "small", "--top", "99", "--format", "json").out)
    assert len(table) == (18 if sampler == "grid" else 14)
    for row in table:
        if sampler == "grid":
            assert math.isclose(row["memory"], min(LISTS["memory"]["choice"], key=lambda one: abs(one - row["memory"])))
        else:
            assert 0.05 * (1 - 1e-9) <= row["memory"] <= 0.5 * (1 + 1e-9)
            assert row["family"] == "ema" or -0.5 <= row["mass_ratio"] <= 2
    assert {"ema", "belay", "push"} <= {row["family"] for row in table}
    emas = [row for row in table if row["family"] == "ema"]
    assert {row["damping_ratio"] for row in emas} == {"inf"}


def test_a_study_in_natural_coordinates_is_read_by_them_and_exported(
    belay_study: CommandLine, tmp_path: Path, databases: Path
) -> None:
    config = write(tmp_path / "study.yaml", space=LISTS, search={"sampler": "grid", "riders": "none"})
    assert belay_study("run", config, "--inline").code == 0
    by = json.loads(belay_study("best", "small", "--by", "damping_ratio", "--format", "json").out)
    assert [row["damping_ratio"] for row in by] == [0.5, 1.0, "inf"]
    assert [
        row["memory"] for row in json.loads(belay_study("best", "small", "--by", "memory", "--format", "json").out)
    ] == [
        0.1,
        0.3,
    ]
    best = json.loads(belay_study("best", "small", "--format", "json").out)
    assert belay_study("export", "small", "-o", "defaults.yaml").code == 0
    loaded = natural(load_defaults("defaults.yaml", steps=60), 60)
    for name in NATURAL:
        assert loaded[name] == pytest.approx(float(best["oscillator"][name]))
