"""`Belay`: keeps the averaged weights of a model beside its training and, if coupled, lets them pull the model back."""

from __future__ import annotations

import cmath
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from belay.names import buffers_at, check_alike, check_lossless, few, owners_of, parameters_of, unwrap
from belay.oscillator import Oscillator
from belay.step import lerp_, step_

Buffers = Literal["copy", "average", "ignore"]

CHUNK = 1 << 24  # weights updated together: bounds the memory of temporaries without costing launches
STATE_VERSION = 1


@dataclasses.dataclass(slots=True)
class _Group:
    """Tensors of one dtype and device that one kernel call updates; the lists are made once, not each step."""

    live: list[Tensor] = dataclasses.field(default_factory=list)
    average: list[Tensor] = dataclasses.field(default_factory=list)
    velocity: list[Tensor] | None = None


class Belay:
    """Averages a model's weights while it trains: EMA, damped average or BELAY, by the oscillator it is given.

    Every floating-point parameter is averaged, a tied one once, a frozen one too (it stays as it is). Integer
    parameters are never touched. The average starts at the weights the model has now.

    Args:
        model: The model in training; compiled and DDP-wrapped models are seen through.
        oscillator: Decay, damping and coupling, in optimizer steps.
        update_every: Average only every n-th step (>= 1); decay, damping and coupling keep their meaning in steps.
        buffers: Which buffers (BatchNorm's statistics) go with the averages: "copy" the model's latest, "average" the
            average of the floating-point ones, by the EMA of equal lag (its weights are all positive, so variances stay
            so), and the latest of the others; "ignore" none, and `copy_to` leaves those of its target.
        warmup: Steps (>= 0) over which the memory grows in proportion to the steps done, from none to its full length,
            so that a poor start is forgotten early; needs damping <= 1.
        dtype: dtype of the averages; by default float32 for half-precision weights and the weights' own for others. A
            float32 average stands still where ``(1 - decay) |x - y|`` is below ``6e-8 |y|``: at decay 0.9999 and above,
            slowly moving weights want ``torch.float64`` or a larger `update_every`.
        parameters: Which parameters to average, as ``f(name, parameter) -> bool``; all others keep their live values.
            ``lambda name, parameter: parameter.requires_grad`` saves the memory of a frozen backbone.

    Raises:
        ValueError: An option is out of range, or nothing is left to average.
        TypeError: `model` or `oscillator` is something else.

    >>> model = nn.Linear(2, 1)
    >>> average = Belay(model, Oscillator.ema(0.99))
    >>> average.update()  # after each optimizer.step() that was not skipped
    >>> with average.average_parameters():
    ...     prediction = model(torch.ones(2))
    """

    def __init__(
        self,
        model: nn.Module,
        oscillator: Oscillator,
        *,
        update_every: int = 1,
        buffers: Buffers = "copy",
        warmup: int = 0,
        dtype: torch.dtype | None = None,
        parameters: Callable[[str, nn.Parameter], bool] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
        if buffers not in get_args(Buffers):
            raise ValueError(f"`buffers` must be one of {', '.join(get_args(Buffers))}, got {buffers=}.")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"`dtype` must be a floating-point dtype, got {dtype=}.")
        self.steps = 0
        self._model = unwrap(model)
        self._update_every = _whole("update_every", update_every, least=1)
        self._warmup = _whole("warmup", warmup, least=0)
        self._live = {
            name: parameter
            for name, parameter in parameters_of(self._model).items()
            if (parameter.is_floating_point() or parameter.is_complex())
            and (not parameters or parameters(name, parameter))
        }
        if not self._live:
            raise ValueError(
                "`model` must have floating-point parameters to average, got none that `parameters` keeps."
            )
        self._average = {name: _start(weight, dtype) for name, weight in self._live.items()}
        self._owners = {} if buffers == "ignore" else owners_of(self._model)
        floating = {name: buffer for name, buffer in self._live_buffers().items() if buffer.is_floating_point()}
        self._buffers = {name: _start(b, dtype) for name, b in floating.items()} if buffers == "average" else {}
        self._velocity: dict[str, Tensor] = {}
        self._inside = False
        self.oscillator = oscillator

    @property
    def oscillator(self) -> Oscillator:
        """The average's settings, in optimizer steps; assign a new one to change them in the middle of a run."""
        return self._oscillator

    @oscillator.setter
    def oscillator(self, oscillator: Oscillator) -> None:
        if not isinstance(oscillator, Oscillator):
            raise TypeError(f"`oscillator` must be a belay.Oscillator, got {type(oscillator).__name__}.")
        if self._warmup and oscillator.damping > 1:
            raise ValueError(f"`warmup` needs a damping of at most 1, got {oscillator}.")
        self._per_update = oscillator.rescale(self._update_every)
        self._oscillator = oscillator
        if self._per_update.damping == 1:
            self._velocity = {}
        elif not self._velocity:
            self._velocity = {name: torch.zeros_like(average) for name, average in self._average.items()}
        self._groups = self._group()

    @torch.no_grad()
    def update(self) -> None:
        """Advances the average by one optimizer step; call it after each step that was not skipped.

        Raises:
            RuntimeError: Called inside `average_parameters`, where the model holds the averages themselves.
        """
        if self._inside:
            raise RuntimeError(
                "`update` must be called outside `average_parameters`, where the model holds its own weights."
            )
        self.steps += 1
        if self.steps % self._update_every:
            return
        oscillator = self._warmed()
        for group in self._groups:
            step_(group.live, group.average, group.velocity, oscillator)
        if self._buffers:
            live = self._live_buffers()
            lerp_([live[name] for name in self._buffers], list(self._buffers.values()), _share(oscillator))

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Puts the averages into the model for the length of a ``with`` block, then restores a copy of what was there.

        The model's own weights and (unless ignored) buffers come back bit for bit, also after an exception. Blocks may
        be nested.

        Raises:
            RuntimeError: A parameter of the model has been replaced since this average was made.
        """
        if self._inside:
            yield
            return
        self._check_not_replaced()
        targets = {**self._live, **self._live_buffers()}
        saved = {name: target.detach().clone() for name, target in targets.items()}
        self._inside = True
        try:
            _copy(targets, {**self._average, **self._buffers})
            yield
        finally:
            _copy(targets, saved)
            self._inside = False

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Copies the averages into `model`, which may be the one in training (that ends its own weights) or its like.

        What is not averaged (filtered or integer parameters) is copied from the model in training; buffers too, unless
        they are ignored.

        Args:
            model: A module with the same parameter and buffer names and shapes; tied alike.

        Raises:
            ValueError: Names or shapes differ; nothing has been changed.
            RuntimeError: A parameter of the model in training has been replaced.
        """
        self._check_not_replaced()
        target = unwrap(model)
        ours, theirs = parameters_of(self._model, tied=True), parameters_of(target, tied=True)
        check_alike("model", "the averaged model's parameters", ours, theirs)
        buffers = buffers_at(owners_of(target)) if self._owners else {}
        check_alike("model", "the averaged model's buffers", self._live_buffers(), buffers)
        averages = {live: self._average[name] for name, live in self._live.items()}
        _copy(theirs, {name: averages.get(live, live) for name, live in ours.items()})
        _copy(buffers, {**self._live_buffers(), **self._buffers})

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors (not copies), numbers and names, safe for ``weights_only``."""
        return {
            "version": STATE_VERSION,
            "oscillator": dataclasses.asdict(self._oscillator),
            "update_every": self._update_every,
            "warmup": self._warmup,
            "steps": self.steps,
            "average": dict(self._average),
            "velocity": dict(self._velocity),
            "buffers": dict(self._buffers),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state; as with torch's optimizers, its settings replace those given here.

        Averages keep this object's dtype and device. To go on with other settings, assign `oscillator` afterwards.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: It is not such a state, its names or shapes differ, or its dtype holds more than ours; nothing
                has been changed.
        """
        expected = set(self.state_dict())
        if set(state) != expected or state["version"] != STATE_VERSION:
            raise ValueError(
                f"`state` must come from Belay.state_dict (version {STATE_VERSION}), got {type(state).__name__} with {few(state)}."
            )
        oscillator = Oscillator(**state["oscillator"])
        update_every, warmup = _whole("update_every", state["update_every"], 1), _whole("warmup", state["warmup"], 0)
        steps = _whole("steps", state["steps"], 0)
        moving = self._average if oscillator.rescale(update_every).damping != 1 else {}
        for ours, kind in ((self._average, "average"), (moving, "velocity"), (self._buffers, "buffers")):
            check_alike("state", f"the model's {kind}", ours, state[kind])
            check_lossless(kind, ours, state[kind])
        self._update_every, self._warmup, self.steps = update_every, warmup, steps
        self.oscillator = oscillator
        _copy(self._average, state["average"])
        _copy(self._velocity, state["velocity"])
        _copy(self._buffers, state["buffers"])

    def to(self, device: torch.device | str | int) -> Belay:
        """Moves the averages to a device and returns self; the model may be elsewhere, at the cost of a transfer a step."""
        for tensors in (self._average, self._velocity, self._buffers):
            for name, tensor in tensors.items():
                tensors[name] = tensor.to(device)
        self._groups = self._group()
        return self

    def __repr__(self) -> str:
        weights = sum(average.numel() for average in self._average.values())
        return f"Belay({self._oscillator}, update_every={self._update_every}, steps={self.steps}, weights={weights})"

    def _group(self) -> list[_Group]:
        """Sorts the tensors into lists of one kind and of bounded size."""
        groups: list[_Group] = []
        filling: dict[object, tuple[_Group, int]] = {}
        for name, live in self._live.items():
            average = self._average[name]
            kind = (live.dtype, live.device, average.dtype, average.device)
            group, size = filling.get(kind, (None, 0))
            if group is None or size + average.numel() > CHUNK:
                group, size = _Group(velocity=[] if self._velocity else None), 0
                groups.append(group)
            filling[kind] = group, size + average.numel()
            group.live.append(live)
            group.average.append(average)
            if group.velocity is not None:
                group.velocity.append(self._velocity[name])
        return groups

    def _warmed(self) -> Oscillator:
        """The oscillator of this update: during warm-up one whose time runs faster, with the same damping ratio."""
        full = self._per_update
        if self.steps >= self._warmup:
            return full
        faster = self._warmup / self.steps
        if angle := cmath.phase(full.poles[0]):
            faster = min(faster, max(1.0, math.pi / 3 / angle))  # a faster swing would need a stiffness above 1
        return dataclasses.replace(dataclasses.replace(full, coupling=0.0).rescale(faster), coupling=full.coupling)

    def _live_buffers(self) -> dict[str, Tensor]:
        return buffers_at(self._owners)

    def _check_not_replaced(self) -> None:
        present = parameters_of(self._model)
        replaced = [name for name, live in self._live.items() if present.get(name) is not live]
        if replaced:
            raise RuntimeError(
                f"the model must keep the parameters that are averaged, replaced: {few(replaced)}; make a new Belay."
            )


def _start(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy of a weight to average from, in the dtype asked for; integers and complex numbers keep their own."""
    if not weight.is_floating_point():
        dtype = weight.dtype
    elif dtype is None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


@torch.no_grad()
def _copy(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        targets[name].copy_(value)


def _share(oscillator: Oscillator) -> float:
    """Stiffness of the EMA whose lag is the oscillator's, or none where the oscillator runs ahead."""
    return min(1.0, oscillator.stiffness / oscillator.damping)


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
    return value
