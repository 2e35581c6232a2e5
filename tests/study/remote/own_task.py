"""A task that lies beside a config, for studies on a cluster.

It is copied to where the tests need it, so nothing of the tests' own may be imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import helper_beside


def train(setting: Mapping[str, Any], seed: int, report: Callable[[int, Mapping[str, float]], None]) -> None:
    """Reports a score that the setting and the seed alone decide; all but three settings wait until a gate is open.

    The hyperparameter `gate` is a folder: a file `open` in it opens the gate.
    """
    gate, number = Path(setting["gate"]), setting.number  # type: ignore[attr-defined] # a Setting
    print(f"setting {number}, seed {seed}")  # noqa: T201
    if number >= 3:
        (gate / f"waiting-{number}").touch()
        while not (gate / "open").exists():
            time.sleep(0.01)
    report(setting["steps"], {"average/score": helper_beside.score(setting["lr"], seed)})
