"""How good a setting a search finds in natural coordinates beside raw ones, at the same number of settings.

By default it is a glance, with two seeds of the sampler; BELAY_SAMPLER_SEEDS=32 BELAY_SETTINGS=48 says something.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from study.design.config import parse_config
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.loop import train_pack
from study.execute.plan import pack

SEEDS = int(os.environ.get("BELAY_SAMPLER_SEEDS", "2"))
SETTINGS = int(os.environ.get("BELAY_SETTINGS", "12"))
SPACES: dict[str, dict[str, Any]] = {
    "raw": {
        "decay": {"log_gap": [0.9, 0.999]},
        "damping": {"uniform": [0.05, 1.0]},
        "coupling": {"uniform": [0.0, 0.5]},
    },
    "natural": {
        "memory": {"log": [0.03, 0.5]},
        "damping_ratio": {"log": [0.5, 30]},
        "mass_ratio": {"uniform": [-0.9, 6]},
    },
}
QUESTIONS: dict[str, dict[str, Any]] = {
    "digits": {
        "task": {"name": "digits", "label_noise": 0.2, "batch_size": 100},
        "objective": {"metric": "average/val_loss"},
        "lr": {"log": [0.1, 8.0]},
    },
    "quadratic": {
        "task": {"name": "quadratic", "dimensions": 16},
        "objective": {"metric": "average/excess_loss"},
        "lr": {"log": [0.01, 1.5]},
    },
}


def best_found(question: str, system: str, seed: int, folder: Path) -> float:
    """The least value of the objective that one search finds."""
    asked = QUESTIONS[question]
    config = {"name": f"{question}-{system}-{seed}", "task": asked["task"], "steps": 300, "seeds": 2, "evaluations": 1}
    config |= {"objective": asked["objective"], "space": SPACES[system] | {"lr": asked["lr"]}}
    config |= {"search": {"sampler": "tpe", "settings": SETTINGS, "baseline": 0, "in_flight": 1, "seed": seed}}
    study = Study.of(parse_config(config))
    asker, best = Asker(study, f"sqlite:///{folder}/{config['name']}.db"), math.inf
    while (setting := asker.ask()) is not None:
        for work in pack([setting], study.config.seeds):
            for outcome in train_pack(study, work):
                asker.tell(outcome)
                if outcome.state == "complete":
                    best = min(best, outcome.value(study.config.objective.metric))
    return best


@pytest.mark.parametrize("question", QUESTIONS)
def test_natural_coordinates(question: str, figure: Callable[..., None], tmp_path: Path) -> None:
    ratios = [
        math.log(best_found(question, "natural", seed, tmp_path) / best_found(question, "raw", seed, tmp_path))
        for seed in range(SEEDS)
    ]
    figure(
        f"best {question} in natural coordinates, {SETTINGS} settings, {SEEDS} sampler seeds",
        "in raw ones, geometric mean",
        math.exp(fmean(ratios)),
        1,
    )
