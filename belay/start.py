"""How averages start: in which dtype, which of them hold infinite values, and whether from the weights they should."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from belay.finite import Nonfinite
from belay.groups import Group
from belay.names import few
from belay.shards import agreed, local
from belay.step import has_no_nan, stretched

FAR = 0.5  # change of the weights in the first step, as a share of them, that no optimizer makes


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


def check_start(nonfinite: Nonfinite, averages: Mapping[str, Tensor], groups: Sequence[Group], sharded: bool) -> None:
    """Looks, at the first update, for weights that were loaded, or given values at all, after the average was made.

    Warns if they have changed by more than a step can.

    Raises:
        FloatingPointError: An average is nan, and would be for ever. All processes that hold shards must call this.
    """
    if nonfinite != "propagate":
        numbers = has_no_nan(groups)
        if not (agreed(numbers, groups[0].live[0].device) if sharded else numbers):
            bad = [name for name, average in averages.items() if local(average).isnan().any()]
            raise FloatingPointError(
                f"an average must start at weights that are numbers, got nan in {few(bad) or 'another process'}; call "
                "`reset()` now that the model has its weights."
            )
    change = stretched(groups)
    if change > FAR:
        warnings.warn(
            f"the model's weights changed by {change:.0%} between the making of its average and the first update; "
            "if they were loaded, call `reset()` after loading, as the average started from others.",
            stacklevel=4,  # beyond `update` and torch's own frame
        )
