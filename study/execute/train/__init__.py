"""Trains one pack and yields what it measured. Knows neither Ray nor Optuna nor MLflow."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train.alone import train_seed
from study.execute.train.stacked import NotStackable, train_stacked


def train_pack(study: Study, pack: Pack) -> Iterator[Outcome]:
    """Trains every setting of a pack with every seed, side by side where the pack says so and that can be.

    A seed that diverges or raises ends alone: it is part of the outcome, with the step or the message.
    """
    runs = [(setting, seed) for setting in pack.settings for seed in pack.seeds]
    results = iter(_side_by_side(study, runs) if pack.side_by_side else _one_by_one(study, runs))
    for setting in pack.settings:
        yield Outcome(setting.number, [next(results) for _ in pack.seeds])


def lost(pack: Pack, message: str) -> list[Outcome]:
    """The outcomes of a pack that could not be trained: every seed failed with this message."""
    results = [SeedResult(seed, state="failed", message=message, finished=time.time()) for seed in pack.seeds]
    return [Outcome(setting.number, results) for setting in pack.settings]


def _side_by_side(study: Study, runs: Sequence[tuple[Setting, int]]) -> Iterator[SeedResult]:
    started = time.perf_counter()
    try:
        results = train_stacked(study, runs)
    except NotStackable as error:
        warnings.warn(f"runs are trained one by one: {error}", stacklevel=3)
        yield from _one_by_one(study, runs)
        return
    seconds = (time.perf_counter() - started) / len(runs)
    for result in results:
        yield replace(result, seconds=seconds, finished=time.time())


def _one_by_one(study: Study, runs: Sequence[tuple[Setting, int]]) -> Iterator[SeedResult]:
    for setting, seed in runs:
        started = time.perf_counter()
        result = train_seed(study, setting, seed)
        yield replace(result, seconds=time.perf_counter() - started, finished=time.time())
