"""How long the command line takes to answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


def test_help(figure: Callable[..., None], medians: Callable[..., dict[str, float]]) -> None:
    seconds = medians({"help": python("-m", "study", "--help"), "bare": python("-c", "pass")}, repetitions=7)
    figure("belay-study --help", "python -c pass", seconds["help"] / seconds["bare"], 15)
    figure("belay-study --help", "", seconds["help"], 0.3, "s")
