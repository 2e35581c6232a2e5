"""Trains one pack and yields what it measured. Knows neither Ray nor Optuna nor MLflow."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.design.tasks.base import Task
from study.execute.plan import Bars, Pack
from study.execute.train.alone import KEPT, train_alone
from study.execute.train.memory import NoMemory
from study.execute.train.parts import optimizer_of
from study.execute.train.stacked import NotStackable, Run, train_stacked


def train_pack(study: Study, pack: Pack) -> Iterator[Outcome]:
    """Trains every setting of a pack with every seed, side by side where the pack says so and that can be.

    A seed that diverges or raises ends alone: it is part of the outcome, with the step or the message. A setting that
    is pruned ends with all seeds.
    """
    runs = [(setting, seed) for setting in pack.settings for seed in pack.seeds]
    train = _together if pack.side_by_side else _one_by_one
    results = iter(train(study, runs, pack.hosts, pack.bars))
    for setting in pack.settings:
        yield Outcome(setting.number, [next(results) for _ in pack.seeds])


def lost(pack: Pack, message: str) -> list[Outcome]:
    """The outcomes of a pack that could not be trained: every seed failed with this message."""
    results = [SeedResult(seed, state="failed", message=message, finished=time.time()) for seed in pack.seeds]
    return [Outcome(setting.number, results) for setting in pack.settings]


def _together(study: Study, runs: Sequence[Run], hosts: Collection[int], bars: Mapping[int, Bars]) -> list[SeedResult]:
    """Trains runs side by side; those whose optimizer cannot be described fail by themselves."""
    broken = {setting.number for setting, _ in runs if not _has_optimizer(study, setting)}
    whole, failing = ([run for run in runs if (run[0].number in broken) == fails] for fails in (False, True))
    alone = iter(_one_by_one(study, failing, hosts, bars))
    stacked = iter(_side_by_side(study, whole, hosts, bars) if whole else ())
    return [next(alone if setting.number in broken else stacked) for setting, _ in runs]


def _has_optimizer(study: Study, setting: Setting) -> bool:
    """Whether a setting's task describes an optimizer, and does not raise."""
    try:
        task = study.task_of(setting)
        return isinstance(task, Task) and bool(optimizer_of(task))
    except KEPT:
        return False


def _side_by_side(
    study: Study, runs: Sequence[Run], hosts: Collection[int], bars: Mapping[int, Bars]
) -> list[SeedResult]:
    """Trains runs side by side; in halves where they do not fit into memory together."""
    started = time.perf_counter()
    try:
        return _timed(train_stacked(study, runs, hosts, bars), started)
    except NotStackable as error:
        stackable, why = False, str(error)
    except NoMemory as error:
        stackable, why = True, str(error)
    # Outside the `except`, which holds what the first try had taken.
    if not stackable:
        return _noted(_one_by_one(study, runs, hosts, bars), f"runs are trained one by one: {why}")
    note = f"runs do not fit into memory side by side: of {len(runs)} {why}"
    if len(runs) == 1:
        return _noted(_one_by_one(study, runs, hosts, bars), note)
    half = len(runs) // 2
    halves = [_side_by_side(study, some, hosts, bars) for some in (runs[:half], runs[half:])]
    return _noted([*halves[0], *halves[1]], note)


def _one_by_one(
    study: Study, runs: Sequence[Run], hosts: Collection[int], bars: Mapping[int, Bars]
) -> list[SeedResult]:
    """Trains trajectories one after the other; of a setting that was pruned no further seed."""
    together: dict[object, list[int]] = {}
    for place, (setting, seed) in enumerate(runs):
        together.setdefault((setting.trajectory, seed) if isinstance(study.task, Task) else place, []).append(place)
    results: dict[int, SeedResult] = {}
    pruned: set[int] = set()
    for places in together.values():
        first = sorted(places, key=lambda place: runs[place][0].number not in hosts)  # the host, if there is one
        if going := [place for place in first if runs[place][0].number not in pruned]:
            settings, seed = [runs[place][0] for place in going], runs[going[0]][1]
            trained = _alone(study, settings, seed, settings[0].number in hosts, bars)
            results |= dict(zip(going, trained, strict=True))
            pruned |= {each.number for each, result in zip(settings, trained, strict=True) if result.state == "pruned"}
    left = {place: SeedResult(seed, state="pruned", finished=time.time()) for place, (_, seed) in enumerate(runs)}
    return list((left | results).values())


def _alone(
    study: Study, settings: Sequence[Setting], seed: int, carrying: bool, bars: Mapping[int, Bars]
) -> list[SeedResult]:
    """Trains a trajectory; if its averages do not fit into memory, again without riders, and then in halves."""
    started = time.perf_counter()
    try:
        return _timed(train_alone(study, settings, seed, study.riders if carrying else (), bars), started)
    except NoMemory as error:  # of one average it is the result
        why = str(error)
    if carrying:
        note = f"riders are left out: they do not fit into memory, {why}"
        return _noted(_alone(study, settings, seed, False, bars), note)
    half = len(settings) // 2
    halves = [_alone(study, some, seed, False, bars) for some in (settings[:half], settings[half:])]
    note = f"averages of one training do not fit into memory together: of {len(settings)} {why}"
    return _noted([*halves[0], *halves[1]], note)


def _noted(results: Sequence[SeedResult], note: str) -> list[SeedResult]:
    """Results with what was otherwise than planned; of several such things the first."""
    return [replace(result, note=note) for result in results]


def _timed(results: Sequence[SeedResult], started: float) -> list[SeedResult]:
    """Results with the time that each took and the one at which they ended."""
    seconds = (time.perf_counter() - started) / len(results)
    return [replace(result, seconds=seconds, finished=time.time()) for result in results]
