"""How averages start: in which dtype, which of them hold infinite values, and whether from other weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from belay.groups import Group
from belay.shards import local
from belay.step import stretched

FAR = 0.5  # change of the weights before the first update, as a share of them, that no optimizer step makes


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


def warn_of_loaded_weights(groups: Sequence[Group]) -> None:
    """Warns, from the first update, if weights seem to have been loaded after the average was made."""
    change = stretched(groups)
    if change > FAR:
        warnings.warn(
            f"the model's weights changed by {change:.0%} between the making of its average and the first update; "
            "if they were loaded, call `reset()` after loading, as the average started from others.",
            stacklevel=4,  # beyond `update` and torch's own frame
        )
