"""Finds a model's tensors by name, whatever wraps the model or its parts, and checks that two sets match."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

INNER = ("_orig_mod", "_checkpoint_wrapped_module")  # what torch.compile and checkpoint_wrapper call the module inside
WRAPPED = "module."  # what the names of a model inside DistributedDataParallel, AveragedModel and others begin with
Owner = tuple[nn.Module, str]  # where a buffer is: the module that holds it, and the attribute


def inside(module: nn.Module) -> nn.Module | None:
    """The module that a wrapper holds, which owns the same tensors; None of a module that is no wrapper."""
    if isinstance(module, DistributedDataParallel | DataParallel):
        return cast(nn.Module, module.module)
    held = (module._modules[name] for name in INNER if name in module._modules)  # TorchScript's have no `get`
    return next((inner for inner in held if inner is not None), None)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside all wrappers."""
    while (inner := inside(model)) is not None:
        model = inner
    return model


def check_model(model: nn.Module) -> None:
    """Raises TypeError unless it is a module whose weights its parameters hold."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    fsdp = sys.modules.get("torch.distributed.fsdp")  # slow to import, and already loaded where it is used
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise TypeError(
            "`model` must not be wrapped in FullyShardedDataParallel (FSDP1), whose forward pass may compute with "
            "other weights than its parameters hold; use fully_shard (FSDP2)."
        )


def reshard(model: nn.Module) -> None:
    """Frees the whole weights that FSDP2 keeps after a forward pass: the parameters are then its shards again."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


def modules_of(model: nn.Module, tied: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, without the names that wrappers add; a shared one once, or with `tied` under all its names."""
    seen: set[nn.Module] = set()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        module = unwrap(module)
        if tied or module not in seen:
            seen.add(module)
            yield name, module
            parts = [(part, child) for part, child in module._modules.items() if child is not None]
            waiting += [(_joined(name, part), child) for part, child in reversed(parts)]


def parameters_of(model: nn.Module, tied: bool = False) -> dict[str, nn.Parameter]:
    """Parameters by name; a tied one under its first name only, or with `tied` under all of them."""
    reshard(model)
    found: dict[str, nn.Parameter] = {}
    seen: set[nn.Parameter] = set()
    for prefix, module in modules_of(model, tied):
        for attribute, parameter in module._parameters.items():
            if parameter is not None and (tied or parameter not in seen):
                seen.add(parameter)
                found[_joined(prefix, attribute)] = parameter
    return found


def owners_of(model: nn.Module, tied: bool = False) -> dict[str, Owner]:
    """Module and attribute of each buffer that a checkpoint holds; not the tensor, which moving the model replaces.

    One of a shared module is there once, or with `tied` under all its names.
    """
    return {
        _joined(prefix, attribute): (module, attribute)
        for prefix, module in modules_of(model, tied)
        for attribute, buffer in module._buffers.items()
        if buffer is not None and attribute not in module._non_persistent_buffers_set
    }


def buffers_at(owners: Mapping[str, Owner]) -> dict[str, Tensor]:
    """The tensors that these modules and attributes hold now, where they hold one."""
    found = {name: owner._buffers.get(attribute) for name, (owner, attribute) in owners.items()}
    return {name: buffer for name, buffer in found.items() if buffer is not None}


def extra_states_of(model: nn.Module) -> dict[str, Any]:
    """What modules add to a checkpoint beside tensors (``get_extra_state``), by name; copies."""
    return {
        _joined(prefix, "_extra_state"): copy.deepcopy(module.get_extra_state())
        for prefix, module in modules_of(model, tied=True)
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }


def unwrapped(saved: Mapping[str, Tensor], ours: Collection[str]) -> dict[str, Tensor]:
    """What another library saved, by names without the parts that wrappers added.

    Args:
        saved: Tensors by name, all of one model. It may have been in several wrappers that call it ``module``.
        ours: The names that they should have, which tell wrappers from a part of the model's own of that name.
    """
    found = {".".join(part for part in name.split(".") if part not in INNER): saved[name] for name in saved}
    best = found
    while any(name.startswith(WRAPPED) for name in found):
        found = {name.removeprefix(WRAPPED): tensor for name, tensor in found.items()}
        if len(found.keys() & ours) > len(best.keys() & ours):
            best = found
    return best


def fitting(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `theirs` that have a name and shape of `ours`."""
    return {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}


def misfits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names that two sets do not share, or with other shapes, by what is wrong with them in `theirs`."""
    found = {
        "missing": [name for name in ours if name not in theirs],
        "unexpected": [name for name in theirs if name not in ours],
        "of another shape": [name for name in ours if name in theirs and ours[name].shape != theirs[name].shape],
    }
    return {fault: names for fault, names in found.items() if names}


def check_alike(argument: str, what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless `theirs` has the names and shapes of `ours`."""
    if faults := misfits(ours, theirs):
        told = "; ".join(f"{fault} {few(names)}" for fault, names in faults.items())
        raise ValueError(f"`{argument}` must have the names and shapes of {what}, got {told}.")


def check_lossless(what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Raises ValueError if copying those of `theirs` that `ours` has too would round."""
    for name, tensor in ours.items():
        new = theirs.get(name, tensor)
        if torch.promote_types(tensor.dtype, new.dtype) != tensor.dtype:
            raise ValueError(
                f"`state` must fit this average's dtype, got {what} {name} in {new.dtype} for {tensor.dtype}: make the "
                f"Belay with dtype={new.dtype}."
            )


def few(names: Iterable[Any]) -> str:
    """The first three names, and how many more."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
