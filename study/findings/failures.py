"""Which settings failed, and why."""

from __future__ import annotations

import pandas as pd

from study.findings.collect import Records


def failures(records: Records) -> pd.DataFrame:
    """The settings of which a seed failed, by number: ``setting``, its parameters, and the whole first ``message``."""
    failed = records.settings[records.settings["state"] == "failed"].sort_index()
    return failed[[*records.parameters, "message"]].reset_index()
