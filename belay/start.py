"""How averages start: in which dtype, and which of them hold infinite values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from belay.shards import local


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises ValueError unless averages may be kept in this dtype."""
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"`dtype` must be torch.float32, torch.float64 or None, got {dtype=}.")


@torch.inference_mode(False)  # tensors made in inference mode cannot be updated outside it
def start(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy of a weight to average from, in the dtype asked for; complex numbers keep their own."""
    if weight.is_complex():
        dtype = weight.dtype
    elif dtype is None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.detach().to(dtype, copy=True)


def infinite_of(averages: Mapping[str, Tensor]) -> set[str]:
    """Names of the averages that hold infinite values: theirs are updated with more care."""
    return {name for name, average in averages.items() if local(average).isinf().any()}
