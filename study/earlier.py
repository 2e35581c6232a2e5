"""Begins a study with the best settings of an earlier one on record, where its config names one."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, cast

from study.design.dimension import Choice, Dimension, Integers, LogIntegers, SteppedIntegers
from study.design.document import plain
from study.design.places import Connections
from study.design.schema import INFINITE, Value
from study.design.space import Space, applying
from study.design.study import Study
from study.errors import BadInput
from study.execute.ledger import find_config
from study.findings.collect import load
from study.findings.compare import ranking


def begun(study: Study, connections: Connections, say: Callable[[str], None]) -> Study:
    """The study with known settings in place of `search.start_from`: once it is on record, those that it began with.

    Args:
        study: The study.
        connections: Where its records and those of the earlier study are.
        say: Called with a line that says which settings these are.

    Raises:
        BadInput: The earlier study is not on record, or has no setting that could be taken.
    """
    config, earlier = study.config, study.config.search.start_from
    if earlier is None:
        return study
    before = find_config(config.name, connections.storage)
    if before is not None:
        start = list(before.search.start)
        say(f"{config.name} goes on with the {len(start)} known settings that it was begun with")
    else:
        most = min(earlier.top, config.search.settings or earlier.top)
        start, moved = _best_of(earlier.study, study.spaces["main"], connections.tracking, most)
        say(f"{config.name} starts from {len(start)} of the best settings of {earlier.study}{_said(moved)}")
    search = config.search.model_copy(update={"start": tuple(start), "start_from": None})
    return Study.of(config.model_copy(update={"search": search}))


def _best_of(name: str, space: Space, uri: str, most: int) -> tuple[list[dict[str, Value]], Counter[str]]:
    """The best settings of a study in a space's parameters, and how many had each one moved into it."""
    rows = ranking(load(name, uri)).to_dict("records")
    found: dict[str, dict[str, Value]] = {}
    moved: Counter[str] = Counter()
    for row in rows:
        if len(found) == most:
            break
        values, changed = _fitted({str(name): plain(value) for name, value in row.items()}, space)
        key = json.dumps(values, sort_keys=True)
        if values and key not in found:
            found[key] = values
            moved.update(changed)
    if not found:
        raise BadInput(
            f"`search.start_from` must name a study with complete settings and parameters of this space, got {name!r} "
            "without; leave it out."
        )
    return list(found.values()), moved


def _fitted(values: Mapping[str, Any], space: Space) -> tuple[dict[str, Value], list[str]]:
    """What a space can take of a setting: each value, or the nearest; and the names of those that were moved so."""
    fitted: dict[str, Value] = {}
    moved = []
    for name in [name for name in space if name in values]:
        for value in _nearest(space[name], values[name]):
            fitted[name] = value
            if value != values[name] and not math.isclose(_size(value), _size(values[name])):  # but by rounding
                moved.append(name)
    fitted = applying(space, fitted)
    return fitted, [name for name in moved if name in fitted]


def _nearest(dimension: Dimension, value: Value) -> list[Value]:
    """The value itself, or the nearest number of a dimension that does not hold it; none where there is no such."""
    size = _size(value)
    if dimension.holds(value):
        return [value]
    if math.isnan(size):
        return []
    if isinstance(dimension, Choice):
        sizes = {_size(one): one for one in dimension.choice if not math.isnan(_size(one))}
        near = [max(sizes) if size == math.inf else min(sizes, key=lambda one: abs(one - size))] if sizes else []
        return [sizes[one] for one in near]
    low, high = (float(cast(float, end)) for end in dimension.probes()[:2])
    inside = min(max(size, low), high)
    if isinstance(dimension, SteppedIntegers):
        return [dimension.values[round((inside - low) / dimension.step)]]
    return [round(inside) if isinstance(dimension, Integers | LogIntegers) else inside]


def _size(value: Any) -> float:
    """A value as a number, an EMA's damping ratio as inf; nan where it is none."""
    if value == INFINITE:
        return math.inf
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _said(moved: Counter[str]) -> str:
    """Which parameters were moved, and in how many settings."""
    if not moved:
        return ""
    named = ", ".join(f"{name} (of {count})" for name, count in sorted(moved.items()))
    return f"; moved to the nearest value of this space: {named}"
