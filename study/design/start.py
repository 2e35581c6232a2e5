"""Settings that a search tries first: known ones, or the best of an earlier study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from study.design.dimension import Dimension, Integers, Log, LogIntegers, SteppedIntegers, Uniform, is_value
from study.design.faults import check_storable, shown
from study.design.schema import Value, identity
from study.design.space import Space, applying, drawn_as
from study.errors import BadInput


class Earlier(BaseModel):
    """An earlier study whose best settings are tried first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str = Field(min_length=1, max_length=100, description="its name on record")
    top: int = Field(5, ge=1, le=1000, description="how many of its settings, best first, at most 1,000")


def name_alone(earlier: Any) -> Any:
    """Lets ``start_from: old`` stand for ``start_from: {study: old}``."""
    return {"study": earlier} if isinstance(earlier, str) else earlier


def plain_settings(start: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Checks that known settings are different mappings of plain values.

    Raises:
        ValueError: One is not.
    """
    check_storable(start)
    for values in start:
        if not values or not all(map(is_value, values.values())):
            raise ValueError(f"must have values of parameters in each setting, got {shown(values)}; change it.")
    seen = set()
    for values in start:
        key = frozenset((name, identity(value)) for name, value in values.items())
        if key in seen:
            raise ValueError(f"must name each setting once, got {shown(values)} twice; remove one.")
        seen.add(key)
    return start


def check_start(start: Sequence[Mapping[str, Value]], space: Space) -> None:
    """Raises BadInput unless a space holds all known settings; a parameter may be left out."""
    for values in start:
        for name, value in values.items():
            if name not in space:
                raise BadInput(
                    f"`search.start` must have parameters of the space ({', '.join(space)}), got {shown(name)}; add "
                    f"`space.{name}` or leave it out."
                )
            if not space[name].holds(_meant(value, space[name])):
                raise BadInput(
                    f"`search.start` must have values of the space, got {name} {shown(value)} where `space.{name}` is "
                    f"{space[name].words}; change it or widen the space."
                )
        if beyond := [name for name in values if name not in applying(space, values)]:
            raise BadInput(
                f"`search.start` must give a parameter with `when` beside what it depends on, got {beyond[0]} "
                f"{shown(values[beyond[0]])} in {shown(dict(values))} where `space.{beyond[0]}` is "
                f"{space[beyond[0]].words}; change one of them or leave it out."
            )


def known(values: Mapping[str, Value], space: Space) -> dict[str, Value]:
    """What Optuna is to draw, by its own names, of a known setting that a space holds."""
    return drawn_as(space, {name: _meant(value, space[name]) for name, value in values.items()})


def _meant(value: Value, dimension: Dimension) -> Value:
    """The value as the dimension has it: 8 for 8.0 among whole numbers, 1.0 for 1 among real ones."""
    if isinstance(dimension, Uniform | Log) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    whole = isinstance(dimension, Integers | SteppedIntegers | LogIntegers)
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value
