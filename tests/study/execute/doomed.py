"""Has a process kill itself (SIGKILL) at the n-th call of a function."""

from __future__ import annotations

import functools
import importlib
import os
import signal
from typing import Any


def doom(place: str, call: int) -> None:
    """Replaces a function by one that ends this process at its n-th call.

    Args:
        place: ``module:Class.function``; with a ``+`` behind it the process dies when the call returns, else when it
            begins.
        call: Which call; the first is 1.
    """
    after = place.endswith("+")
    module, _, path = place.removesuffix("+").partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real, calls = getattr(owner, name), 0

    @functools.wraps(real)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **named)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)
