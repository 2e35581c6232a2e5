"""The answer of a study in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from study.design.schema import NATURAL, PARAMETERS, Tag, Value, figures, host_of
from study.errors import printable
from study.findings.choose import FEWEST, row
from study.findings.collect import Records
from study.findings.compare import Comparison, Difference, runner_up
from study.findings.recommend import Recommendation
from study.show import mean_text, number

BASELINE_TEXTS: dict[str, str] = {
    "ema": "the best EMA",
    "damped": "the best damped average",
    "belay": "the best BELAY",
    "push": "the best push",
    "none": "no averaging",
}
BASELINE_PARAMETERS: dict[str, Sequence[str]] = {  # those in which averages of one family differ
    "ema": ["decay"],
    "damped": ["decay", "damping"],
    "belay": list(PARAMETERS),
    "push": list(PARAMETERS),
    "none": [],
}
MOST_CONFIRMED = 1000  # fresh seeds that a study may have
LEARNING_RATE = "lr"  # what the built-in tasks call it


def setting_text(parameters: Mapping[str, Any] | pd.Series, names: Sequence[str]) -> str:
    """Chosen parameters of a setting on one line."""
    return ", ".join(f"{name} {number(parameters[name])}" for name in names)


def difference_text(difference: Difference) -> str:
    """A paired difference with its interval."""
    if math.isnan(difference.low):
        return f"{difference.mean:+.3g} (one seed: no interval)"
    return f"{difference.mean:+.3g} (95 % {difference.low:+.3g} to {difference.high:+.3g})"


def answer(found: Recommendation) -> str:
    """The recommendation in a few lines of text, each with a head of one or two words."""
    return "\n".join(f"{head:<10}{text}" for head, text in lines(found))


def lines(found: Recommendation) -> list[tuple[str, str]]:
    """Heads and texts: what was tried and chosen, which regime and rates, how sure, how much better, what next."""
    records = found.records
    varied = _varied(found)
    error = "one seed: no error is known" if math.isnan(found.se) else f"standard error {found.se:.2g}"
    said = [
        _tried(found),
        ("best", setting_text(found.parameters, _named(found)) or "the only setting"),
        *([("verdict", told)] if (told := verdict(found)) else []),
        ("measured", f"{records.metric} {mean_text(found.mean, found.se)} ({error}){_on(found)}"),
        *_as_oscillator(found),
        ("how sure", sureness(found)),
    ]
    if found.riders:
        said.append(("riders", _ridden(found)))
    said += [(f"vs {comparison.baseline}", _versus(found, comparison, varied)) for comparison in found.versus]
    if records.run and not any(comparison.baseline == "ema" for comparison in found.versus):
        said.append(("vs ema", _no_ema(records)))
    if flattered := [comparison.baseline for comparison in found.versus if not comparison.fresh]:
        which = "the differences" if len(flattered) == len(found.versus) else f"vs {', '.join(flattered)}, numbers that"
        flattery = f"{which} flatter the winner, though their intervals allow for it"
        said.append(("", f"chosen and measured on the same seeds: {flattery}; {what_mends(records)}"))
    said += [("note", note) for note in records.notes]
    if records.run:
        export = f"belay-study export {records.name} -o defaults.yaml"
        said.append(("next", export if records.finished else f"belay-study resume {records.name}"))
    return [(head, printable(text)) for head, text in said]


def what_mends(records: Records) -> str:
    """What makes up for choosing and measuring on the same seeds."""
    if not records.run:
        return "fresh seeds of the best few would not"
    return "`confirm` mends it" if records.finished else "where the study has `confirm`, finishing it mends that"


def _no_ema(records: Records) -> str:
    """Why there is no EMA to compare with."""
    if int(records.tags[Tag.DONE]) < records.planned:
        return "no plain EMA is done yet"
    return "no plain EMA was measured; leave `search.baseline` out to have some tried"


def _varied(found: Recommendation) -> list[str]:
    """The parameters beside the oscillator's in which settings differ."""
    return [name for name in found.records.varied if found.oscillator is None or name not in PARAMETERS]


