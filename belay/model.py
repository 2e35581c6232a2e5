"""The model in training: which of its tensors are averaged, and how averages are put into it or into its like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from operator import attrgetter, is_
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from belay import swap
from belay.checks import real
from belay.names import (
    Owner,
    buffers_at,
    check_alike,
    check_model,
    extra_states_of,
    few,
    fitting,
    owners_of,
    parameters_of,
    reshard,
    unwrap,
)
from belay.shards import clones, copy_, is_sharded, local
from belay.start import start

Policy = Literal["copy", "average", "ignore"]
Buffers = Policy | Callable[[str, Tensor], Policy]
Chosen = Callable[[str, nn.Parameter], bool]

STATISTICS = ("running_mean", "running_var")  # attributes of normalisation layers: means over batches
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


class Model:
    """A model's averaged weights and buffers by name; the options are those of `belay.Belay`.

    Args:
        module: The model in training.
        buffers: What averaged models get as buffers.
        parameters: Which parameters are averaged.
    """

    def __init__(self, module: nn.Module, buffers: Buffers, parameters: Chosen | None) -> None:
        if not callable(buffers) and buffers not in get_args(Policy):
            raise ValueError(f"`buffers` must be one of {', '.join(get_args(Policy))} or a function, got {buffers=}.")
        check_model(module)
        self.module = unwrap(module)
        self._policy, self._chosen = buffers, parameters
        self._known_places: tuple[list[int], list[torch.dtype]] = [], []
        self.refresh()

    def refresh(self, coupled: bool = False) -> None:
        """Takes the model's parameters as they are now.

        Args:
            coupled: Whether the average pulls them, so that no two of them may share memory.

        Raises:
            ValueError: Nothing is left to average, or a weight cannot be averaged; nothing has been changed.
        """
        found = self._found()
        if coupled:
            _check_apart(found)
        self.weights = found
        self._remember()

    def check_whole(self) -> None:
        """Raises RuntimeError if a module or parameter was added, removed or replaced since `refresh`.

        Costs about 0.2 microseconds a module and parameter.
        """
        if not self._same_objects():
            reshard(self.module)  # FSDP2 puts whole weights in the place of its shards for a while
            if not self._same_objects():
                raise RuntimeError(
                    "the model must keep its modules and parameters while it is averaged, got "
                    f"{self._difference()}; call `reset()` to start again from the model as it is, or Belay's "
                    "`add_parameters()` to go on with it."
                )

    def check_ready(self) -> None:
        """Raises RuntimeError if the model holds averages, or is not the one that is averaged."""
        if swap.OPEN:
            swap.check_outside("update", self.weights.values())
        self.check_whole()

    def moved(self) -> bool:
        """Whether weights lie elsewhere in memory than at the last call: moved, converted, or given other storage.

        Raises:
            RuntimeError: One has another shape than before.
        """
        places = self._places()
        if places == self._known_places:
            return False
        if wrong := [name for name, weight in self.weights.items() if weight.shape != self._shapes[name]]:
            raise RuntimeError(
                f"weights must keep their shapes while they are averaged, changed: {few(wrong)}; call `reset()` to "
                "start again from the model as it is (DeepSpeed's ZeRO-3, which empties them, cannot be averaged)."
            )
        self._known_places = places
        return True

    def half_precision(self) -> list[str]:
        """Names of the weights that have fewer than 32 bits a number."""
        return [name for name, weight in self.weights.items() if weight.dtype in (torch.float16, torch.bfloat16)]

    def check_pulled_once(self) -> None:
        """Raises ValueError if two weights share memory, which coupling would pull twice."""
        _check_apart(self.weights)

    def buffers(self) -> dict[str, Tensor]:
        """The buffers that go with the averages, as they are now: a move or a conversion replaces them."""
        return {
            name: buffer
            for name, buffer in buffers_at(owners_of(self.module)).items()
            if self._policy_of(name, buffer) != "ignore"
        }

    def averaged_buffers(self) -> dict[str, Tensor]:
        """Those of them that are averaged."""
        return {
            name: buffer
            for name, buffer in buffers_at(owners_of(self.module)).items()
            if self._policy_of(name, buffer) == "average"
        }

    @contextmanager
    def showing(self, averages: Callable[[], Mapping[str, Tensor]], readout: float, index: int = 0) -> Iterator[None]:
        """Puts averages into the model for the length of a ``with`` block, then restores a copy of what was there.

        Args:
            averages: What gives them.
            readout: What is shown, ``y + (1 - readout) (x - y)``.
            index: Which of several averages of this model they are.

        Raises:
            RuntimeError: A parameter was replaced, or another block has the weights.
            ValueError: `readout` is not finite.
        """
        if not math.isfinite(readout := real("readout", readout)):
            raise ValueError(f"`readout` must be finite, got {readout=}.")
        self.check_whole()
        with swap.claim(self, list(self.weights.values()), readout, index) as first:
            if not first:
                yield
                return
            buffers = clones(self.buffers())
            owners = owners_of(self.module)
            weights = clones(self.weights)
            try:
                targets = {**self.weights, **self.buffers()}
                copy_(targets, fitting(targets, self._blended(averages(), readout)))
                _forget_cached_weights()
                yield
            finally:
                reshard(self.module)
                _restore(self.weights, weights)
                _restore_buffers({name: owners[name] for name in buffers}, buffers)
                _forget_cached_weights()

    def copy_averages(self, model: nn.Module, averages: Mapping[str, Tensor]) -> None:
        """Copies averages into `model`, and what is not averaged from the model in training.

        Raises:
            ValueError: Names or shapes differ; nothing has been changed.
            RuntimeError: A parameter of the model in training has been replaced, or `model` holds averages itself.
        """
        self.check_whole()
        check_model(model)
        target = unwrap(model)
        ours, theirs = parameters_of(self.module, tied=True), parameters_of(target, tied=True)
        swap.check_outside("copy_to", theirs.values())
        check_alike("model", "the averaged model's parameters", ours, theirs)
        held = self.buffers()
        buffers = buffers_at(owners_of(target)) if held else {}
        check_alike(
            "model", "the averaged model's buffers", held, {name: b for name, b in buffers.items() if name in held}
        )
        averaged = self._averaged(averages)
        copy_(theirs, {name: averaged(live) for name, live in ours.items()})
        copy_(buffers, {name: averaged(live) for name, live in held.items()})

    def copies(self, averages: Mapping[str, Tensor]) -> dict[str, Any]:
        """What an averaged model's ``state_dict`` holds, in the model's own dtypes; buffers that are ignored are not.

        Raises:
            RuntimeError: A parameter of the model has been replaced.
        """
        self.check_whole()
        averaged, kept = self._averaged(averages), {id(buffer) for buffer in self.buffers().values()}
        buffers = buffers_at(owners_of(self.module, tied=True))
        live = {
            **parameters_of(self.module, tied=True),
            **{name: buffer for name, buffer in buffers.items() if id(buffer) in kept},
        }
        tensors = {name: averaged(tensor).detach().to(tensor.dtype, copy=True) for name, tensor in live.items()}
        return tensors | extra_states_of(self.module)

    def call(self, averages: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The model's output with averages in place of its weights, which stay as they are.

        Raises:
            RuntimeError: The weights are sharded.
        """
        if self._sharded:
            raise RuntimeError(
                "an average must hold whole weights to be called, got shards; use `average_parameters`, or `copy_to` a "
                "model of its own."
            )
        averaged, weights = self._averaged(averages), self.module.named_parameters(remove_duplicate=False)
        values = {name: averaged(live).to(live.device, live.dtype) for name, live in weights}
        kept = {
            name: averaged(live).to(live.device, live.dtype, copy=True) for name, live in self.module.named_buffers()
        }
        _forget_cached_weights()  # the student's, and then the teacher's
        try:
            return torch.func.functional_call(self.module, {**values, **kept}, args, kwargs)
        finally:
            _forget_cached_weights()

    def _averaged(self, averages: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """What gives the average of one of the model's tensors; the tensor itself where it has none of its shape."""
        live = {**self.weights, **self.averaged_buffers()}
        found = {id(live[name]): average for name, average in fitting(live, averages).items()}
        return lambda tensor: found.get(id(tensor), tensor)

    @torch.no_grad()
    def _blended(self, averages: Mapping[str, Tensor], readout: float) -> Mapping[str, Tensor]:
        if readout == 1:
            return averages
        live = {**self.weights, **self.averaged_buffers()}  # a buffer may be gone, and be none by now
        pairs = {name: (y, live[name].to(y.device, y.dtype)) for name, y in averages.items() if name in live}
        return {name: torch.where(y == x, y, y.lerp(x, 1 - readout)) for name, (y, x) in pairs.items()}  # inf - inf

    def _found(self) -> dict[str, nn.Parameter]:
        found = {
            name: parameter
            for name, parameter in parameters_of(self.module).items()
            if (parameter.is_floating_point() or parameter.is_complex())
            and (self._chosen is None or self._chosen(name, parameter))
        }
        for name, parameter in found.items():
            _check_weight(name, parameter)
        if not sum(parameter.numel() for parameter in found.values()):
            raise ValueError(
                "`model` must have floating-point parameters to average, got none that `parameters` keeps."
            )
        return found

    def _remember(self) -> None:
        """Keeps what `check_whole` and `moved` compare with."""
        self._held = [
            (held, tuple(held.values()))
            for module in self.module.modules()
            for held in (module._parameters, module._modules)
        ]
        self._sharded = any(map(is_sharded, self.weights.values()))
        self._shapes = {name: weight.shape for name, weight in self.weights.items()}
        self._known_places = self._places()

    def _same_objects(self) -> bool:
        for held, values in self._held:
            if len(held) != len(values) or not all(map(is_, held.values(), values)):
                return False
        return True

    def _places(self) -> tuple[list[int], list[torch.dtype]]:
        weights = list(self.weights.values())
        parts = list(map(local, weights)) if self._sharded else weights
        return list(map(Tensor.data_ptr, parts)), list(map(attrgetter("dtype"), parts))

    def _difference(self) -> str:
        """What was added, removed or replaced, in a few names."""
        present = parameters_of(self.module)
        replaced = [name for name, weight in self.weights.items() if name in present and present[name] is not weight]
        gone = self.weights.keys() - present.keys()
        held = {id(value) for _, values in self._held for value in values}
        added = [name for name, parameter in present.items() if id(parameter) not in held and name not in replaced]
        found = [f"{what} {few(names)}" for what, names in
                 (("replaced", replaced), ("removed", gone), ("added", added)) if names]  # fmt: skip
        return ", ".join(found) or "other modules"

    def _policy_of(self, name: str, buffer: Tensor) -> Policy:
        if callable(self._policy):
            chosen = self._policy(name, buffer)
            if chosen not in get_args(Policy):
                raise ValueError(
                    f"`buffers` must return one of {', '.join(get_args(Policy))}, got {chosen!r} for {name}."
                )
            if chosen == "average" and not buffer.is_floating_point():
                raise ValueError(
                    f'`buffers` must average floating-point buffers only, got {name} in {buffer.dtype}; return "copy".'
                )
            return chosen
        if self._policy == "average" and not (buffer.is_floating_point() and name.rpartition(".")[2] in STATISTICS):
            return "copy"
        return self._policy


def buffers_to_average(
    owners: Mapping[str, Owner], kept: dict[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The model's buffers that are averaged; the average of one that has another shape by now starts again.

    Args:
        owners: Where the buffers are; one that is gone waits.
        kept: Their averages by name.
        dtype: What averages start in.
    """
    live = buffers_at(owners)
    for name, buffer in live.items():
        if buffer.shape != kept[name].shape:
            kept[name] = start(buffer, dtype)
    return live


def _check_weight(name: str, weight: nn.Parameter) -> None:
    """Raises ValueError if a weight cannot be averaged."""
    if hasattr(weight, "ds_id"):
        raise ValueError(
            f"`model` must hold its weights, got {name}, which DeepSpeed's ZeRO-3 has taken away; average under "
            "ZeRO-1 or ZeRO-2, or under FSDP2."
        )
    if weight.is_meta or isinstance(weight, UninitializedParameter):
        raise ValueError(
            f"`model` must have its weights before they are averaged, got {name} without; make the average "
            "after `to_empty` and loading, or after a first forward pass of lazy modules."
        )
    if weight.dtype not in DTYPES:
        raise ValueError(
            f"`model` must have weights of {', '.join(str(dtype)[6:] for dtype in DTYPES)}, got {name} in "
            f"{weight.dtype}; leave it out by `parameters`."
        )


def _check_apart(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError if two weights share memory."""
    taken: dict[tuple[torch.device, int], list[tuple[int, int, str]]] = {}
    for name, weight in weights.items():
        part = local(weight)
        if part.numel() and not part.is_meta:
            reach = 1 + sum((int(size) - 1) * int(step) for size, step in zip(part.shape, part.stride(), strict=True))
            first = int(part.storage_offset()) * part.element_size()
            span = (first, first + reach * part.element_size(), name)
            taken.setdefault((part.device, part.untyped_storage().data_ptr()), []).append(span)
    for spans in taken.values():
        spans.sort()
        for (_, end, name), (begin, _, other) in pairwise(spans):
            if begin < end:
                raise ValueError(
                    f"coupled weights must not share memory, as both would be pulled, got {name} and {other}; make "
                    "them one Parameter, or leave one out by `parameters`."
                )


def _forget_cached_weights() -> None:
    """Drops the copies of weights that autocast and `parametrize.cached` keep, which would show those of before."""
    torch.clear_autocast_cache()
    parametrize._cache.clear()


@torch.no_grad()
def _restore(weights: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    """Puts weights back, also where one has another shape by now."""
    same = {name: tensor for name, tensor in saved.items() if weights[name].shape == tensor.shape}
    copy_(weights, same)
    for name in saved.keys() - same.keys():
        weights[name].data = saved[name]


@torch.no_grad()
def _restore_buffers(owners: Mapping[str, tuple[nn.Module, str]], saved: Mapping[str, Tensor]) -> None:
    """Puts buffers back, also where one was replaced, dropped or has another shape by now."""
    present = {name: owners[name][0]._buffers.get(owners[name][1]) for name in saved}
    same = {
        name: buffer for name, buffer in present.items() if buffer is not None and buffer.shape == saved[name].shape
    }
    copy_(same, {name: saved[name] for name in same})
    for name in saved.keys() - same.keys():
        owner, attribute = owners[name]
        owner._buffers[attribute] = saved[name]
