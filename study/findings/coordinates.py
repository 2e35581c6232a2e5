"""The oscillators of a table of settings."""

from __future__ import annotations

import pandas as pd

from belay import Oscillator
from study.design.schema import PARAMETERS


def oscillators(table: pd.DataFrame) -> list[Oscillator]:
    """The oscillator of each row's decay, damping and coupling."""
    columns = (table[name] for name in PARAMETERS)
    return [Oscillator(*map(float, row)) for row in zip(*columns, strict=True)]
