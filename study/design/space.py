"""The search space: the parameters of a search and their dimensions, which of them vary together, and all it holds.

A parameter with conditions (`when`) comes behind those that it depends on, and is left out of a setting where they do
not hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from study.design.dimension import Dimension, Listed, label
from study.design.faults import shown
from study.design.schema import COORDINATES, NATURAL, PARAMETERS, Value, identity
from study.errors import BadInput

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Space = Mapping[str, Dimension]


def ordered(space: Space) -> dict[str, Dimension]:
    """A space in the order in which it is drawn, whichever it is written in, as what is drawn depends on it.

    Coordinates come first, then hyperparameters by name, then those that depend on these by name, and so on.

    Raises:
        BadInput: The conditions of a parameter are not about values of listed hyperparameters, or can never hold.
    """
    names = [*PARAMETERS, *NATURAL, *sorted(space.keys() - COORDINATES)]
    left = {name: space[name] for name in names if name in space}
    for name in left:
        _check_conditions(name, space)
    found: dict[str, Dimension] = {}
    while left:
        next_ones = {name: each for name, each in left.items() if each.when.keys() <= found.keys()}
        if not next_ones:
            raise BadInput(
                f"`space` must have parameters that do not depend on themselves, got `when` in a circle of "
                f"{', '.join(_circle(left))}; leave one out."
            )
        found |= next_ones
        left = {name: each for name, each in left.items() if name not in next_ones}
    for name, needed in needs(found).items():
        for other, values in needed.items():
            if not values:
                raise BadInput(
                    f"`space.{name}` must be able to vary, got conditions, its own and those of what it depends on, "
                    f"that leave no value of {other}; change one."
                )
    return found


def _circle(left: Space) -> list[str]:
    """A circle among parameters that all depend on others of these, in the order in which they do."""
    path = [next(iter(left))]
    while path.count(path[-1]) == 1:
        path.append(next(name for name in left[path[-1]].when if name in left))
    return path[path.index(path[-1]) + 1 :]


def needs(space: Space) -> dict[str, dict[str, list[Value]]]:
    """By parameter of an ordered space: all that it depends on, and the values at which it may vary."""
    found: dict[str, dict[str, list[Value]]] = {}
    for name, dimension in space.items():
        found[name] = {}
        for other, wanted in dimension.when.items():
            for one, values in {**found[other], other: wanted}.items():
                there = set(map(identity, values))
                found[name][one] = [value for value in found[name].get(one, values) if identity(value) in there]
    return found


def _check_conditions(name: str, space: Space) -> None:
    """Raises BadInput unless a parameter depends on nothing but values that listed hyperparameters may have."""
    if name in COORDINATES and space[name].when:
        raise BadInput(f"`space.{name}` must have no `when`, as every setting has an average; remove it.")
    for other, wanted in space[name].when.items():
        if other in COORDINATES or other not in space or not isinstance(space[other], Listed):
            there = [known for known in space if known not in COORDINATES and isinstance(space[known], Listed)]
            raise BadInput(
                f"`space.{name}.when` must name hyperparameters in `space` that are a choice or whole numbers "
                f"({', '.join(there) or 'there is none'}), got {shown(other)}; change it."
            )
        for value in wanted:
            if not space[other].holds(value):
                raise BadInput(
                    f"`space.{name}.when` must have values of `space.{other}` ({space[other].words}), got "
                    f"{shown(value)}; change it (a list stands for any of its values)."
                )


def suggest(space: Space, trial: BaseTrial) -> dict[str, Value]:
    """The values that a trial of Optuna draws, of the parameters that vary together."""
    values: dict[str, Value] = {}
    for name, dimension in space.items():
        if dimension.applies(values):
            values[name] = dimension.suggest(name, trial)
    return values


def applying(space: Space, values: Mapping[str, Value]) -> dict[str, Value]:
    """Those of some values whose conditions hold."""
    found: dict[str, Value] = {}
    for name, dimension in space.items():
        if name in values and dimension.applies(found):
            found[name] = values[name]
    return found


def drawn_as(space: Space, values: Mapping[str, Value]) -> dict[str, Value]:
    """What Optuna draws, by its own names, where a space comes to these values, which it holds."""
    return {label(name, each): each.drawn_as(values[name]) for name, each in space.items() if name in values}


def holds(space: Space, values: Mapping[str, Value]) -> bool:
    """Whether a space holds these values."""
    return all(dimension.holds(values[name]) for name, dimension in space.items())


def grid(space: Space) -> list[dict[str, Value]]:
    """Every setting of a space whose dimensions are all listed, the last named parameter varying fastest."""
    settings: list[dict[str, Value]] = [{}]
    for name, dimension in space.items():
        assert isinstance(dimension, Listed)
        settings = [
            longer
            for one in settings
            for longer in ([one | {name: value} for value in dimension.values] if dimension.applies(one) else [one])
        ]
    return settings


def combinations(space: Space) -> float:
    """How many settings a space holds; inf where a parameter is drawn from a range of real numbers."""
    ways = {frozenset[str](): 1.0}  # by those that are left out of the parameters to come: settings of those before
    for name in _behind_each_other(space):
        dimension = space[name]
        behind = {other: each for other, each in space.items() if name in each.when}
        longer: defaultdict[frozenset[str], float] = defaultdict(float)
        for without, count in ways.items():
            splits = {frozenset(behind): 1.0} if name in without else _splits(name, dimension, behind)
            for left_out, number in splits.items():
                longer[(without | left_out) - {name}] += count * number
        ways = longer
    return sum(ways.values())


def _behind_each_other(space: Space) -> list[str]:
    """The parameters with each right behind the last that it depends on: few conditions are open at a time."""
    found: list[str] = []

    def place(name: str) -> None:
        if name not in found and space[name].when.keys() <= {*found}:
            found.append(name)
            for other in space:
                if name in space[other].when:
                    place(other)

    for name in space:
        place(name)
    return found


def _splits(name: str, dimension: Dimension, behind: Space) -> Mapping[frozenset[str], float]:
    """How many values of a parameter leave out which of those that depend on it."""
    if not behind:
        return {frozenset(): dimension.count}
    named = {identity(value): value for each in behind.values() for value in each.when[name]}
    splits = Counter[frozenset[str]]()
    for value in named.values():
        splits[frozenset(other for other, each in behind.items() if not each.wants(name, value))] += 1
    splits[frozenset(behind)] += int(dimension.count) - len(named)
    return {left_out: float(number) for left_out, number in splits.items() if number}
