"""Settings as oscillators: their regimes and derived figures."""

from __future__ import annotations

import pandas as pd

from study.design.schema import figures, oscillator_of
from study.findings.collect import Records
from study.findings.compare import ranking


def regimes(records: Records, top: int) -> pd.DataFrame:
    """The best settings, best first, with their regime and the figures of `study.design.schema.FIGURES`."""
    table = ranking(records).head(top)
    oscillators = [oscillator_of(row) for row in table[records.parameters].to_dict("records")]
    derived = pd.DataFrame([figures(oscillator, records.steps) for oscillator in oscillators], index=table.index)
    derived.insert(0, "regime", [oscillator.regime for oscillator in oscillators])
    return pd.concat([table[["mean", "se", "decay", "damping", "coupling"]], derived], axis=1)
