"""What an update does when weights are not finite."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor

from belay.groups import Group
from belay.names import few
from belay.shards import local
from belay.step import all_finite

Nonfinite = Literal["raise", "skip", "propagate"]


def check_nonfinite(nonfinite: Nonfinite) -> None:
    """Raises ValueError unless it is one of the three policies."""
    if nonfinite not in get_args(Nonfinite):
        raise ValueError(f"`nonfinite` must be one of {', '.join(get_args(Nonfinite))}, got {nonfinite=}.")


def may_average(
    nonfinite: Nonfinite,
    groups: Sequence[Group],
    sharded: bool,
    weights: Mapping[str, Tensor],
    infinite: Collection[str],
    steps: int,
) -> bool:
    """Whether the weights are finite, or may be otherwise; False is to skip the update.

    Args:
        nonfinite: What to do about others.
        groups: The weights, and the averages that they may share infinite values with.
        sharded: Whether processes hold them in shards; all of them get the same answer then, and must call this.
        weights: The same weights by name.
        infinite: Names of those whose averages hold infinite values.
        steps: Steps done.

    Raises:
        FloatingPointError: A weight is not finite, and that is to be raised.
    """
    if nonfinite == "propagate" or all_finite(groups, sharded):
        return True
    if nonfinite == "skip":
        return False
    bad = [name for name in weights if name not in infinite and not local(weights[name]).isfinite().all()]
    raise FloatingPointError(
        f"weights must be finite to be averaged, got others after {steps} steps: {few(bad)}; mend the model "
        'and go on, or choose nonfinite="skip" or "propagate".'
    )
