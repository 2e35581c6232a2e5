"""How much nearer to the best a race comes than as many runs without one, on the quickstart's question.

By default it is a glance; BELAY_SETTINGS=64 BELAY_SEEDS=64 says something, in a few minutes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from questions import DRAWS, QUICKSTART, SEEDS, SETTINGS, Measured

from study.design.config import load_config
from study.design.schema import Outcome, SeedResult
from study.design.study import Study
from study.execute.race import SHARES, runners

pytestmark = pytest.mark.timeout(0)  # as long as it takes


def winner(study: Study, tried: Measured, seeds: list[int]) -> int:
    """The setting that a race chooses which gives its seeds in this order."""
    metric, running, stages = study.config.objective.metric, list(tried), study.config.stages
    for share, stage in zip(SHARES, stages, strict=False):
        searched = []
        for number in running:
            setting, values = tried[number]
            results = [SeedResult(seed, [(1, {metric: values[seed]})]) for seed in seeds[: stage.stop]]
            searched.append((setting, Outcome(number, results)))
        going_on = runners(study, {"main": (len(tried), searched)}, share)
        running = list(dict.fromkeys(setting.number for setting in going_on))
    return max(running, key=lambda number: np.mean([tried[number][1][seed] for seed in seeds[: stages[-1].stop]]))


def test_race(tried: Measured, figure: Callable[..., None]) -> None:
    study = Study.of(load_config(QUICKSTART, ["search.race=true", "objective.metric=live/val_accuracy"]))
    rng, plain, raced = np.random.default_rng(0), [], []
    for _ in range(DRAWS):
        seeds = list(map(int, rng.permutation(SEEDS)))
        rest = seeds[study.config.stages[-1].stop :]
        true = {number: np.mean([values[seed] for seed in rest]) for number, (_, values) in tried.items()}
        few = seeds[: study.config.seeds]
        best = max(tried, key=lambda number: np.mean([tried[number][1][seed] for seed in few]))
        plain.append(max(true.values()) - true[best])
        raced.append(max(true.values()) - true[winner(study, tried, seeds)])
    without = np.mean(plain)
    figure(f"regret of a race, {SETTINGS} settings", f"without, {without:.2g}", np.mean(raced) / without, 0.7)
