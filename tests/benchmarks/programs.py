"""Programs of their own, as a user starts them, and how long they take."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from studies import environment_with


def seconds_of(*arguments: str, home: Path) -> float:
    """How long ``python ARGUMENTS`` takes in the working directory `home`, start and end included.

    Raises:
        AssertionError: It failed; with what it printed.
    """
    began = time.perf_counter()
    line = [sys.executable, *arguments]
    ended = subprocess.run(line, cwd=home, env=environment_with(), capture_output=True, text=True)
    taken = time.perf_counter() - began
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return taken
