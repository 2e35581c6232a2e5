"""How much nearer to the best a race comes than as many runs without one, on the quickstart's question.

By default it is a glance; BELAY_SETTINGS=64 BELAY_SEEDS=64 says something, in a few minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from study.design.config import load_config
from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.ledger import Ledger
from study.execute.race import SHARES, runners
from study.execute.tables import opened
from study.execute.train import train_pack

pytestmark = pytest.mark.timeout(0)  # as long as it takes
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SETTINGS = int(os.environ.get("BELAY_SETTINGS", "8"))
SEEDS = int(os.environ.get("BELAY_SEEDS", "15"))  # of which a race takes 14; the others tell the truth
DRAWS = 1000 if SETTINGS > 8 else 50

Measured = dict[int, tuple[Setting, dict[int, float]]]  # by number: a setting, and what each seed came to


def measured(url: str) -> Measured:
    """Sobol points of the quickstart's space, with all seeds, of those that did not diverge."""
    changes = [f"search={{sampler: qmc, settings: {SETTINGS}, baseline: 0, riders: none}}", f"seeds={SEEDS}"]
    study = Study.of(load_config(QUICKSTART, [*changes, "evaluations=1", "confirm=null"]))
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        asker = Asker(study, ledger, room=64)
        while (pack := asker.next()) is not None:
            asker.tell(list(train_pack(study, pack)))
        return {
            setting.number: (setting, {each.seed: each.last("average/val_accuracy") for each in outcome.seeds})
            for setting, outcome in asker.outcomes()
            if outcome.state == "complete"
        }


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


def test_race(tmp_path: Path, figure: Callable[..., None]) -> None:
    tried = measured(f"sqlite:///{tmp_path}/ledger.db")
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
