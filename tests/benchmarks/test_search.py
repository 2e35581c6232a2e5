"""How good a setting a search finds at the same number of settings: by coordinates, and by the size of waves.

By default it is a glance; BELAY_SAMPLER_SEEDS=8 BELAY_SETTINGS=48 says something, in half an hour.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from study.design.config import parse_config
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.ledger import Ledger
from study.execute.tables import opened
from study.execute.train import train_pack

pytestmark = pytest.mark.timeout(0)  # as long as it takes
SEEDS = int(os.environ.get("BELAY_SAMPLER_SEEDS", "2"))
SETTINGS = int(os.environ.get("BELAY_SETTINGS", "2"))
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
    "digits": {  # the quickstart's
        "task": {"name": "digits", "label_noise": 0.2, "batch_size": 100},
        "objective": {"metric": "average/val_accuracy"},
        "lr": {"log": [0.1, 8.0]},
        "seeds": 4,
    },
    "quadratic": {
        "task": {"name": "quadratic", "dimensions": 16},
        "objective": {"metric": "average/excess_loss"},
        "lr": {"log": [0.01, 1.5]},
        "seeds": 2,
    },
}


@functools.cache
def least(question: str, system: str, wave: int, seed: int) -> float:
    """The least error or loss that one search finds; waves of more than one are asked two ahead."""
    asked = QUESTIONS[question]
    config = {
        "name": "one",
        "task": asked["task"],
        "steps": 300,
        "seeds": asked["seeds"] if SETTINGS > 2 else 1,
        "evaluations": 1,
    }
    config |= {"objective": asked["objective"], "space": SPACES[system] | {"lr": asked["lr"]}}
    in_flight = 1 if wave == 1 else 2 * wave
    config |= {"search": {"settings": SETTINGS, "baseline": 0, "in_flight": in_flight, "seed": seed}}
    study = Study.of(parse_config(config))
    metric = study.config.objective.metric
    with tempfile.TemporaryDirectory() as folder, opened(url := f"sqlite:///{folder}/ledger.db", making=True) as engine:
        ledger = Ledger(engine, "one", url)
        ledger.begin(study.config)
        asker = Asker(study, ledger)
        packs = []
        while not asker.asked_all or packs:  # told in the order asked, as late as the waves allow
            while (pack := asker.next()) is not None:
                packs.append(pack)
            asker.tell(list(train_pack(study, packs.pop(0))))
        values = [outcome.value(metric) for _, outcome in asker.outcomes() if outcome.state == "complete"]
    return 1 - max(values) if study.mode == "max" else min(values)


def compared(question: str, ours: tuple[str, int], theirs: tuple[str, int]) -> tuple[str, float]:
    """The ratio of what two kinds of search find, and a text with its 95 % interval over the sampler's seeds."""
    ratios = [math.log(least(question, *ours, seed) / least(question, *theirs, seed)) for seed in range(SEEDS)]
    mean, reach = stats.tmean(ratios), stats.t.ppf(0.975, SEEDS - 1) * stats.sem(ratios)
    interval = f"95 % {math.exp(mean - reach):.3f} to {math.exp(mean + reach):.3f}"
    level = math.exp(stats.tmean([math.log(least(question, *theirs, seed)) for seed in range(SEEDS)]))
    return f"{level:.4g}, geometric mean ({interval})", math.exp(mean)


@pytest.mark.parametrize("question", QUESTIONS)
def test_natural_coordinates(question: str, figure: Callable[..., None]) -> None:
    against, ratio = compared(question, ("natural", 1), ("raw", 1))
    figure(f"least {question} error, natural, {SETTINGS} settings", f"raw, {against}", ratio, 1)


@pytest.mark.parametrize("wave", [8, 16, 32])
def test_waves(wave: int, figure: Callable[..., None]) -> None:
    against, ratio = compared("digits", ("natural", wave), ("natural", 1))
    figure(f"least digits error, waves of {wave}, {SETTINGS} settings", f"one by one, {against}", ratio, 1)
