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
from study.execute.ledger import Ledger
from study.execute.loop import train_pack
from study.execute.tables import opened

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
    url = f"sqlite:///{folder}/{config['name']}.db"
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        asker = Asker(study, ledger)
        while (pack := asker.next()) is not None:
            asker.tell(list(train_pack(study, pack)))
        complete = [outcome for _, outcome in asker.outcomes() if outcome.state == "complete"]
    return min(outcome.value(study.config.objective.metric) for outcome in complete)


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
