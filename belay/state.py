"""Checks of what `Belay.load_state_dict` and `load_averages` are given, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import NamedTuple

from torch import Tensor

from belay.checks import whole
from belay.clock import Clock
from belay.names import few
from belay.oscillator import Oscillator

VERSION = 1
KINDS = ("average", "velocity", "buffers")
PARTS = {"version", "oscillator", "update_every", "warmup", "steps", *KINDS}


class State(NamedTuple):
    """A checked state: settings, steps done, and tensors by kind and name."""

    clock: Clock
    steps: int
    tensors: dict[str, dict[str, Tensor]]


def checked(state: object) -> State:
    """The parts of what `Belay.state_dict` returned.

    Raises:
        ValueError: It is something else, or damaged.
    """
    if not isinstance(state, Mapping) or set(state) != PARTS or state["version"] != VERSION:
        found = few(state) if isinstance(state, Mapping) and state else "nothing"
        raise ValueError(
            f"`state` must come from Belay.state_dict (version {VERSION}), got {type(state).__name__} with {found}; "
            "`load_averages` takes plain averaged weights."
        )
    settings = state["oscillator"]
    if not isinstance(settings, Mapping) or set(settings) != {field.name for field in fields(Oscillator)}:
        raise ValueError(f"`state` must have an oscillator of decay, damping and coupling, got {settings!r}.")
    try:
        oscillator = Oscillator(**settings)
    except TypeError as error:
        raise ValueError(f"`state` must have an oscillator of three numbers, got {settings!r}: {error}") from error
    return State(
        Clock(oscillator, whole("update_every", state["update_every"], 1), whole("warmup", state["warmup"], 0)),
        whole("steps", state["steps"], 0),
        {kind: tensors("state", state[kind], kind) for kind in KINDS},
    )


def tensors(argument: str, given: object, kind: str = "weights") -> dict[str, Tensor]:
    """A mapping of names to tensors, as a dictionary.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"`{argument}` must hold {kind} by name, got {type(given).__name__}.")
    if wrong := [name for name, value in given.items() if not isinstance(name, str) or not isinstance(value, Tensor)]:
        raise ValueError(f"`{argument}` must hold {kind} as tensors by name, got something else for {few(wrong)}.")
    return dict(given)
