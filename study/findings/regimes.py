"""Settings as oscillators: their regimes and derived figures."""

from __future__ import annotations

import pandas as pd

from belay import Oscillator
from study.design.schema import PARAMETERS, figures
from study.findings.collect import Records
from study.findings.compare import ranking


def regimes(records: Records, top: int) -> pd.DataFrame:
    """The best settings, best first, with their regime and the figures of `study.design.schema.FIGURES`."""
    table = ranking(records).head(top)
    averages = [Oscillator(*setting) for setting in table[list(PARAMETERS)].itertuples(index=False)]
    derived = pd.DataFrame([figures(average, records.steps) for average in averages], index=table.index)
    derived.insert(0, "regime", [average.regime for average in averages])
    return pd.concat([table[["mean", "se", *PARAMETERS]], derived], axis=1)
