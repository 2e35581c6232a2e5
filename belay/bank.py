"""`Bank`: any number of averages of one model in training, each with its own decay and damping, updated together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from belay import state as states
from belay import swap
from belay.advance import share_of
from belay.checks import whole
from belay.clock import Clock
from belay.finite import Nonfinite, check_nonfinite, may_average
from belay.flat import Blocks, Flats, Layout
from belay.groups import Group, grouped
from belay.model import Buffers, Model, buffers_to_average
from belay.names import owners_of
from belay.oscillator import Oscillator
from belay.shards import copy_, is_sharded
from belay.start import check_dtype, check_start, infinite_of, start
from belay.step import lerp_, step_all_

Weights = dict[str, Tensor]


class Bank:
    """K averages of one model, updated together: what K `Belay` objects keep, for less time.

    Without coupling an average leaves training alone, so that one run feeds any number of them. An update reads the
    model's weights once: about 2K + 1 accesses to memory a weight for K EMAs, and two more for each average whose
    damping is not 1. Small tensors are updated many at a time. Everything else is as `Belay` does it.

    Args:
        model: The model in training, or its wrapper, as for `Belay`.
        oscillators: Decay and damping of each average (K >= 1), in optimizer steps; coupling 0.
        update_every: Average only every n-th step (>= 1); decay and damping keep their meaning in steps.
        buffers: What averaged models get as buffers, as for `Belay`.
        warmup: Steps (>= 0) over which the memories grow, as for `Belay`.
        dtype: ``torch.float32`` or ``torch.float64`` for the averages; by default as for `Belay`.
        parameters: Which parameters to average, as ``f(name, parameter) -> bool``.
        nonfinite: What `update` does when a weight is nan or infinite, as for `Belay`.

    Attributes:
        steps: Optimizer steps that were averaged.
        skipped: Updates that were left out because of weights that were not finite.

    Raises:
        ValueError: An option is out of range, an oscillator is coupled or does not exist at `update_every`, nothing is
            left to average, or a weight is of a kind that cannot be averaged.
        TypeError: `model` or an oscillator is something else, or the model is wrapped in FSDP1.

    >>> model = nn.Linear(2, 1)
    >>> bank = Bank(model, [Oscillator.ema(0.9), Oscillator.ema(0.99), Oscillator.critical(lag=50)])
    >>> bank.update()  # after each optimizer.step() that was not skipped
    >>> for index in range(len(bank)):
    ...     with bank.average_parameters(index):
    ...         prediction = model(torch.ones(2))
    """

    def __init__(
        self,
        model: nn.Module,
        oscillators: Sequence[Oscillator],
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
        self._average: Flats  # in rows, one a member; `_named` shows them in the weights' shapes
        self._velocity: list[Flats]  # one a member, empty where damping is 1
        self._buffers: list[Weights]
        self._blocks: Blocks | None  # both made at the first update, and anew when tensors lie elsewhere
        self._groups: list[Group]
        self.steps = self.skipped = 0
        self._begin(_clocks(oscillators, every, warmup))

    # --- settings -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._clocks)

    @property
    def oscillators(self) -> tuple[Oscillator, ...]:
        """The averages' settings, in optimizer steps; assign as many new ones to change them in the middle of a run."""
        return tuple(clock.oscillator for clock in self._clocks)

    @oscillators.setter
    def oscillators(self, oscillators: Sequence[Oscillator]) -> None:
        clocks = _clocks(oscillators, self.update_every, self._clocks[0].warmup)
        if len(clocks) != len(self):
            raise ValueError(f"`oscillators` must be {len(self)}, one an average, got {len(clocks)}; make a new Bank.")
        self._set(clocks)

    @property
    def update_every(self) -> int:
        """Steps from one update to the next."""
        return self._clocks[0].update_every

    # --- in training --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def update(self) -> None:
        """Advances all averages by one optimizer step; call it after each step that was not skipped.

        Raises:
            RuntimeError: The model holds averages (a block of `average_parameters`, also another average's), or its
                parameters are not those that are averaged. Nothing has been changed.
            FloatingPointError: A weight is not finite (see `nonfinite`), or averages started at nan. Nothing has been
                changed.
        """
        self._model.check_ready()
        if self._model.moved():
            self._blocks = None
        if self._blocks is None:
            self._blocks = self._prepared()
        if not self.steps:
            check_start(self._nonfinite, self._row(0), self._groups, self._sharded)
        if not self._clocks[0].due(self.steps + 1):
            self.steps += 1
            return
        weights = self._model.weights
        if not may_average(self._nonfinite, self._groups, self._sharded, weights, self._infinite, self.steps):
            self.skipped += 1
            return
        self.steps += 1
        self._advance(self._blocks)

    def reset(self) -> None:
        """Starts again from the model as it is now: its parameters, weights and buffers, no velocity, no steps.

        Raises:
            RuntimeError: The model holds averages.
            ValueError: Nothing is left to average. Nothing has been changed.
        """
        swap.check_outside("reset", self._model.weights.values())
        self._model.refresh()
        self.steps = self.skipped = 0
        self._begin(self._clocks)

    # --- the averages in use ------------------------------------------------------------------------------------------

    @contextmanager
    def average_parameters(self, index: int, readout: float = 1.0) -> Iterator[None]:
        """Puts one of the averages into the model for the length of a ``with`` block; see `Belay.average_parameters`.

        Args:
            index: Which one, in the order of `oscillators`, from 0. Blocks inside each other must show the same.
            readout: What is shown, ``y + (1 - readout) (x - y)``: 1 the averages, 0 the model's own weights.

        Raises:
            RuntimeError: A parameter of the model has been replaced, or another average or thread has a block open on
                the same weights.
            ValueError: There is no such average, or `readout` is not finite.
        """
        index = self._checked(index)
        with self._model.showing(lambda: self._averages(index), readout, index):
            yield

    @torch.no_grad()
    def averaged_state_dict(self, index: int) -> dict[str, Any]:
        """One averaged model's tensors by name, as ``load_state_dict`` of the unwrapped model takes them: copies."""
        return self._model.copies(self._averages(self._checked(index)))

    @torch.no_grad()
    def copy_to(self, model: nn.Module, index: int) -> None:
        """Copies one of the averages into `model`, as `Belay.copy_to` does.

        Args:
            model: A module with the same parameter and buffer names and shapes; tied alike.
            index: Which one, in the order of `oscillators`, from 0.

        Raises:
            ValueError: There is no such average, or names or shapes differ; nothing has been changed.
            RuntimeError: A parameter of the model in training has been replaced, or `model` holds averages itself.
        """
        self._model.copy_averages(model, self._averages(self._checked(index)))

    # --- saving and loading -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: under "averages" a state for each, as `Belay.load_state_dict` takes.

        Tensors (not copies) and plain values, safe for ``weights_only``. All averages share their memory, so that
        ``torch.save`` of one writes all: clone its tensors first.
        """
        swap.warn_inside(self._model)
        return {
            "version": states.VERSION,
            "averages": [
                states.state_of(clock, self.steps, self._row(index), self._named(v), buffers)
                for index, (clock, v, buffers) in enumerate(
                    zip(self._clocks, self._velocity, self._buffers, strict=True)
                )
            ],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state of as many averages; as with `Belay`, its settings replace those given here.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: It is not such a state, its number of averages, names or shapes differ, or its dtype holds more
                than ours; nothing has been changed.
        """
        loaded = [
            states.fitted(one, self._row(index), self._buffers[index])
            for index, one in enumerate(states.checked_bank(state, len(self)))
        ]
        for one in loaded:
            _check_uncoupled(one.clock.oscillator)
        self.steps = loaded[0].steps
        self._set([one.clock for one in loaded])
        for index, one in enumerate(loaded):
            copy_(self._row(index), one.tensors["average"])
            copy_(self._named(self._velocity[index]), one.tensors["velocity"])
            copy_(self._buffers[index], one.tensors["buffers"])
        self._arrange()

    def to(self, device: torch.device | str | int) -> Bank:
        """Moves the averages to a device and returns self; the model may be elsewhere, for a transfer every update."""
        self._average = [flat.to(device=device) for flat in self._average]
        self._velocity = [[flat.to(device=device) for flat in flats] for flats in self._velocity]
        for buffers in self._buffers:
            buffers.update({name: tensor.to(device=device) for name, tensor in buffers.items()})
        self._blocks = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": None, "_groups": []}  # views of other tensors, which a copy would cut off

    def __repr__(self) -> str:
        weights = sum(flat.shape[1] for flat in self._average)
        return f"Bank({len(self)} oscillators, update_every={self.update_every}, steps={self.steps}, weights={weights})"

    # --- inside -------------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.no_grad()
    def _begin(self, clocks: Sequence[Clock]) -> None:
        """Starts all averages at the model's weights, and those of its averaged buffers."""
        averages = {name: start(weight, self._dtype) for name, weight in self._model.weights.items()}
        self._infinite = infinite_of(averages)
        self._layout = Layout(averages, self._infinite)
        self._average = [flat.repeat(len(clocks), 1) for flat in self._layout.filled(averages)]
        buffers = self._model.averaged_buffers()
        self._buffers = [{name: start(buffer, self._dtype) for name, buffer in buffers.items()} for _ in clocks]
        owners = owners_of(self._model.module)
        self._owners = {name: owners[name] for name in buffers}
        self._velocity = [[] for _ in clocks]
        self._set(clocks)

    @torch.inference_mode(False)
    def _set(self, clocks: Sequence[Clock]) -> None:
        """Takes settings; velocities are made where damping is no longer 1, and dropped where it is now."""
        self._clocks = list(clocks)
        self._velocity = [
            (v or [torch.zeros_like(y[0]) for y in self._average]) if clock.moving else []
            for clock, v in zip(clocks, self._velocity, strict=True)
        ]
        self._blocks = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def _arrange(self) -> None:
        """Lays averages out anew if others than before hold infinite values."""
        averages, velocities = [self._row(index) for index in range(len(self))], list(map(self._named, self._velocity))
        infinite = set().union(*map(infinite_of, averages))
        if infinite != self._infinite:
            self._infinite, self._layout = infinite, Layout(averages[0], infinite)
            rows = [self._layout.filled(average) for average in averages]
            self._average = [torch.stack(kind) for kind in zip(*rows, strict=True)]
            self._velocity = [self._layout.filled(velocity) if velocity else [] for velocity in velocities]
            self._blocks = None

    def _prepared(self) -> Blocks:
        """Finds the weights where they are now."""
        weights = self._model.weights
        self._groups = grouped(weights, self._row(0), {}, self._infinite)
        self._sharded = any(map(is_sharded, weights.values()))
        return Blocks(self._layout, weights, self._average, self._velocity)

    def _advance(self, blocks: Blocks) -> None:
        oscillators = [clock.at(self.steps) for clock in self._clocks]
        for clock, velocity in zip(self._clocks, self._velocity, strict=True):
            if velocity and (slowing := clock.slowing(self.steps)) != 1:
                for flat in velocity:
                    flat.mul_(slowing)
        for block in blocks:
            step_all_(block.x, block.y, block.v, oscillators, block.infinite)
        for oscillator, buffers in zip(oscillators, self._buffers, strict=True):
            if live := buffers_to_average(self._owners, buffers, self._dtype):
                lerp_(list(live.values()), [buffers[name] for name in live], share_of(oscillator))

    def _named(self, flats: Flats) -> Weights:
        return self._layout.named(flats, self._model.weights)

    def _row(self, index: int) -> Weights:
        return self._named([flat[index] for flat in self._average])

    def _averages(self, index: int) -> Weights:
        return {**self._row(index), **self._buffers[index]}

    def _checked(self, index: int) -> int:
        if whole("index", index, least=0) >= len(self):
            raise ValueError(f"`index` must be below {len(self)}, the number of averages, got {index=}.")
        return index


def _clocks(oscillators: Sequence[Oscillator], update_every: int, warmup: int) -> list[Clock]:
    if isinstance(oscillators, Oscillator):
        raise TypeError("`oscillators` must be a sequence of Oscillators, got a single one; put it into a list.")
    clocks = [Clock(oscillator, update_every, warmup) for oscillator in oscillators]
    if not clocks:
        raise ValueError("`oscillators` must hold at least one, got none.")
    for clock in clocks:
        _check_uncoupled(clock.oscillator)
    return clocks


def _check_uncoupled(oscillator: Oscillator) -> None:
    if oscillator.coupling:
        raise ValueError(
            f"`oscillators` must have coupling 0, as one run follows one pull only, got {oscillator}; train it alone "
            "with Belay."
        )
