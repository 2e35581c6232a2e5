"""The tensors of an average: groups that one call updates, cut into blocks that bound its temporaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from belay.shards import local

BLOCK = 1 << 17  # weights a core updates together: with averages and velocities they stay in its cache
CHUNK = 1 << 24  # weights another device updates together: bounds the memory of temporaries without costing launches

Lists = tuple[list[Tensor], list[Tensor], list[Tensor] | None]  # model weights, averages, velocities


@dataclasses.dataclass(slots=True)
class Group:
    """Tensors of one kind; the lists are made once, not each step. Of sharded tensors they hold this process's parts.

    Attributes:
        live: Model weights, all of one dtype and device.
        average: Averages, shaped like them, all of one dtype and device.
        velocity: Velocities, like the averages; None where damping is 1.
        infinite: Whether averages hold infinite values, which become what the weights are.
        dense: Whether weights and averages lie in memory alike and without gaps, see `is_dense`.
    """

    live: list[Tensor] = dataclasses.field(default_factory=list)
    average: list[Tensor] = dataclasses.field(default_factory=list)
    velocity: list[Tensor] | None = None
    infinite: bool = False
    dense: bool = False
    _blocks: list[Lists] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles leave the blocks out: they are views, which a copied Parameter no longer shares."""
        return Group, (self.live, self.average, self.velocity, self.infinite, self.dense)

    def blocks(self) -> list[Lists]:
        """The same weights in lists of at most a block each: views of parts of large tensors, small tensors together.

        A row of a larger tensor with gaps, and a tensor of another class than torch's, are not cut.
        """
        if self._blocks is None:
            device = self.average[0].device.type
            size = BLOCK * torch.get_num_threads() if device == "cpu" else CHUNK
            self._blocks = list(_filled(self._parts(size), size))
        return self._blocks

    def _parts(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """A weight, its average and its velocity (if any), or the same part of each."""
        lists = [self.live, self.average] + ([] if self.velocity is None else [self.velocity])
        for tensors in zip(*lists, strict=True):
            if tensors[0].numel() <= size or not all(map(_is_plain, tensors)):
                yield tensors
                continue
            if all(tensor.is_contiguous() for tensor in tensors):
                tensors = tuple(tensor.view(-1) for tensor in tensors)
            rows = max(1, size * len(tensors[0]) // tensors[0].numel())
            yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def grouped(
    live: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    velocity: Mapping[str, Tensor],
    infinite: Collection[str] = (),
) -> list[Group]:
    """Sorts tensors into groups of one kind.

    Args:
        live: Model weights by name.
        average: Averages by name.
        velocity: Velocities by name; empty where damping is 1.
        infinite: Names of averages that hold infinite values.
    """
    groups: dict[object, Group] = {}
    for name in average:
        x, y = local(live[name]), local(average[name])
        v = [local(velocity[name])] if velocity else []
        dense = is_dense([x, y, *v])
        kind = (x.dtype, x.device, y.dtype, y.device, name in infinite, dense)
        if kind not in groups:
            groups[kind] = Group(velocity=[] if velocity else None, infinite=name in infinite, dense=dense)
        group = groups[kind]
        group.live.append(x)
        group.average.append(y)
        if group.velocity is not None:
            group.velocity += v
    return list(groups.values())


def is_dense(tensors: list[Tensor]) -> bool:
    """Whether torch's fused kernels may run through these: float32 or float64, contiguous, of one dtype and device."""
    dtype, device = tensors[0].dtype, tensors[0].device
    return (
        dtype in (torch.float32, torch.float64)
        and device.type in ("cpu", "cuda")
        and all(
            tensor.dtype == dtype and tensor.device == device and tensor.is_contiguous() and _is_plain(tensor)
            for tensor in tensors
        )
    )


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter)


def _filled(parts: Iterator[tuple[Tensor, ...]], size: int) -> Iterator[Lists]:
    """Puts parts together in their order, up to `size` weights a list (a larger part alone)."""
    held: list[tuple[Tensor, ...]] = []
    weights = 0
    for part in parts:
        if held and weights + part[0].numel() > size:
            yield _lists(held)
            held, weights = [], 0
        held.append(part)
        weights += part[0].numel()
    yield _lists(held)


def _lists(parts: list[tuple[Tensor, ...]]) -> Lists:
    x, y, *v = (list(tensors) for tensors in zip(*parts, strict=True))
    return x, y, v[0] if v else None
