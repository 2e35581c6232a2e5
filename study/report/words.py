"""The answer in two sentences, the figures below it, and what to beware of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from study.answer import BASELINE_TEXTS, difference_text, setting_text, sureness, verdict, what_mends
from study.design.schema import PARAMETERS, Tag, figures, oscillator_of, regime_of
from study.errors import counted
from study.findings.collect import Records
from study.findings.recommend import Recommendation
from study.findings.regimes import Region, possible, region
from study.insights import shares_text
from study.pictures.points import FAMILIES
from study.show import mean_text, number

Figure = tuple[str, str, str]  # what it is, its value, and more in small letters


def sentences(found: Recommendation) -> list[str]:
    """What the data support; and the setting to take, which oscillator it is and how it compares."""
    said = verdict(found)
    return [*([f"{said[0].upper()}{said[1:]}."] if said else []), f"{_setting(found)} {_worth(found)}"]


def _setting(found: Recommendation) -> str:
    """The setting to take, and which oscillator it is."""
    records, average = found.records, oscillator_of(found.parameters)
    varied = [name for name in records.varied if name not in PARAMETERS]
    derived, kind = figures(average, records.steps), records.settings["family"][found.setting]
    named = {"ema": "EMA", "damped": f"{regime_of(average)} average without coupling"}
    which = named.get(kind, f"{regime_of(average)} {FAMILIES[kind]}")
    article = "an" if which[0] in "aeiouE" else "a"
    return (
        f"Take {setting_text(found.parameters, [*PARAMETERS, *varied])}: {article} {which} with memory "
        f"{100 * derived['memory']:.3g} % of the run, damping ratio {number(derived['damping_ratio'])} and mass ratio "
        f"{number(derived['mass_ratio'])}."
    )


def _worth(found: Recommendation) -> str:
    """What it is worth, and what it is over the others."""
    seeds = f"{found.fresh} fresh seeds" if found.fresh else f"the {counted(found.seeds, 'seed')} that chose it"
    parts = [f"It came to {found.records.metric} {mean_text(found.mean, found.se)} on {seeds}"]
    for comparison in found.versus:
        name = BASELINE_TEXTS[comparison.baseline]
        if comparison.itself:
            parts.append(f"is itself {name}")
        else:
            parts.append(f"{difference_text(comparison.difference)} over {name}")
    return ", ".join(parts) + "."


def notices(records: Records, found: Recommendation | None) -> Iterator[str]:
    """What to beware of."""
    done = int(records.tags[Tag.DONE])
    if done < records.planned:
        yield f"Of {records.planned} settings that were planned {done} are done."
    if found is not None and found.rivals is None:
        yield "One seed tells nothing of chance: there are no errors and no intervals, and none is told from the best."
    elif found is not None and found.others and not found.fresh:
        mends = what_mends(found)
        yield f"Chosen and measured on the same seeds: the figures flatter the winner. {mends[0].upper()}{mends[1:]}."


def key_figures(found: Recommendation) -> list[Figure]:
    """The figures that describe the setting to take, and where those of the truly best one lie."""
    records, average = found.records, oscillator_of(found.parameters)
    derived = figures(average, records.steps)
    error = "one seed: no error is known" if math.isnan(found.se) else f"standard error {found.se:.2g}"
    coupled = f"coupling {number(average.coupling)}" if average.coupling else "no pull on the model"
    factors = [number(derived[name]) for name in ("immediate_lr_factor", "slow_mode_lr_factor")]
    where = region(records, found.setting)
    return [
        (records.metric, mean_text(found.mean, found.se), f"{error}, {counted(found.fresh or found.seeds, 'seed')}"),
        ("cannot be told from it", _untold(found), sureness(found)),
        ("regime", regime_of(average), f"the best one: {shares_text(possible(where.regimes))}" if where else ""),
        ("damping ratio", number(derived["damping_ratio"]), _span(where, "damping_ratio")),
        (
            "memory",
            f"{100 * derived['memory']:.3g} % of the run",
            f"lag {number(derived['lag'])} steps{_span(where, 'lag', ', ')}",
        ),
        ("mass ratio", number(derived["mass_ratio"]), f"{coupled}{_span(where, 'mass_ratio', '; ')}"),
        ("learning rate", f"x {factors[0]} at once", f"x {factors[1]} in slow modes"),
    ]


def _untold(found: Recommendation) -> str:
    return "unknown" if found.rivals is None else f"{len(found.rivals)} of the others"


def _span(where: Region | None, name: str, head: str = "") -> str:
    """Where a figure of the truly best setting lies; nothing where that is one number as printed, or not known."""
    ends = where and where.ranges[name]
    if not ends or number(ends.low) == number(ends.high):
        return ""
    return f"{head}{number(ends.low)} to {number(ends.high)} with 95 %"


def origin(records: Records) -> list[tuple[str, str]]:
    """Where the figures come from."""
    versions = json.loads(records.tags.get(Tag.VERSIONS, "{}"))
    rows = [
        ("study", f"{records.planned} settings planned, {records.seeds} seeds at least, {records.steps} steps each"),
        ("task", ", ".join(f"{name} {number(value)}" for name, value in records.task.items())),
        ("objective", f"{records.metric}, {'greater' if records.mode == 'max' else 'smaller'} is better"),
        ("data", records.tags.get(Tag.DATA, "")),
        ("commit", records.tags.get(Tag.COMMIT, "")),
        ("versions", ", ".join(f"{package} {version}" for package, version in versions.items())),
        ("MLflow run", records.run),
    ]
    return [(head, value) for head, value in rows if value]
