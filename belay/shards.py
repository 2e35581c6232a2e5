"""Weights in shards (DTensor, as FSDP2 and tensor parallelism make them), and copies between them and whole ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # slow to import, and already loaded where it is used


PLAIN = {Tensor, nn.Parameter}  # types whose operations are torch's own
CLONE = getattr(torch, "_foreach_clone", None)  # not in older versions of torch


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; any other tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, gathered from the processes that share it, which must all call this; else itself."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(target: Tensor, value: Tensor) -> Tensor:
    """The value sharded as the target is, or whole if that is; all processes that share either must call this."""
    if not is_sharded(target):
        return whole(value)
    mesh, placements = target.device_mesh, target.placements
    if is_sharded(value) and (value.device_mesh, value.placements) == (mesh, placements):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole(value).to(target.to_local().device), mesh, placements)


def joined(part: Tensor, like: Tensor) -> Tensor:
    """A tensor that is sharded as another is, of which this process has the part, sharing its memory; else the part."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def agreed(good: bool, device: torch.device) -> bool:
    """Whether all processes, which must all call this, say that it is so."""
    everywhere = torch.tensor(int(good), device=device)
    torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
    return bool(everywhere)


@torch.no_grad()
def copy_(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies values into the targets of the same name, whatever their dtype, device and sharding."""
    into, plain = [], []
    for name, value in values.items():
        target = targets[name]
        if type(value) in PLAIN and type(target) in PLAIN:
            into.append(target)
            plain.append(value)
        else:
            target.copy_(sharded_like(target, value))
    if plain:
        torch._foreach_copy_(into, plain)  # many small tensors in a third of the time


@torch.no_grad()
def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, sharded as they are."""
    if CLONE is None or not all(type(tensor) in PLAIN for tensor in tensors.values()):
        return {name: tensor.clone() for name, tensor in tensors.items()}
    return dict(zip(tensors, CLONE(list(tensors.values())), strict=True)) if tensors else {}
