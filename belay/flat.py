"""Averages of many weights laid out in few flat tensors, to be updated in blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from belay.shards import joined, local
from belay.step import gather_

BLOCK = (
    1 << 18
)  # weights a block on a CPU: 1 MB in float32 stays in cache; smaller blocks cost more calls than they save
LARGE_BLOCK = 1 << 22  # elsewhere, where each call costs more and caches are larger

Flats = list[Tensor]  # one tensor for each kind of average: its dtype, device, and whether it holds infinite values


@dataclass(frozen=True)
class Place:
    """Where one average lies.

    Attributes:
        kind: In which flat tensor.
        begin: Its first number there.
        end: The one after its last.
        order: Its dimensions from slowest to fastest in memory, so that a weight in channels-last is not copied.
    """

    kind: int
    begin: int
    end: int
    order: tuple[int, ...]


class Layout:
    """Where the averages of weights lie in flat tensors; of sharded ones, this process's parts.

    Small ones come first, so that a block holds many of them. A layout holds no tensors.

    Args:
        averages: Averages by name, as they start.
        infinite: Names of those that hold infinite values, which are kept apart.
    """

    def __init__(self, averages: Mapping[str, Tensor], infinite: Collection[str]) -> None:
        self._names = tuple(averages)
        self.places: dict[str, Place] = {}
        self.infinite: list[bool] = []
        kinds: dict[object, int] = {}
        ends: list[int] = []
        for name in sorted(averages, key=lambda name: local(averages[name]).numel()):
            part = local(averages[name])
            kind = kinds.setdefault((part.dtype, part.device, name in infinite), len(kinds))
            if kind == len(ends):
                ends.append(0)
                self.infinite.append(name in infinite)
            strides = part.stride()
            order = tuple(sorted(range(part.dim()), key=lambda dim: -strides[dim]))
            self.places[name] = Place(kind, ends[kind], ends[kind] + part.numel(), order)
            ends[kind] += part.numel()

    @torch.inference_mode(False)  # tensors made in inference mode cannot be updated outside it
    def filled(self, averages: Mapping[str, Tensor]) -> Flats:
        """Copies of the averages that this layout was made for, flat."""
        parts: list[list[Tensor]] = [[] for _ in self.infinite]
        for name, place in self.places.items():
            parts[place.kind].append(local(averages[name]).permute(place.order).reshape(-1))
        return [torch.cat(members) for members in parts]

    def named(self, flats: Flats, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of flat averages by name, in the shapes (and shards) of the weights."""
        found = {}
        for name in self._names if flats else ():
            place, weight = self.places[name], weights[name]
            part = _shaped(flats[place.kind][place.begin : place.end], place.order, local(weight).shape)
            found[name] = joined(part, weight)
        return found


class Block(NamedTuple):
    """A stretch of weights with every average of it, all flat.

    Attributes:
        x: Model weights, in the averages' dtype and on their device.
        y: Averages, a row a member.
        v: Velocities, one a member; None where damping is 1.
        infinite: Whether averages hold infinite values, which must stay where the weight is equal.
    """

    x: Tensor
    y: Tensor
    v: list[Tensor | None]
    infinite: bool


@dataclass(frozen=True)
class Run:
    """Weights that are updated together: one that fills blocks by itself, or small ones that share one block.

    Attributes:
        live: The weights.
        packed: Where small ones are put side by side, a view each; of a large one nothing.
        scratch: All of that place, flat.
        order: A large one's dimensions from slowest to fastest in the averages' memory.
        blocks: The averages and velocities of each block.
        infinite: Whether averages hold infinite values.
    """

    live: list[Tensor]
    packed: list[Tensor]
    scratch: Tensor
    order: tuple[int, ...]
    blocks: list[tuple[Tensor, list[Tensor | None]]]
    infinite: bool


class Blocks:
    """The live weights in blocks, each read (and converted to the averages' dtype and device) once for all averages.

    Holds views of weights and averages: make it anew when either lies elsewhere.

    Args:
        layout: Where the averages lie.
        weights: The model's weights by name.
        y: Averages, flat in rows, one a member.
        v: Velocities, flat, one a member; empty where damping is 1.
    """

    @torch.inference_mode(False)
    def __init__(self, layout: Layout, weights: Mapping[str, Tensor], y: Flats, v: Sequence[Flats]) -> None:
        self._layout, self._weights, self._y, self._v = layout, weights, y, v
        self._sizes = [BLOCK if flat.device.type == "cpu" else LARGE_BLOCK for flat in y]
        self._scratch = [flat.new_empty(min(size, flat.shape[1])) for flat, size in zip(y, self._sizes, strict=True)]
        self._runs = [self._run(names) for names in self._shares()]

    def __iter__(self) -> Iterator[Block]:
        """Each block in turn; small weights share one place, so use a block before the next."""
        for run in self._runs:
            if run.packed:
                gather_(run.live, run.packed)
                yield Block(run.scratch, *run.blocks[0], run.infinite)
                continue
            whole = run.live[0].permute(run.order).reshape(-1)
            begin = 0
            for y, v in run.blocks:
                part = whole[begin : begin + y.shape[1]]
                begin += y.shape[1]
                yield Block(part.to(device=y.device, dtype=y.dtype), y, v, run.infinite)

    def _shares(self) -> list[list[str]]:
        """Names that are updated together: neighbours in the layout, as many as fit a block; a larger one alone."""
        shares: list[list[str]] = []
        last: dict[int, list[str]] = {}
        places = self._layout.places
        for name, place in places.items():
            share = last.get(place.kind)
            if share is None or place.end - places[share[0]].begin > self._sizes[place.kind]:
                share = last[place.kind] = []
                shares.append(share)
            share.append(name)
        return shares

    def _run(self, names: Sequence[str]) -> Run:
        places = [self._layout.places[name] for name in names]
        kind, begin, end = places[0].kind, places[0].begin, places[-1].end
        live = [local(self._weights[name]).detach() for name in names]
        scratch, packed = self._scratch[kind][: end - begin], []
        if end - begin <= self._sizes[kind]:
            packed = [
                _shaped(scratch[place.begin - begin : place.end - begin], place.order, weight.shape)
                for place, weight in zip(places, live, strict=True)
            ]
        edges = range(begin, max(end, begin + 1), self._sizes[kind])
        stretches = [slice(edge, min(edge + self._sizes[kind], end)) for edge in edges]
        blocks = [(self._y[kind][:, at], [v[kind][at] if v else None for v in self._v]) for at in stretches]
        return Run(live, packed, scratch, places[0].order, blocks, self._layout.infinite[kind])


def _shaped(flat: Tensor, order: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A view of flat numbers in a shape whose dimensions have this order in memory."""
    return flat.view([shape[dim] for dim in order]).permute([order.index(dim) for dim in range(len(shape))])
