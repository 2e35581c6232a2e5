"""`Belay`: keeps the averaged weights of a model beside its training and, if coupled, lets them pull the model back."""

from __future__ import annotations

import cmath
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from belay.checks import whole
from belay.names import buffers_at, check_alike, check_lossless, copy_, few, owners_of, parameters_of, reshard, unwrap
from belay.oscillator import Oscillator
from belay.step import grouped, lerp_, step_

Buffers = Literal["copy", "average", "ignore"]

STATE_VERSION = 1


class Belay:
    """Averages a model's weights while it trains: EMA, damped average or BELAY, by the oscillator it is given.

    Every floating-point or complex parameter is averaged: tied ones once, frozen ones too (their average equals them).
    Integer parameters are never touched. The average starts at the weights the model has now. It refers to its model:
    pickle or deepcopy both together, as a pickle of the average alone contains a second copy of the model.

    Args:
        model: The model in training; of a compiled or DistributedDataParallel one the module inside is averaged, with
            FSDP2 each process averages its own shards. It may be moved and converted later, as a whole; `to` moves the
            averages.
        oscillator: Decay, damping and coupling, in optimizer steps. With coupling, the average moves half-precision
            weights only where its pull exceeds their rounding: in bfloat16 0.2 to 0.4 % of the weight.
        update_every: Average only every n-th step (>= 1); decay, damping and coupling keep their meaning in steps.
        buffers: What the averaged model gets as the buffers that a checkpoint holds (BatchNorm's statistics): "copy"
            the model's latest; "average" the average of the floating-point ones, by the EMA of equal lag (whose weights
            are all positive, so that variances stay positive), and the latest of the others; "ignore" none of them:
            `copy_to` leaves those of its target.
        warmup: Steps (>= 0) over which the memory grows in proportion to the steps done, from none to its full length,
            so that a poor start is forgotten early; needs damping <= 1.
        dtype: ``torch.float32`` or ``torch.float64`` for the averages; by default the weights' own, and float32 for
            half precision, in which an average would stand still. A float32 average stands still where
            ``(1 - decay) |x - y|`` is below ``3e-8 |y|``: at decay 0.9999 and above, slowly moving weights need
            ``torch.float64`` or a larger `update_every`. Complex averages keep the weights' own.
        parameters: Which parameters to average, as ``f(name, parameter) -> bool``; all others keep their live values.
            ``lambda name, parameter: parameter.requires_grad`` saves the memory of a frozen backbone.

    Raises:
        ValueError: An option is out of range, the oscillator does not exist at `update_every` (see
            `Oscillator.rescale`), or nothing is left to average.
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
        if buffers not in get_args(Buffers):
            raise ValueError(f"`buffers` must be one of {', '.join(get_args(Buffers))}, got {buffers=}.")
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"`dtype` must be torch.float32, torch.float64 or None, got {dtype=}.")
        self.steps = 0
        self._model = unwrap(model)
        self._update_every = whole("update_every", update_every, least=1)
        self._warmup = whole("warmup", warmup, least=0)
        self._live = {
            name: parameter
            for name, parameter in parameters_of(self._model).items()
            if (parameter.is_floating_point() or parameter.is_complex())
            and (parameters is None or parameters(name, parameter))
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
        self._per_update = _per_update(oscillator, self._update_every, self._warmup)
        self._oscillator = oscillator
        if self._per_update.damping == 1:
            self._velocity = {}
        elif not self._velocity:
            self._velocity = {name: _start(average, None).zero_() for name, average in self._average.items()}
        self._groups = grouped(self._live, self._average, self._velocity)

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
        saved = {name: tensor.detach().clone() for name, tensor in self._live_tensors().items()}
        self._inside = True
        try:
            copy_(self._live_tensors(), {**self._average, **self._buffers})
            yield
        finally:
            reshard(self._model)
            copy_(self._live_tensors(), saved)  # looked up again, as moving the model replaces its buffers
            self._inside = False

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Copies the averages into `model`: a copy of the one in training, or that one, which loses its own weights.

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
        copy_(theirs, {name: averages.get(live, live) for name, live in ours.items()})
        copy_(buffers, {**self._live_buffers(), **self._buffers})

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors (not copies) and plain values, safe for ``weights_only``."""
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
        found = set(state) if isinstance(state, Mapping) else set()
        if found != set(self.state_dict()) or state["version"] != STATE_VERSION:
            raise ValueError(
                f"`state` must come from Belay.state_dict (version {STATE_VERSION}), got {type(state).__name__} with "
                f"{few(found) or 'nothing'}."
            )
        oscillator = Oscillator(**state["oscillator"])
        update_every, warmup = whole("update_every", state["update_every"], 1), whole("warmup", state["warmup"], 0)
        steps = whole("steps", state["steps"], 0)
        moving = self._average if _per_update(oscillator, update_every, warmup).damping != 1 else {}
        for ours, kind in ((self._average, "average"), (moving, "velocity"), (self._buffers, "buffers")):
            check_alike("state", f"the model's {kind}", ours, state[kind])
            check_lossless(kind, ours, state[kind])
        self._update_every, self._warmup, self.steps = update_every, warmup, steps
        self.oscillator = oscillator
        copy_(self._average, state["average"])
        copy_(self._velocity, state["velocity"])
        copy_(self._buffers, state["buffers"])

    def to(self, device: torch.device | str | int) -> Belay:
        """Moves the averages to a device and returns self; the model may be elsewhere, for a transfer every update."""
        for tensors in (self._average, self._velocity, self._buffers):
            tensors.update({name: tensor.to(device=device) for name, tensor in tensors.items()})
        self._groups = grouped(self._live, self._average, self._velocity)
        return self

    def __repr__(self) -> str:
        weights = sum(average.numel() for average in self._average.values())
        return f"Belay({self._oscillator}, update_every={self._update_every}, steps={self.steps}, weights={weights})"

    def _warmed(self) -> Oscillator:
        """The oscillator of this update: during warm-up one with a shorter memory and the same damping ratio."""
        full = self._per_update
        if self.steps >= self._warmup:
            return full
        faster = self._warmup / self.steps
        if angle := cmath.phase(full.poles[0]):
            faster = min(faster, max(1.0, 1 / angle))  # a faster swing would need a stiffness above 1
        return dataclasses.replace(dataclasses.replace(full, coupling=0.0).rescale(faster), coupling=full.coupling)

    def _live_buffers(self) -> dict[str, Tensor]:
        return buffers_at(self._owners)

    def _live_tensors(self) -> dict[str, Tensor]:
        return {**self._live, **self._live_buffers()}

    def _check_not_replaced(self) -> None:
        present = parameters_of(self._model)
        replaced = [name for name, live in self._live.items() if present.get(name) is not live]
        if replaced:
            raise RuntimeError(
                f"the model must keep the parameters that are averaged, replaced: {few(replaced)}; make a new Belay."
            )


def _per_update(oscillator: Oscillator, update_every: int, warmup: int) -> Oscillator:
    """The oscillator of one update, of several steps each, if it goes with these options."""
    if not isinstance(oscillator, Oscillator):
        raise TypeError(f"`oscillator` must be a belay.Oscillator, got {type(oscillator).__name__}.")
    if warmup and oscillator.damping > 1:
        raise ValueError(f"`warmup` needs a damping of at most 1, got {oscillator}.")
    try:
        return oscillator.rescale(update_every)
    except ValueError as error:
        raise ValueError(f"`update_every` must suit the oscillator, got {update_every=}: {error}") from error


@torch.inference_mode(False)  # tensors made in inference mode cannot be updated outside it
def _start(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy of a weight to average from, in the dtype asked for; complex numbers keep their own."""
    if weight.is_complex():
        dtype = weight.dtype
    elif dtype is None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


def _share(oscillator: Oscillator) -> float:
    """Stiffness of the EMA of the oscillator's lag; 1, an EMA without memory, where that lag is negative."""
    return min(1.0, oscillator.stiffness / oscillator.damping)
