"""`Belay`: averaged weights beside a model in training; coupled, they pull the model back or push it on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from belay import state as states
from belay import swap
from belay.advance import advance_, advance_compiled_, settings_of
from belay.checks import whole
from belay.clock import Clock
from belay.finite import Nonfinite, check_nonfinite, may_average
from belay.groups import grouped
from belay.model import Buffers, Model, buffers_to_average
from belay.names import check_alike, few, fitting, owners_of, unwrapped
from belay.oscillator import Oscillator
from belay.shards import copy_, is_sharded
from belay.start import check_dtype, check_start, infinite_of, start
from belay.step import scale_

Weights = dict[str, Tensor]


class Belay:
    """Averages a model's weights while it trains: EMA, damped average or BELAY, by the oscillator it is given.

    Every floating-point or complex parameter is averaged: tied ones once, frozen ones too (their average equals them).
    Integer parameters are never touched. The average starts at the weights the model has now: load weights first, or
    call `reset` afterwards. It refers to its model: pickle or deepcopy both together, as a pickle of the average alone
    contains a second copy of the model.

    Args:
        model: The model in training, or its wrapper: of a compiled, DistributedDataParallel, DataParallel or
            activation-checkpointed one the module inside is averaged; with FSDP2 and tensor parallelism each process
            averages its own shards. It may be moved and converted later; `to` moves the averages.
        oscillator: Decay, damping and coupling, in optimizer steps. With coupling, the average moves half-precision
            weights only where its pull exceeds their rounding: in bfloat16 0.2 to 0.4 % of the weight.
        update_every: Average only every n-th step (>= 1); decay, damping and coupling keep their meaning in steps.
        buffers: What the averaged model gets as the buffers that a checkpoint holds: "copy" the model's latest;
            "average" the average of running means and variances (BatchNorm's), by the EMA of equal lag (whose weights
            are all positive, so that variances stay positive), and the latest of the others; "ignore" none of them:
            `copy_to` leaves those of its target. Or a function ``f(name, buffer)`` that returns one of the three.
        warmup: Steps (>= 0) over which the memory grows in proportion to the steps done, from none to its full length,
            so that a poor start is forgotten early; needs damping <= 1. At least ``1 / (1 - decay)`` steps remove the
            start: at decay 0.999, a warm-up of 1,000 steps leaves 5 % of it at step 10 and 0.06 % at step 1,000, one of
            10 steps 36 % there. An underdamped average overshoots further than without: by up to 0.2 of the start, from
            a damping ratio of 0.2 on by up to 0.12.
        dtype: ``torch.float32`` or ``torch.float64`` for the averages; by default the weights' own, and float32 for
            half precision, in which an average would stand still. A float32 average stands still where
            ``(1 - decay) |x - y|`` is below ``3e-8 |y|``: at decay 0.9999 and above, slowly moving weights need
            ``torch.float64`` or a larger `update_every`. Complex averages keep the weights' own.
        parameters: Which parameters to average, as ``f(name, parameter) -> bool``; all others keep their live values.
            ``lambda name, parameter: parameter.requires_grad`` saves the memory of a frozen backbone.
        nonfinite: What `update` does when a weight is nan or infinite: "raise" a FloatingPointError before anything is
            changed; "skip" the update and count it in `skipped`; "propagate" it into the average, unchecked. The check
            reads the weights once more and waits for the device. Infinite values that the average started with
            (masks) stay as they are.

    Attributes:
        steps: Optimizer steps that were averaged.
        skipped: Updates that were left out because of weights that were not finite.

    Raises:
        ValueError: An option is out of range, the oscillator does not exist at `update_every` (see
            `Oscillator.rescale`), nothing is left to average, or a weight is of a kind that cannot be averaged.
        TypeError: `model` or `oscillator` is something else, or the model is wrapped in FSDP1.

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
        nonfinite: Nonfinite = "raise",
    ) -> None:
        check_dtype(dtype)
        check_nonfinite(nonfinite)
        every, warmup = whole("update_every", update_every, least=1), whole("warmup", warmup, least=0)
        self._dtype, self._nonfinite = dtype, nonfinite
        self._model = Model(model, buffers, parameters)
        self._average: Weights = {}
        self._velocity: Weights = {}
        self._buffers: Weights = {}
        self._infinite: set[str] = set()
        self.steps = self.skipped = 0
        self._begin(self._model.weights)
        self._start(Clock(oscillator, every, warmup))
        self._warn_of_rounding()

    # --- settings -----------------------------------------------------------------------------------------------------

    @property
    def oscillator(self) -> Oscillator:
        """The average's settings, in optimizer steps; assign a new one to change them in the middle of a run."""
        return self._clock.oscillator

    @oscillator.setter
    def oscillator(self, oscillator: Oscillator) -> None:
        before = self._clock.oscillator
        self._change(dataclasses.replace(self._clock, oscillator=oscillator))
        if not before.coupling:
            self._warn_of_rounding()

    @property
    def update_every(self) -> int:
        """Steps from one update to the next; assign another to change it in the middle of a run."""
        return self._clock.update_every

    @update_every.setter
    def update_every(self, steps: int) -> None:
        before = self._clock.update_every
        self._change(dataclasses.replace(self._clock, update_every=whole("update_every", steps, least=1)))
        scale_(self._groups, steps / before)  # a velocity is a distance an update

    # --- in training --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def update(self) -> None:
        """Advances the average by one optimizer step; call it after each step that was not skipped.

        It may be called in compiled code; in one whole graph with ``nonfinite="propagate"`` alone, as the check waits
        for the device. The average must come there as an argument or in a closure: torch takes a global one's step for
        a constant and compiles each step anew. The numbers are those of eager code, in a warm-up too. Compiled code
        does not look whether the model holds averages, or whether its parameters were replaced.

        Raises:
            RuntimeError: The model holds averages (a block of `average_parameters`, also another average's), or its
                parameters are not those that are averaged. Nothing has been changed.
            FloatingPointError: A weight is not finite (see `nonfinite`), or the average started at nan. Nothing has
                been changed.
        """
        compiling = torch.compiler.is_compiling()  # compiled code holds the tensors themselves
        if not compiling:
            self._model.check_ready()
            if self._model.moved():
                self._group()
            if not self.steps:
                check_start(self._nonfinite, self._average, self._groups, self._sharded)
        if not self._clock.due(self.steps + 1):
            self.steps += 1
            return
        weights = self._model.weights
        if not may_average(self._nonfinite, self._groups, self._sharded, weights, self._infinite, self.steps):
            self.skipped += 1
            return
        self.steps += 1
        live = buffers_to_average(self._owners, self._buffers, self._dtype) if self._buffers else {}
        buffers = list(live.values()), [self._buffers[name] for name in live]
        if compiling:
            advance_compiled_(self._groups, *buffers, self._clock, self._settings, self.steps)
        else:
            advance_(self._groups, *buffers, self._clock, self.steps)

    def reset(self) -> None:
        """Starts again from the model as it is now: its parameters, weights and buffers, no velocity, no steps.

        For weights that were loaded after the average was made, for layers that were replaced, for a model that was
        repaired after its weights had become nan.

        Raises:
            RuntimeError: The model holds averages.
            ValueError: Nothing is left to average. Nothing has been changed.
        """
        swap.check_outside("reset", self._model.weights.values())
        self._model.refresh(coupled=self.oscillator.coupling != 0)
        self._average, self._velocity, self._buffers = {}, {}, {}
        self.steps = self.skipped = 0
        self._begin(self._model.weights)
        self._start(self._clock)

    def add_parameters(self) -> list[str]:
        """Goes on with the model's parameters as they are now: adapters or layers that were added, or replaced.

        Averages are kept where a parameter of the same name and shape exists, also if it is another object (as after
        ``load_state_dict(assign=True)``); new ones start at the weights they have; those of removed ones are dropped.

        Returns:
            The names whose averages are new.

        Raises:
            RuntimeError: The model holds averages.
            ValueError: Nothing is left to average. Nothing has been changed.
        """
        swap.check_outside("add_parameters", self._model.weights.values())
        self._model.refresh(coupled=self.oscillator.coupling != 0)
        weights = self._model.weights
        kept = {name for name, weight in weights.items()
                if name in self._average and self._average[name].shape == weight.shape}  # fmt: skip
        new = {name: weight for name, weight in weights.items() if name not in kept}
        self._average = {name: self._average[name] for name in kept}
        self._velocity = {name: tensor for name, tensor in self._velocity.items() if name in kept}
        self._begin(new)
        self._average = {name: self._average[name] for name in weights}  # in the model's order
        self._start(self._clock)
        return list(new)

    # --- the averages in use ------------------------------------------------------------------------------------------

    @contextmanager
    def average_parameters(self, readout: float = 1.0) -> Iterator[None]:
        """Puts the averages into the model for the length of a ``with`` block, then restores a copy of what was there.

        The model's own weights and (unless ignored) the buffers that a checkpoint holds come back bit for bit, also
        after an exception, and whatever values the block gave them; a conversion (``model.half()``) or a parameter that
        it replaced stays. Blocks of one average may be nested. What autocast and `parametrize.cached` keep
        of the weights is dropped at both ends. ``model.state_dict()`` taken inside shows live tensors, which hold the
        model's own weights again after the block: `averaged_state_dict` returns copies that last. A schedule-free
        optimizer swaps the weights too: do not call its ``eval()`` or ``train()`` inside.

        Args:
            readout: What is shown, ``y + (1 - readout) (x - y)``: 1 the averages, 0 the model's own weights.

        Raises:
            RuntimeError: A parameter of the model has been replaced since this average was made, or another average or
                thread has a block open on the same weights.
            ValueError: `readout` is not finite.
        """
        with self._model.showing(lambda: {**self._average, **self._buffers}, readout):
            yield

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged model's output, without gradients: a teacher between a student's forward and backward pass.

        The model and its buffers stay as they are. It runs in the mode (training or evaluation) that the model is in.

        Raises:
            RuntimeError: The weights are sharded, or a parameter of the model has been replaced.
        """
        self._model.check_whole()
        return self._model.call({**self._average, **self._buffers}, *args, **kwargs)

    @torch.no_grad()
    def averaged_state_dict(self) -> dict[str, Any]:
        """The averaged model's tensors by name, as ``load_state_dict`` of the unwrapped model takes them: copies.

        In the model's own dtypes; ``state_dict()["average"]`` has the averages in theirs. With ``buffers="ignore"``
        those of the model it is loaded into stay: give ``strict=False``.
        """
        return self._model.copies({**self._average, **self._buffers})

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Copies the averages into `model`: a copy of the one in training, or that one, which loses its own weights.

        What is not averaged (filtered or integer parameters) is copied from the model in training; buffers too, unless
        they are ignored. Either may be sharded, in another way than the other: all processes must call this then.

        Args:
            model: A module with the same parameter and buffer names and shapes; tied alike.

        Raises:
            ValueError: Names or shapes differ; nothing has been changed.
            RuntimeError: A parameter of the model in training has been replaced, or `model` holds averages itself.
        """
        self._model.copy_averages(model, {**self._average, **self._buffers})

    # --- saving and loading -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: tensors (not copies) and plain values, safe for ``weights_only``.

        Warns inside `average_parameters`, where a checkpoint of the model would hold its averages in place of its
        weights.
        """
        swap.warn_inside(self._model)
        return states.state_of(self._clock, self.steps, self._average, self._velocity, self._buffers)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> list[str]:
        """Continues from a saved state; as with torch's optimizers, its settings replace those given here.

        Averages keep this object's dtype, device and sharding. To go on with other settings, assign `oscillator` or
        `update_every` afterwards.

        Args:
            state: What `state_dict` returned.
            strict: Whether names and shapes must all match. Otherwise averages that the state lacks, or has in another
                shape (another head), stay as they are.

        Returns:
            The names whose averages stayed as they are.

        Raises:
            ValueError: It is not such a state, its names or shapes differ, or its dtype holds more than ours; nothing
                has been changed.
        """
        clock, steps, tensors = states.fitted(states.checked(state), self._average, self._buffers, strict)
        self._change(clock)
        self.steps = steps
        copy_(self._average, tensors["average"])
        copy_(self._velocity, tensors["velocity"])
        copy_(self._buffers, tensors["buffers"])
        self._infinite = infinite_of(self._average)
        self._group()
        return [name for name in self._average if name not in tensors["average"]]

    @torch.no_grad()
    def load_averages(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Continues from plain averaged weights, as other libraries save them, with no velocity.

        Args:
            weights: Tensors by name, in whatever wrappers the model was saved; further ones are left out.
            strict: Whether there must be one for each average. Otherwise those that lack one, or have one of another
                shape, stay as they are.

        Returns:
            The names whose averages stayed as they are.

        Raises:
            ValueError: It is no mapping of tensors, or names or shapes differ; nothing has been changed.
        """
        ours = {**self._average, **self._buffers}
        given = unwrapped(states.tensors("weights", weights), ours)
        kept = fitting(ours, given)
        left = [name for name in ours if name not in kept]
        if strict and left:
            found = {name: given[name] for name in ours if name in given}
            check_alike("weights", "the model's averages", ours, found)
        copy_(ours, kept)
        for velocity in self._velocity.values():
            velocity.zero_()
        self._infinite = infinite_of(self._average)
        self._group()
        return left

    def to(self, device: torch.device | str | int) -> Belay:
        """Moves the averages to a device and returns self; the model may be elsewhere, for a transfer every update.

        `reset` starts them where the model is.
        """
        for tensors in (self._average, self._velocity, self._buffers):
            tensors.update({name: tensor.to(device=device) for name, tensor in tensors.items()})
        self._group()
        return self

    def __repr__(self) -> str:
        weights = sum(average.numel() for average in self._average.values())
        return f"Belay({self.oscillator}, update_every={self.update_every}, steps={self.steps}, weights={weights})"

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, weights: Mapping[str, Tensor]) -> None:
        """Starts the averages of these weights, and those of averaged buffers that have none of their shape."""
        self._average.update({name: start(weight, self._dtype) for name, weight in weights.items()})
        buffers = self._model.averaged_buffers()
        kept = fitting(buffers, self._buffers)
        self._buffers = {
            name: kept[name] if name in kept else start(buffer, self._dtype) for name, buffer in buffers.items()
        }
        owners = owners_of(self._model.module)
        self._owners = {name: owners[name] for name in buffers}
        self._infinite = infinite_of(self._average)

    def _start(self, clock: Clock) -> None:
        """Takes settings for the averages as they are now, unless they do not go with the weights."""
        if clock.coupled:
            self._model.check_pulled_once()
        self._clock, self._settings = clock, settings_of(clock.oscillator)
        self._make_velocities()

    def _change(self, clock: Clock) -> None:
        """Takes other settings for the same averages, unless they do not go with the weights."""
        before = self._clock
        if clock.coupled and not before.coupled:
            self._model.check_pulled_once()
        self._clock, self._settings = clock, settings_of(clock.oscillator)
        if clock.moving != before.moving:
            self._make_velocities()

    def _make_velocities(self) -> None:
        """Gives each average a velocity, at rest if it has none; drops all where damping is 1."""
        self._velocity = {
            name: self._velocity[name] if name in self._velocity else start(average, None).zero_()
            for name, average in (self._average if self._clock.moving else {}).items()
        }
        self._group()

    def _group(self) -> None:
        self._groups = grouped(self._model.weights, self._average, self._velocity, self._infinite)
        self._sharded = any(map(is_sharded, self._model.weights.values()))

    def _warn_of_rounding(self) -> None:
        if self.oscillator.coupling and (half := self._model.half_precision()):
            warnings.warn(
                "an average pulls half-precision weights only where its pull exceeds their rounding, got "
                f"{few(half)}; if the optimizer keeps float32 masters, which do not feel it at all, average a module "
                "that holds those.",
                stacklevel=3,
            )
