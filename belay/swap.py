"""Which models hold averages at the moment: one average at a time, in one thread, known to every other."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(eq=False)
class Swap:
    """One block of `average_parameters`: whose it is, which weights it took, and what it shows."""

    owner: object
    weights: Sequence[Tensor]
    readout: float
    index: int
    thread: int = field(default_factory=threading.get_ident)

    def shares(self, weights: Sequence[Tensor]) -> bool:
        """Whether it took one of these weights."""
        taken = {id(weight) for weight in self.weights}
        return any(id(weight) in taken for weight in weights)


OPEN: list[Swap] = []
_LOCK = threading.Lock()


def check_outside(method: str, weights: Iterable[Tensor]) -> None:
    """Raises RuntimeError while a block holds one of these weights, be it of another average or in another thread.

    Args:
        method: What was called, for the message.
        weights: The weights that it would change or read.
    """
    if OPEN and any(swap.shares(list(weights)) for swap in OPEN):
        raise RuntimeError(
            f"`{method}` must be called outside `average_parameters`, where the model holds averages; leave the "
            "block first."
        )


def warn_inside(owner: object) -> None:
    """Warns of a checkpoint that is written while a block of its average is open."""
    if any(swap.owner is owner for swap in OPEN):
        warnings.warn(
            "a checkpoint written inside `average_parameters` holds averages in place of the model's weights; "
            "write it after the block.",
            stacklevel=3,
        )


@contextmanager
def claim(owner: object, weights: Sequence[Tensor], readout: float, index: int = 0) -> Iterator[bool]:
    """Takes the weights for a block, to show the average of that index of its owner.

    Yields:
        Whether they are the block's to fill and to restore; False where the same average's block around it has done so.

    Raises:
        RuntimeError: Another average, another thread or a block with another readout has them.
    """
    swap = Swap(owner, weights, readout, index)
    with _LOCK:
        around = next((other for other in OPEN if other.shares(weights)), None)
        if around is not None:
            _check_nested(around, swap)
        OPEN.append(swap)
    try:
        yield around is None
    finally:
        with _LOCK:
            OPEN.remove(swap)


def _check_nested(around: Swap, swap: Swap) -> None:
    """Raises RuntimeError unless a block inside another shows just what that shows."""
    faults = {
        "another thread": around.thread != swap.thread,
        "another average": around.owner is not swap.owner or around.index != swap.index,
        f"readout={around.readout}": around.readout != swap.readout,
    }
    if fault := next((what for what, found in faults.items() if found), None):
        raise RuntimeError(
            f"`average_parameters` must find the model's own weights, got a block of {fault} around it or beside it; "
            "leave that first."
        )
