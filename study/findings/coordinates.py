"""Both systems of coordinates as columns of a table of settings."""

from __future__ import annotations

import pandas as pd

from belay import Oscillator
from study.design.schema import NATURAL, PARAMETERS, natural


def oscillators(table: pd.DataFrame) -> list[Oscillator]:
    """The oscillator of each row's decay, damping and coupling."""
    columns = (table[name] for name in PARAMETERS)
    return [Oscillator(*map(float, row)) for row in zip(*columns, strict=True)]


def with_natural(table: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The table with columns of memory, damping ratio and mass ratio, for runs of `steps` steps.

    The damping ratio is inf for an EMA and nan above damping 1.
    """
    rows = [natural(oscillator, steps) for oscillator in oscillators(table)]
    return pd.concat([table, pd.DataFrame(rows, index=table.index, columns=list(NATURAL))], axis=1)
