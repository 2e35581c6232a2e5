"""How long a study takes, start of Ray and all, beside the same in plain Ray Tune with Optuna and MLflow's callback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import environment_with

pytestmark = pytest.mark.timeout(0)  # as long as it takes
FULL = os.environ.get("BELAY_BENCHMARK_SIZE") == "full"
SETTINGS, SEEDS, STEPS = (96, 8, 600) if FULL else (4, 2, 50)
HERE = Path(__file__).parent
COUPLED: dict[str, Any] = {
    "name": "coupled",
    "task": {"name": "digits", "label_noise": 0.2, "batch_size": 32},
    "steps": STEPS,
    "seeds": SEEDS,
    "objective": {"metric": "average/val_accuracy"},
    "space": {
        "decay": {"log_gap": [0.9, 0.999]},
        "damping": {"uniform": [0.1, 1.0]},
        "coupling": {"uniform": [0.01, 0.3]},
        "lr": {"log": [0.03, 1.0]},
    },
}


def seconds_of(*arguments: str, home: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=home, env=environment_with(), check=True, capture_output=True)
    return time.perf_counter() - began


def seconds_of_study(home: Path, settings: int) -> float:
    home.mkdir()
    search = {"sampler": "tpe", "settings": settings, "baseline": 0}
    (home / "study.yaml").write_text(yaml.safe_dump(COUPLED | {"search": search}))
    return seconds_of("-m", "study", "run", "study.yaml", home=home)


def test_coupled_settings(figure: Callable[..., None], tmp_path: Path) -> None:
    plain_home, runs = tmp_path / "plain", SETTINGS * SEEDS
    plain_home.mkdir()
    ours = seconds_of_study(tmp_path / "ours", SETTINGS)
    more = seconds_of_study(tmp_path / "more", 2 * SETTINGS)
    plain = seconds_of(str(HERE / "plain_tune.py"), str(runs), str(SEEDS), str(STEPS), home=plain_home)
    what = f"{SETTINGS} coupled settings x {SEEDS} seeds x {STEPS} steps of digits"
    figure(what, f"plain Ray Tune, {plain:.0f} s", ours / plain, 1 / 15)
    figure("one more run of these", f"plain Ray Tune, {plain / runs:.2f} s", (more - ours) / plain, 1 / 40)
    figure("twice as many settings, each", "one of these", more / (2 * ours), 1)


@pytest.mark.skipif(not FULL, reason="the checks run it by itself")
def test_quickstart(figure: Callable[..., None], tmp_path: Path) -> None:
    config = HERE.parents[1] / "configs" / "quickstart.yaml"
    figure("quickstart", "", seconds_of("-m", "study", "run", str(config), home=tmp_path), 40, "s")
