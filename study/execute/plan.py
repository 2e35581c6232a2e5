"""Lays out a study: the order in which settings are asked, their waves, and the packs in which they are trained.

The only place that decides this, by numbers alone: neither timing nor a kill changes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from study.design.schema import PARAMETERS, Setting, role_of
from study.design.space import combinations, grid
from study.design.study import Study
from study.design.tasks.base import Task

Bars = tuple[tuple[int, float], ...]  # steps, rising, and the value of the objective that is to be reached at each
JUDGED = 0  # the seed that has to reach them

LEARNING = {"tpe", "gp"}  # samplers that draw a wave from the results of those before it
LONG_WAVE = 1024  # settings that the others draw at once
# Settings of a pack that share a trajectory, at most: where it is trained by itself, as an average takes the memory of
# one or two models; and side by side, where models are small, for each trajectory that the pack has room for.
WATCHED_ALONE, WATCHED_BESIDE = 8, 16
FEW = 16  # trainings side by side; one of them costs a processor a third more than one of 32, and of fewer much more


@dataclass(frozen=True)
class Pack:
    """Settings and seeds that one Ray Tune trial trains.

    Attributes:
        settings: The settings.
        seeds: The seeds of each.
        side_by_side: Whether they are trained as one batched model where that can be, or one after the other.
        hosts: The numbers of those whose trainings riders watch.
        bars: By number, what the first seed of a setting has to reach at each rung, or the setting stops there.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    side_by_side: bool = False
    hosts: tuple[int, ...] = ()
    bars: Mapping[int, Bars] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {
            "settings": [{"number": setting.number, "parameters": dict(setting)} for setting in self.settings],
            "seeds": list(self.seeds),
            "side_by_side": self.side_by_side,
            "hosts": list(self.hosts),
            "bars": [[number, bars] for number, bars in self.bars.items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pack:
        """The pack that `to_json` wrote."""
        settings = tuple(Setting(each["number"], each["parameters"]) for each in data["settings"])
        bars = {number: tuple((step, bar) for step, bar in each) for number, each in data["bars"]}
        return cls(settings, tuple(data["seeds"]), data["side_by_side"], tuple(data["hosts"]), bars)

    def of(self, setting: Setting) -> Pack:
        """The part of one setting."""
        number = setting.number
        bars = {number: self.bars[number]} if number in self.bars else {}
        return replace(self, settings=(setting,), hosts=tuple({number} & {*self.hosts}), bars=bars)


@dataclass(frozen=True)
class Plan:
    """Which search each setting comes from, in the order of the settings' numbers.

    A wave is `wave` consecutive numbers. Its settings are drawn together and share packs. Where it `waits` (the sampler
    learns, or trainings or the search may stop early), it is drawn when all waves but the `ahead` - 1 before it are
    told.
    """

    searches: tuple[str, ...]
    grids: Mapping[str, list[dict[str, Any]]]  # of a grid study: every search's settings
    wave: int
    ahead: int
    waits: bool

    @property
    def settings(self) -> int:
        """How many settings the study tries."""
        return len(self.searches)

    def numbers(self, search: str) -> list[int]:
        """The numbers of one search's settings, in its own order."""
        return [number for number, name in enumerate(self.searches) if name == search]

    def next_wave(self, asked: int) -> range:
        """The numbers that are asked together after the first `asked` ones: the rest of a wave."""
        return range(asked, min(self.settings, (asked // self.wave + 1) * self.wave))

    def needed(self, number: int) -> int:
        """How many settings, the first ones, must be told before this one is drawn from their results."""
        return max(0, number // self.wave - self.ahead + 1) * self.wave if self.waits else 0


def plan(study: Study, asked: Sequence[str] = ()) -> Plan:
    """Lays out a study: how many settings of each search there are and in which order they are asked.

    The searches take turns in proportion to their sizes: an unfinished study has plain EMAs to compare with.
    Known settings come before all others.

    Args:
        study: The study.
        asked: The searches of the settings that were asked already, in the order of their numbers. What a study that
            has grown still lacks comes after them.
    """
    search, spaces = study.config.search, study.spaces
    grids: dict[str, list[dict[str, Any]]] = {}
    if search.sampler == "grid":
        tried: set[str] = set()
        for name, space in spaces.items():
            points = [(json.dumps(dict(study.setting(0, point)), sort_keys=True), point) for point in grid(space)]
            grids[name] = [point for setting, point in points if setting not in tried]
            tried |= {setting for setting, _ in points}
        sizes = {name: len(points) for name, points in grids.items()}
    else:
        assert search.settings is not None
        wanted = {name: search.settings if name == "main" else search.emas for name in spaces}
        sizes = {name: int(min(count, combinations(spaces[name]))) for name, count in wanted.items()}
    done = {name: asked.count(name) for name in sizes}
    first = {"main": len(search.start)}  # of the search's settings: known ones, which come before all others
    turns = sorted(
        (0 if i < first.get(name, 0) else (i + 0.5) / size, name, i)
        for name, size in sizes.items()
        for i in range(done[name], size)
    )
    judged = bool(search.rungs) or study.config.limits.settings_without_gain is not None
    waits = search.sampler in LEARNING or judged
    wave = max(1, search.in_flight // 2) if waits else LONG_WAVE
    return Plan((*asked, *(name for _, name, _ in turns)), grids, wave, min(2, search.in_flight), waits)


def pack(
    study: Study,
    lacking: Sequence[tuple[Setting, Sequence[int]]],
    room: int,
    hosts: Collection[int] = (),
    workers: float = 1,
) -> list[Pack]:
    """Sorts what settings lack into packs.

    Settings that share a trajectory share a pack if they lack the same seeds. Where runs are trained side by side, so
    do others that lack these seeds too and differ in nothing but what their task says it can stack; so many that every
    worker has a pack, unless `FEW` are too few for that. Into which packs they go changes no result.

    Args:
        study: The study.
        lacking: Settings, each with seeds that it has to be trained with.
        room: Seeds of trajectories that a pack may hold; 1 if they are trained one by one, where a pack is a trajectory
            with its seeds.
        hosts: The numbers of the settings whose trainings riders watch.
        workers: That have nothing else to train.
    """
    alike: dict[tuple[tuple[int, ...], str], dict[str, list[Setting]]] = {}
    for setting, seeds in lacking:
        trajectory, each = _trajectory(study, setting), len(seeds) if room == 1 else room
        for start in range(0, len(seeds), each):
            key = tuple(seeds[start : start + each]), trajectory if room == 1 else _shape(study, setting)
            alike.setdefault(key, {}).setdefault(trajectory, []).append(setting)
    fair = max(FEW, sum(len(seeds) * len(trajectories) for (seeds, _), trajectories in alike.items()) / workers)
    packs = []
    for (seeds, _), trajectories in alike.items():
        most = max(1, min(room // len(seeds), math.ceil(fair / len(seeds))))
        for settings in _parts(
            list(trajectories.values()), most, WATCHED_ALONE if room == 1 else most * WATCHED_BESIDE
        ):
            carrying = [each.number for each in settings if each.number in hosts and role_of(seeds[0]) == "search"]
            packs.append(Pack(tuple(settings), seeds, room > 1, tuple(carrying)))
    return packs


def _parts(trajectories: Sequence[list[Setting]], most: int, most_settings: int) -> Iterator[list[Setting]]:
    """The settings of trajectories in parts of at most so many of both; one trajectory may go on in several."""
    part: list[Setting] = []
    count = 0
    for settings in trajectories:
        for start in range(0, len(settings), most_settings):
            some = settings[start : start + most_settings]
            if count == most or len(part) + len(some) > most_settings:
                yield part
                part, count = [], 0
            part, count = part + some, count + 1
    yield part


def _trajectory(study: Study, setting: Setting) -> str:
    """The trajectory of a setting, as text; a train function makes its own averages, and one for each setting."""
    return setting.trajectory if isinstance(study.task, Task) else str(setting.number)


def _shape(study: Study, setting: Setting) -> str:
    """What must be alike in settings that are trained side by side, as text."""
    task = study.task
    stackable = (isinstance(task, Task) and task.stackable) or frozenset()
    differing = PARAMETERS.keys() | stackable
    return json.dumps({name: value for name, value in setting.items() if name not in differing}, sort_keys=True)
