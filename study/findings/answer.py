"""The answer of a study in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from study.design.schema import PARAMETERS, figures
from study.findings.compare import Comparison, ranking, row
from study.findings.recommend import Recommendation
from study.show import number

BASELINES = {
    "ema": "the best EMA",
    "damped": "the best damped average",
    "belay": "the best BELAY",
    "none": "no averaging",
}


def setting_text(parameters: Mapping[str, Any] | pd.Series, names: list[str]) -> str:
    """Chosen parameters of a setting on one line."""
    return ", ".join(f"{name} {number(parameters[name])}" for name in names)


def difference_text(comparison: Comparison) -> str:
    """A paired difference with its interval."""
    found = comparison.difference
    if math.isnan(found.low):
        return f"{found.mean:+.4f} (one seed: no interval)"
    return f"{found.mean:+.4f} (95 % {found.low:+.4f} to {found.high:+.4f})"


def answer(found: Recommendation) -> str:
    """The recommendation in a few lines: what, which regime, how sure, how much better, what next."""
    records, table = found.records, ranking(found.records)
    varied = [n for n in records.parameters if n in PARAMETERS or records.table[n].nunique() > 1]
    derived = figures(found.oscillator, records.steps)
    ended = "".join(
        f", {count} {what}" for what, count in (("diverged", found.diverged), ("failed", found.failed)) if count
    )
    done = found.tried + found.diverged + found.failed
    error = "one seed: no error is known" if math.isnan(found.se) else f"standard error {found.se:.4f}"
    lines = [
        ("study", f"{records.name}: {done} of {records.planned} settings x {records.seeds} seeds done{ended}"),
        ("best", setting_text(found.parameters, varied)),
        ("measured", f"{records.metric} {found.mean:.4f} ({error})"),
        (
            "regime",
            f"{found.oscillator.regime}: damping ratio {number(derived['damping_ratio'])}, memory "
            f"{100 * derived['memory_share']:.3g} % of the run (lag {number(derived['lag'])} of {records.steps}), "
            f"effective mass ratio {number(derived['effective_mass_ratio'])}",
        ),
        ("how sure", _sureness(found)),
    ]
    for comparison in found.versus:
        name = BASELINES[comparison.baseline]
        where = setting_text(
            row(table, comparison.setting), [n for n in varied if n in ("decay", "lr") or n not in PARAMETERS]
        )
        if comparison.setting == found.setting and comparison.baseline != "none":
            lines.append((f"vs {comparison.baseline}", f"the best setting is itself {name}"))
        else:
            lines.append((f"vs {comparison.baseline}", f"{difference_text(comparison)} over {name} ({where})"))
    if records.seeds > 1:
        lines.append(("", "chosen and measured on the same seeds: the differences flatter the winner"))
    lines.append(("next", f"belay-study export {records.name} -o defaults.yaml"))
    return "\n".join(f"{head:<10}{text}" for head, text in lines)


def _sureness(found: Recommendation) -> str:
    if found.records.seeds < 2:
        return "unknown with one seed; give `seeds` at least 2"
    return (
        f"{len(found.rivals)} of the other {found.tried - 1} settings are statistically as good "
        f"(paired over {found.records.seeds} seeds, each at 95 %)"
    )
