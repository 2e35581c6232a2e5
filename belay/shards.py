"""Weights in shards (DTensor, as FSDP2 and tensor parallelism make them), and copies between them and whole ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # slow to import, and already loaded where it is used


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


@torch.no_grad()
def copy_(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies values into the targets of the same name, whatever their dtype, device and sharding."""
    for name, value in values.items():
        targets[name].copy_(sharded_like(targets[name], value))