def _named(found: Recommendation) -> list[str]:
    """The parameters that tell one setting from others, or all where there are no others."""
    varied = _varied(found)
    return [*PARAMETERS, *varied] if found.oscillator else varied or found.records.parameters


def _tried(found: Recommendation) -> tuple[str, str]:
    """What was chosen from, and how the rest ended."""
    records = found.records
    counts = {name: getattr(found, name) for name in ("pruned", "diverged", "failed")}
    ended = "".join(f", {count} {what}" for what, count in (counts | {"unfinished": found.unfinished}).items() if count)
    if not records.run:
        return "table", f"{records.name}: {_count(records.planned, 'setting')} x {_seeds(found)}{ended}"
    done = found.tried + sum(counts.values())
    return "study", f"{records.name}: {done} of {records.planned} settings x {_seeds(found)} done{ended}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _as_oscillator(found: Recommendation) -> Iterator[tuple[str, str]]:
    """Which regime the best average is in and what it leaves of the learning rate, if settings are averages."""
    if found.oscillator is None:
        return
    steps = found.records.steps
    derived = figures(found.oscillator, steps)
    of_the_run = f" of {steps}" if steps else ""
    known = [name for name in NATURAL if steps or name != "memory"]
    lag = f"lag {number(derived['lag'])}{of_the_run} steps"
    yield "regime", f"{found.oscillator.regime}: {setting_text(derived, known)} ({lag})"
    yield "rates", _rates(derived, found.parameters.get(LEARNING_RATE))


def _seeds(found: Recommendation) -> str:
    """How many seeds settings were searched by; in a race the fewest and the most."""
    fewest, most = found.records.seeds, found.records.table["seed"].nunique()
    return _count(most, "seed") if fewest == most else f"{fewest} to {most} seeds"


def _on(found: Recommendation) -> str:
    """Which seeds the mean is over, or what it is without its luck, where these are the seeds of the search."""
    if found.fresh:
        return f" on {found.fresh} fresh seeds, the best of {found.finalists} finalists"
    return "" if found.shrunken is None else f", about {mean_text(found.shrunken, found.se)} without luck"


def verdict(found: Recommendation) -> str:
    """Whether the best setting differs from the best EMA beyond chance, and if not, what would tell; "" without one.

    Where a table has no EMA, or nothing to set against it, whether it differs from all others. Of a study that is not
    finished it is so far.
    """
    said = _verdict(found)
    return said if not said or found.records.finished else f"so far {said}"


def _verdict(found: Recommendation) -> str:
    versus = {comparison.baseline: comparison for comparison in found.versus}
    leads: list[Difference] = []
    ahead = "better than the best EMA"
    if "ema" in versus:
        leads = [versus["ema"].difference]
        if versus["ema"].setting == found.setting:
            leads = [versus[name].difference for name in ("belay", "push") if name in versus]
            ahead = "EMA is the best, better than any coupled average"
    if untold := [each for each in leads if not (each.settled and each.mean > 0)]:
        nearest = min(untold, key=lambda each: each.mean)
        return f"no setting is better than EMA beyond chance; {_what_would_tell(found, nearest)}"
    if leads:
        return f"{ahead}, beyond chance"
    return "" if found.records.run else _against_runner_up(found)


def _against_runner_up(found: Recommendation) -> str:
    """Whether a table's best setting is told from all others; if not, from which it is not, and what would tell."""
    second = runner_up(found.records, found.setting, found.rivals)
    if second is None:
        return "no other setting to compare it with"
    setting, lead = second
    named = setting_text(row(found.records.settings, setting), _named(found))
    if found.settled:
        others = _count(found.tried - 1, "other complete setting")
        return f"better than {others}, beyond chance: {lead.mean:+.3g} (95 % at least {lead.low:+.3g}) over {named}"
    if not lead.mean:
        return f"not better than {named}, which measured the same"
    return f"not better than {named} beyond chance; {_what_would_tell(found, lead)}"


