"""How long a study takes, start of Ray and all, beside the same in plain Ray Tune with Optuna and MLflow's callback."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import seconds_of

pytestmark = pytest.mark.timeout(0)  # as long as it takes
FULL = os.environ.get("BELAY_BENCHMARK_SIZE") == "full"
SETTINGS, SEEDS, STEPS = (96, 8, 600) if FULL else (2, 1, 20)
WHERE = [] if FULL else ["--inline"]  # what is compared is nothing at this size, and one start of Ray is enough
RATES, AVERAGES = (4, 24) if FULL else (2, 2)
MORE = 10  # times as many settings
HERE = Path(__file__).parent
ASKED: dict[str, Any] = {
    "task": {"name": "digits", "label_noise": 0.2, "batch_size": 32},
    "steps": STEPS,
    "seeds": SEEDS,
    "objective": {"metric": "average/val_accuracy"},
}
COUPLED_SPACE = {
    "decay": {"log_gap": [0.9, 0.999]},
    "damping": {"uniform": [0.1, 1.0]},
    "coupling": {"uniform": [0.01, 0.3]},
    "lr": {"log": [0.03, 1.0]},
}


def seconds_of_study(home: Path, space: dict[str, Any], search: dict[str, Any]) -> float:
    home.mkdir()
    (home / "study.yaml").write_text(yaml.safe_dump({"name": home.name, **ASKED, "space": space, "search": search}))
    return seconds_of("-m", "study", "run", "study.yaml", *WHERE, home=home)


def seconds_of_plain(home: Path, runs: int, most_coupling: float) -> float:
    home.mkdir()
    arguments = [str(each) for each in (HERE / "plain_tune.py", runs, SEEDS, STEPS, most_coupling)]
    return seconds_of(*arguments, home=home)


def test_coupled_settings(figure: Callable[..., None], tmp_path: Path) -> None:
    search, runs = {"sampler": "tpe", "baseline": 0}, SETTINGS * SEEDS
    ours = seconds_of_study(tmp_path / "ours", COUPLED_SPACE, search | {"settings": SETTINGS})
    what = f"{SETTINGS} coupled settings x {SEEDS} seeds x {STEPS} steps of digits"
    if not FULL:  # so few settings cost what starting and ending costs, and plain Ray Tune a minute of that
        figure(what, "", ours, math.inf, "s")
        return
    plain = seconds_of_plain(tmp_path / "plain", runs, most_coupling=0.3)
    figure(what, f"plain Ray Tune, {plain:.0f} s", ours / plain, 1 / 15)
    more = seconds_of_study(tmp_path / "more", COUPLED_SPACE, search | {"settings": MORE * SETTINGS})
    further = (more - ours) / (MORE - 1)  # seconds of as many runs again
    figure("one more run of these", f"plain Ray Tune, {plain / runs:.2f} s", further / plain, 1 / 40)
    figure(f"{MORE} times as many settings, each", f"one of these, {ours / SETTINGS:.2f} s", more / (MORE * ours), 1)


@pytest.mark.skipif(not FULL, reason="the same but for the space")
def test_averages_of_shared_trajectories(figure: Callable[..., None], tmp_path: Path) -> None:
    def space(averages: int) -> dict[str, Any]:
        decays = [1 - 0.1 / (1 + number) for number in range(averages // 2)]
        rates = [0.1 * 2**number for number in range(RATES)]
        return {"lr": {"choice": rates}, "decay": {"choice": decays}, "damping": {"choice": [0.3, 0.6]}}

    search, runs = {"sampler": "grid", "baseline": 0}, RATES * AVERAGES * SEEDS
    ours = seconds_of_study(tmp_path / "ours", space(AVERAGES), search)
    more = seconds_of_study(tmp_path / "more", space(2 * AVERAGES), search)
    plain = seconds_of_plain(tmp_path / "plain", runs, most_coupling=0)
    what = f"{RATES} learning rates x {AVERAGES} uncoupled averages x {SEEDS} seeds x {STEPS} steps of digits"
    figure(what, f"plain Ray Tune, {plain:.0f} s", ours / plain, 1 / 25)
    figure("one more average of these", f"plain Ray Tune, {plain / runs:.2f} s", (more - ours) / plain, 1 / 100)


@pytest.mark.skipif(not FULL, reason="the checks run it by itself")
def test_quickstart(figure: Callable[..., None], tmp_path: Path) -> None:
    config = HERE.parents[1] / "configs" / "quickstart.yaml"
    figure("quickstart", "", seconds_of("-m", "study", "run", str(config), home=tmp_path), 40, "s")
