"""Finds a model's tensors by name, also inside wrappers; checks that two sets match, and copies between them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

COMPILED = "_orig_mod"  # what torch.compile calls the module inside the one it returns


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's and DistributedDataParallel's wrappers; it owns the same tensors."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, COMPILED, None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def reshard(model: nn.Module) -> None:
    """Frees the whole weights that FSDP2 keeps after a forward pass: the parameters are then its shards again."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import, and already loaded where it is used
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


def parameters_of(model: nn.Module, tied: bool = False) -> dict[str, nn.Parameter]:
    """Parameters by name; a tied one under its first name only, or with `tied` under all of them."""
    reshard(model)
    named = model.named_parameters(remove_duplicate=not tied)
    return {_plain(name): parameter for name, parameter in named}


def owners_of(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Module and attribute of each buffer that a checkpoint holds; not the tensor, which moving the model replaces."""
    kept = model.state_dict().keys()
    return {
        _plain(name): (module, attribute)
        for prefix, module in model.named_modules()
        for attribute, _ in module.named_buffers(recurse=False)
        if (name := f"{prefix}.{attribute}" if prefix else attribute) in kept
    }


def buffers_at(owners: Mapping[str, tuple[nn.Module, str]]) -> dict[str, Tensor]:
    """The tensors that these modules and attributes hold now."""
    return {name: cast(Tensor, owner._buffers[attribute]) for name, (owner, attribute) in owners.items()}


def check_alike(argument: str, what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless `theirs` has the names and shapes of `ours`."""
    missing, unexpected = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    shapes = [name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    faults = [
        f"{fault} {few(names)}"
        for fault, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise ValueError(f"`{argument}` must have the names and shapes of {what}, got {'; '.join(faults)}.")


def check_lossless(what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raises ValueError if copying `theirs` into `ours` would round."""
    for name, tensor in ours.items():
        if torch.promote_types(tensor.dtype, theirs[name].dtype) != tensor.dtype:
            raise ValueError(
                f"`state` must fit this average's dtype, got {what} {name} in {theirs[name].dtype} for "
                f"{tensor.dtype}: make the Belay with dtype={theirs[name].dtype}."
            )


@torch.no_grad()
def copy_(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies values into the targets of the same name, whatever their dtype and device."""
    for name, value in values.items():
        targets[name].copy_(value)


def few(names: Iterable[Any]) -> str:
    """The first three names, and how many more."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED)
