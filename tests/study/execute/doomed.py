"""``python doomed.py PLACE CALL COMMAND...``: runs belay-study and kills it (SIGKILL) at the n-th call of a function.

PLACE is ``module:Class.function``; with a ``+`` behind it the driver dies when the call returns, else when it begins.
PLACE ``never`` kills nothing.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from typing import Any


def doom(place: str, call: int) -> None:
    """Replaces the function by one that ends this process at its n-th call."""
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


if __name__ == "__main__":
    where, count, *command = sys.argv[1:]
    if where != "never":
        doom(where, int(count))
    # As at a terminal, also where the tests run in the background, whose processes inherit an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["belay-study", *command]
    from study.cli import main

    main()
