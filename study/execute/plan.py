"""Lays out a study: the order in which settings are asked, and the packs in which they are trained.

The only place that decides this. Today one setting with all of its seeds is a pack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.design.schema import Setting
from study.design.space import combinations, grid
from study.design.study import Study


@dataclass(frozen=True)
class Pack:
    """Settings and seeds that one Ray Tune trial trains."""

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {
            "settings": [{"number": setting.number, "parameters": dict(setting)} for setting in self.settings],
            "seeds": list(self.seeds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pack:
        """The pack that `to_json` wrote."""
        return cls(tuple(Setting(s["number"], s["parameters"]) for s in data["settings"]), tuple(data["seeds"]))


@dataclass(frozen=True)
class Plan:
    """Which search each setting comes from, in the order of the settings' numbers."""

    searches: tuple[str, ...]
    grids: Mapping[str, list[dict[str, Any]]]  # of a grid study: every search's settings

    @property
    def settings(self) -> int:
        """How many settings the study tries."""
        return len(self.searches)

    def numbers(self, search: str) -> list[int]:
        """The numbers of one search's settings, in its own order."""
        return [number for number, name in enumerate(self.searches) if name == search]


def plan(study: Study) -> Plan:
    """Lays out a study: how many settings of each search there are and in which order they are asked.

    The searches take turns in proportion to their sizes: an unfinished study has plain EMAs to compare with.
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
        baseline = max(1, search.settings // 4) if search.baseline is None else search.baseline
        asked = {name: search.settings if name == "main" else baseline for name in spaces}
        sizes = {name: int(min(count, combinations(spaces[name]))) for name, count in asked.items()}
    turns = sorted(((i + 0.5) / size, name, i) for name, size in sizes.items() for i in range(size))
    return Plan(tuple(name for _, name, _ in turns), grids)


def pack(settings: Sequence[Setting], seeds: int) -> list[Pack]:
    """Sorts asked settings into packs."""
    return [Pack((setting,), tuple(range(seeds))) for setting in settings]
