"""What `Belay.state_dict` holds, and checks of what is loaded, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from torch import Tensor

from belay.checks import whole
from belay.clock import Clock
from belay.names import check_alike, check_lossless, few, fitting
from belay.oscillator import Oscillator

VERSION = 1
KINDS = ("average", "velocity", "buffers")
BANK_PARTS = {"version", "averages"}
PARTS = {"version", "oscillator", "update_every", "warmup", "steps", *KINDS}


class State(NamedTuple):
    """A checked state: settings, steps done, and tensors by kind and name."""

    clock: Clock
    steps: int
    tensors: dict[str, dict[str, Tensor]]


def state_of(
    clock: Clock,
    steps: int,
    average: Mapping[str, Tensor],
    velocity: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The state of one average: tensors (not copies) and plain values."""
    return {
        "version": VERSION,
        "oscillator": asdict(clock.oscillator),
        "update_every": clock.update_every,
        "warmup": clock.warmup,
        "steps": steps,
        "average": dict(average),
        "velocity": dict(velocity),
        "buffers": dict(buffers),
    }


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


def fitted(state: State, average: Mapping[str, Tensor], buffers: Mapping[str, Tensor], strict: bool = True) -> State:
    """A state with those of its tensors that fit these averages and averaged buffers.

    Raises:
        ValueError: Some do not fit, and all must (`strict`); or a dtype holds more than ours.
    """
    moving = average if state.clock.moving else {}
    for kind, ours in {"average": average, "velocity": moving, "buffers": buffers}.items():
        if strict:
            check_alike("state", f"the model's {kind}", ours, state.tensors[kind])
        else:
            state.tensors[kind] = fitting(ours, state.tensors[kind])
        check_lossless(kind, ours, state.tensors[kind])
    return state


def checked_bank(state: object, size: int) -> list[State]:
    """The parts of what `Bank.state_dict` returned for this many averages.

    Raises:
        ValueError: It is something else, or damaged.
    """
    if not isinstance(state, Mapping) or set(state) != BANK_PARTS or state["version"] != VERSION:
        found = few(state) if isinstance(state, Mapping) and state else "nothing"
        raise ValueError(
            f"`state` must come from Bank.state_dict (version {VERSION}), got {type(state).__name__} with {found}."
        )
    averages = state["averages"]
    if not isinstance(averages, Sequence) or len(averages) != size:
        kind = type(averages).__name__
        got = f"{len(averages)} in a {kind}" if isinstance(averages, Sequence) else kind
        raise ValueError(f"`state` must hold {size} averages, as this bank does, got {got}.")
    loaded = [checked(one) for one in averages]
    if len({(one.clock.update_every, one.clock.warmup, one.steps) for one in loaded}) > 1:
        raise ValueError("`state` must have one `update_every`, `warmup` and `steps` for all averages, got several.")
    return loaded


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