def _what_would_tell(found: Recommendation, between: Difference) -> str:
    """How many seeds would tell a difference from 0, and of a study the command that trains them."""
    if between.needed == math.inf:
        return "the best of each measured the same"
    if between.needed > MOST_CONFIRMED:
        return f"{between.mean:+.2g} would take more than {MOST_CONFIRMED:,} seeds to tell"
    needed = max(int(between.needed), FEWEST) if not math.isnan(between.needed) else FEWEST
    if not found.records.run:
        if math.isnan(between.needed):
            return f"one seed settles nothing, give at least {FEWEST}"
        few = "" if between.seeds >= FEWEST else f"fewer than {FEWEST} seeds settle nothing, "
        return f"{few}about {needed} seeds would tell {between.mean:+.2g}"
    grown = f"confirm.seeds={needed}" if found.fresh else f"'confirm={{finalists: 4, seeds: {needed}}}'"
    few = ""
    if between.seeds < FEWEST:
        few = "one seed settles nothing, " if between.seeds == 1 else f"{between.seeds} seeds settle nothing, "
    command = f"belay-study extend {found.records.name} --set {grown}"
    return f"{few}about {needed} fresh ones would tell {between.mean:+.2g}: {command}"


def _rates(derived: Mapping[str, float], lr: Value) -> str:
    """What the average leaves of the learning rate, at once and in the long run."""
    immediate, slow = _times(derived["immediate_lr_factor"], lr), _times(derived["slow_mode_lr_factor"], lr)
    return f"the gradient's immediate step is {immediate}, slow modes learn at {slow}"


def _times(factor: float, lr: Value) -> str:
    """A factor on the learning rate, with the product where the setting has a learning rate."""
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        return f"{number(factor)} times the learning rate"
    return f"{number(factor)} lr = {number(factor * lr)}"


def _versus(found: Recommendation, comparison: Comparison, varied: Sequence[str]) -> str:
    """The difference to a baseline, and what its best setting is."""
    name = BASELINE_TEXTS[comparison.baseline]
    if comparison.setting == found.setting and comparison.baseline != "none":
        return f"the best setting is itself {name}"
    setting = row(found.records.settings, comparison.setting)
    where = setting_text(setting, [*BASELINE_PARAMETERS[comparison.baseline], *varied])
    return f"{difference_text(comparison.difference)} over {name}" + (f" ({where})" if where else "")


def sureness(found: Recommendation) -> str:
    """How many of the others cannot be told from the best setting."""
    if found.seeds < 2:
        return f"unknown with one seed; {'give `seeds` at least 2' if found.records.run else 'add rows of other seeds'}"
    if found.tried + found.riders == 1:
        return "no other setting was completed"
    count = found.tried + found.riders - 1 - found.left
    judged = f"paired over {found.seeds} seeds"
    if found.fresh:
        judged = f"finalists by {found.fresh} fresh seeds, others by {found.seeds}"
    judged += taken_as_normal(found.fresh or found.seeds)
    left = f"; {found.left} left the race before" if found.left else ""
    if count == 1:
        return f"the other setting can{'not' if found.rivals else ''} be told from it (95 %, {judged}){left}"
    others = f"{count} settings{' and riders' if found.riders else ''}"
    return f"{len(found.rivals)} of the other {others} cannot be told from it (95 % over all of them, {judged}){left}"


def taken_as_normal(seeds: int) -> str:
    """What a statement over few seeds rests on; "" over enough of them."""
    return "" if seeds >= FEWEST else ", their noise taken as normal"


def _ridden(found: Recommendation) -> str:
    """What riders there were, and whether the best is one."""
    host = host_of(found.setting)
    which = "" if host is None else f"; the best is one of them, beside setting {host}"
    return f"{found.riders} more averages watched the trainings of {found.hosts} settings without coupling{which}"
