"""Checks what a space says of the average, in raw or natural coordinates, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from belay import Oscillator
from study.design.dimension import Dimension
from study.design.faults import shown
from study.design.schema import INFINITE, NATURAL, PARAMETERS, from_natural, oscillator_of
from study.errors import BadInput

SLOWEST = math.nextafter(1, 0)  # the largest decay
WORST_CORNERS = (  # which end of decay, damping and coupling is worst for each condition of `Oscillator`
    (max, max, min),  # 1 - decay + coupling * damping > 0
    (max, min, min),  # (1 - coupling) * (1 - damping) < 1
    (min, max, max),  # 1 - decay < (2 - damping) * (2 - coupling)
)
LEAST_STIFFNESS = 1e-12  # below it, decay as a float no longer tells memories apart to four digits
ROUNDING = 1e-3  # the share of the least mass ratio that decay's rounding may take, at most


def check_coordinates(space: Mapping[str, Dimension]) -> None:
    """Refuses a space that mixes both systems of coordinates or lacks the average's memory.

    Raises:
        BadInput: It does.
    """
    raw, natural = ([name for name in names if name in space] for names in (PARAMETERS, NATURAL))
    if raw and natural:
        raise BadInput(
            f"`space` must hold either {', '.join(PARAMETERS)} or {', '.join(NATURAL)}, got both {raw[0]} and "
            f"{natural[0]}; keep one system."
        )
    if natural and "memory" not in space:
        raise BadInput(
            f"`space.memory` must be given beside {natural[0]}, got nothing; add e.g. `memory: {{log: [0.02, 0.5]}}`."
        )
    if not natural and "decay" not in space:
        raise BadInput(
            "`space.decay` must be given, got nothing; add e.g. `decay: {log_gap: [0.9, 0.9999]}`, or "
            "`memory: {log: [0.02, 0.5]}`."
        )


def check_averages(space: Mapping[str, Dimension], steps: int, where: str = "space") -> None:
    """Checks that every average of a space exists: each coordinate alone, then all together in their worst corners.

    Args:
        space: The space, in one system of coordinates.
        steps: Of each run.
        where: The config's entry that the space is.

    Raises:
        BadInput: A search may draw one that does not.
    """
    values = {name: _numbers(name, space[name]) for name in (*PARAMETERS, *NATURAL) if name in space}
    if "memory" in values:
        _check_natural({"damping_ratio": [math.inf], "mass_ratio": [0.0]} | values, steps, where)
    else:
        _check_raw(values)


def _numbers(name: str, dimension: Dimension) -> list[float]:
    """Values of a coordinate to check rules with."""
    values, words = dimension.probes(), [INFINITE] if name == "damping_ratio" else []
    for value in values:
        if value not in words and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadInput(f"`space.{name}` must be {' or '.join(['numbers', *words])}, got {shown(value)}; change it.")
    return [float(cast(float, value)) for value in values]


# --- raw coordinates --------------------------------------------------------------------------------------------------


def _check_raw(values: Mapping[str, list[float]]) -> None:
    """Checks decay, damping and coupling by the rules of `Oscillator`.

    First each alone, beside others that allow any value of its range. Then together: each of the three conditions
    holds in the whole space if it holds in its worst corner, which is one that a search may draw.
    """
    for value in values["decay"]:
        _probe("space.decay", {"decay": value})
    for value in values.get("damping", []):
        _probe("space.damping", {"decay": SLOWEST, "damping": value})
    for value in values.get("coupling", []):
        _probe("space.coupling", {"decay": SLOWEST, "coupling": max(0.0, value)})
    for decay, damping, coupling in WORST_CORNERS:
        ends = {"decay": decay, "damping": damping, "coupling": coupling}
        _probe("space", {name: ends[name](drawn) for name, drawn in values.items()})


def _probe(key: str, values: Mapping[str, Any]) -> Oscillator:
    try:
        return oscillator_of(values)
    except ValueError as error:
        raise BadInput(f"`{key}`: {error} Change its values.") from error


# --- natural coordinates ----------------------------------------------------------------------------------------------


def _check_natural(values: Mapping[str, list[float]], steps: int, where: str) -> None:
    """Checks memory, damping ratio and mass ratio: each alone, then together.

    Every lag and damping ratio above 0 has an average, whose damping is at most 1. Coupled, it has to stay below a
    coupling of 1, which is worst at the shortest memory, and within the three conditions of `Oscillator`. The first is
    a mass ratio above -1. The second is worst in the corner of the longest memory, the least damping ratio and the
    least mass ratio: at long memories it is a mass ratio above ``-4 damping_ratio^2``. The third always holds.
    """
    shortest, longest = min(values["memory"]), max(values["memory"])
    least, light, heavy = min(values["damping_ratio"]), min(values["mass_ratio"]), max(values["mass_ratio"])
    if shortest * steps <= 1:
        raise BadInput(f"`{where}.memory` must be above 1 / steps = {1 / steps:.6g}, got {shortest:.6g}; raise it.")
    if least <= 0:
        raise BadInput(f"`space.damping_ratio` must be above 0, got {least:.6g}; raise it.")
    if light <= -1:
        raise BadInput(f"`space.mass_ratio` must be above -1, got {light:.6g}; raise it.")
    _check_heaviest(shortest, heavy, steps)
    _check_slowest(longest, least, steps, where)
    _check_lightest(longest, least, light, steps)


def _check_heaviest(memory: float, mass_ratio: float, steps: int) -> None:
    """Refuses a coupling that reaches 1."""
    lag_and_one = memory * steps
    if mass_ratio >= lag_and_one:
        raise BadInput(
            f"`space`: coupling = mass_ratio / (lag + 1) must stay below 1, got mass_ratio {mass_ratio:.6g} with "
            f"memory {memory:.6g} of {steps} steps (lag + 1 = {lag_and_one:.6g}); raise `memory` above "
            f"{mass_ratio / steps:.6g} or lower `mass_ratio` below {lag_and_one:.6g}."
        )


def _check_slowest(memory: float, damping_ratio: float, steps: int, where: str) -> None:
    """Refuses a decay so close to 1 that it no longer tells the memory."""
    lag_and_one = memory * steps
    stiffness = min(1 / lag_and_one, (2 * damping_ratio / lag_and_one) ** 2)
    if stiffness < LEAST_STIFFNESS:
        raise BadInput(
            f"`{where}`: 1 - decay must stay above {LEAST_STIFFNESS:g}, where decay still tells memories apart, got "
            f"about {stiffness:.2g} with memory {memory:.6g} of {steps} steps and damping_ratio {damping_ratio:.6g}; "
            "lower `memory` or raise `damping_ratio`."
        )


def _check_lightest(memory: float, damping_ratio: float, mass_ratio: float, steps: int) -> None:
    """Refuses a push that makes model and average swing ever further apart."""
    average = from_natural({"memory": memory, "damping_ratio": damping_ratio}, steps)
    k, c = average.stiffness, average.damping
    bound = -(1 - ROUNDING) * c * c / (k * (1 - c)) if c < 1 else -1
    if mass_ratio <= bound:
        raise BadInput(
            f"`space`: mass_ratio must stay above {bound:.6g} (about -4 damping_ratio^2), where model and average stay "
            f"together without a gradient, got {mass_ratio:.6g} with damping_ratio {damping_ratio:.6g} and memory "
            f"{memory:.6g} of {steps} steps; raise `mass_ratio` or `damping_ratio`."
        )
