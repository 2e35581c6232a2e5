"""Trains one pack and yields what it measured. Knows neither Ray nor Optuna nor MLflow."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.plan import Pack
from study.execute.train.alone import train_alone
from study.execute.train.stacked import NotStackable, Run, train_stacked


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


def _side_by_side(study: Study, runs: Sequence[Run]) -> Iterator[SeedResult]:
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


def _one_by_one(study: Study, runs: Sequence[Run]) -> Iterator[SeedResult]:
    """Trains trajectories one after the other."""
    together: dict[object, list[int]] = {}
    for place, (setting, seed) in enumerate(runs):
        together.setdefault((setting.trajectory, seed) if isinstance(study.task, Task) else place, []).append(place)
    results: dict[int, SeedResult] = {}
    for places in together.values():
        settings, seed = [runs[place][0] for place in places], runs[places[0]][1]
        results |= dict(zip(places, _alone(study, settings, seed), strict=True))
    return iter([results[place] for place in range(len(runs))])


def _alone(study: Study, settings: Sequence[Setting], seed: int) -> list[SeedResult]:
    """Trains a trajectory, and takes it in halves where the averages do not all fit into memory beside it."""
    started = time.perf_counter()
    results: list[SeedResult] = []
    with suppress(torch.OutOfMemoryError):  # of one setting it is the result
        results = train_alone(study, settings, seed)
    if not results:
        half = len(settings) // 2
        return [*_alone(study, settings[:half], seed), *_alone(study, settings[half:], seed)]
    seconds = (time.perf_counter() - started) / len(settings)
    return [replace(result, seconds=seconds, finished=time.time()) for result in results]
