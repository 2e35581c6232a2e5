"""The answer of a study in a few lines of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from study.design.schema import LIVE, NATURAL, PARAMETERS, Tag, Value, figures, host_of, regime_of
from study.errors import counted, printable
from study.findings.choose import FEWEST, row
from study.findings.collect import Records
from study.findings.compare import ADVISED, Baseline, Comparison, Difference, runner_up
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
JUDGES = {"ema": "EMA", "none": "no averaging"}  # baselines that a verdict may be about, by their names as such
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
    judge = _judge(records)
    if records.run and not any(comparison.baseline == judge for comparison in found.versus):
        said.append((f"vs {judge}", _unmeasured(records, judge)))
    others = [comparison for comparison in found.versus if not comparison.itself]
    if flattered := [comparison for comparison in others if not comparison.fresh]:
        named = ", ".join(comparison.baseline for comparison in flattered)
        which = "the differences" if len(flattered) == len(others) else f"vs {named}, numbers that"
        unknown = all(math.isnan(comparison.difference.low) for comparison in flattered)
        allowed = "" if unknown else ", though their intervals allow for it"
        said.append(
            ("", f"chosen and measured on the same seeds: {which} flatter the winner{allowed}; {what_mends(found)}")
        )
    said += [("note", note) for note in records.notes]
    if records.run:
        export = f"belay-study export {records.name} -o defaults.yaml"
        said.append(("next", export if records.finished else f"belay-study resume {records.name}"))
    return [(head, printable(text)) for head, text in said]


def what_mends(found: Recommendation) -> str:
    """What makes up for choosing and measuring on the same seeds."""
    records = found.records
    if not records.run:
        return "fresh seeds of the best few would not"
    if found.fresh:
        return "more finalists (`confirm`) mend it"
    return "`confirm` mends it" if records.finished else "where the study has `confirm`, finishing it mends that"


def _judge(records: Records) -> Baseline:
    """The baseline that the verdict is about: EMA, or where the objective is the model's own weights', no averaging."""
    return "none" if records.metric.startswith(LIVE) else "ema"


def _unmeasured(records: Records, judge: Baseline) -> str:
    """Why there is no such baseline to compare with."""
    what = "no plain EMA" if judge == "ema" else "nothing without coupling"
    if int(records.tags[Tag.DONE]) < records.planned:
        return f"{what} is done yet"
    return f"{what} was measured; leave `search.baseline` out to have some tried"


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
        return "table", f"{records.name}: {counted(records.planned, 'setting')} x {_seeds(found)}{ended}"
    done = found.tried + sum(counts.values())
    return "study", f"{records.name}: {done} of {records.planned} settings x {_seeds(found)} done{ended}"


def _as_oscillator(found: Recommendation) -> Iterator[tuple[str, str]]:
    """Which regime the best average is in and what it leaves of the learning rate, if settings are averages."""
    if found.oscillator is None:
        return
    steps = found.records.steps
    derived = figures(found.oscillator, steps)
    of_the_run = f" of {steps}" if steps else ""
    known = [name for name in NATURAL if steps or name != "memory"]
    lag = f"lag {number(derived['lag'])}{of_the_run} steps"
    yield "regime", f"{regime_of(found.oscillator)}: {setting_text(derived, known)} ({lag})"
    yield "rates", _rates(derived, found.parameters.get(LEARNING_RATE))


def _seeds(found: Recommendation) -> str:
    """How many seeds settings were searched by; in a race the fewest and the most."""
    fewest, most = found.records.seeds, found.records.table["seed"].nunique()
    return counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"


def _on(found: Recommendation) -> str:
    """Which seeds the mean is over, or what it is with less luck, where these are the seeds of the search."""
    if found.fresh:
        return f" on {found.fresh} fresh seeds, the best of {found.finalists} finalists"
    return "" if found.shrunken is None else f", about {mean_text(found.shrunken, found.se)} with less luck"


def verdict(found: Recommendation) -> str:
    """Whether the best setting differs from the best EMA beyond chance, and if not, what would tell.

    Where an EMA is the best itself, whether other averages differ from it; where there is none, or nothing else to set
    against it, whether the best setting differs from all others. Of a study that is not finished it is so far.
    """
    said = _verdict(found)
    return said if found.records.finished else f"so far {said}"


def _verdict(found: Recommendation) -> str:
    versus = {comparison.baseline: comparison for comparison in found.versus}
    judge = _judge(found.records)
    if judge not in versus:
        return _against_runner_up(found)
    if versus[judge].itself:
        return _of_the_baseline_itself(found, judge)
    name, lead = BASELINE_TEXTS[judge], versus[judge].difference
    what_would_tell = _what_would_tell(found, lead, versus[judge].fresh)
    if lead.low > 0:
        return f"better than {name}, beyond chance" if lead.settled else f"ahead of {name}, but {what_would_tell}"
    return f"no setting is better than {JUDGES[judge]} beyond chance; {what_would_tell}"


def _of_the_baseline_itself(found: Recommendation, judge: Baseline) -> str:
    """Whether the best of other averages is told from the baseline, which measured best itself."""
    others = [each for each in found.versus if each.baseline not in JUDGES]
    if not others:
        return _against_runner_up(found)
    name = JUDGES[judge]
    untold = [each for each in others if not (each.difference.settled and each.difference.low > 0)]
    if not untold:
        return f"{name} is the best, better than any {'other' if judge == 'ema' else 'coupled'} average, beyond chance"
    nearest = min(untold, key=lambda each: each.difference.mean)
    other, lead = BASELINE_TEXTS[nearest.baseline], nearest.difference
    what_would_tell = _what_would_tell(found, lead, nearest.fresh)
    if lead.low > 0:
        return f"{name} is ahead of {other}, but {what_would_tell}"
    return f"{name} measured best, not beyond chance over {other}; {what_would_tell}"


def _against_runner_up(found: Recommendation) -> str:
    """Whether the best setting is told from all others; if not, from which it is not, and what would tell."""
    second = runner_up(found.records, found.setting, found.rivals)
    if second is None:
        return "no other setting to compare it with"
    setting, lead = second
    named = setting_text(row(found.records.settings, setting), _named(found))
    if found.settled:
        others = counted(found.others - found.left, "other complete setting")
        return f"better than {others}, beyond chance: {lead.mean:+.3g} (95 % at least {lead.low:+.3g}) over {named}"
    if not lead.mean:
        return f"not better than {named}, which measured the same"
    what_would_tell = _what_would_tell(found, lead, bool(found.fresh))
    if lead.low > 0 and lead.seeds < FEWEST:
        return f"ahead of {named}, but {what_would_tell}"
    return f"not better than {named} beyond chance; {what_would_tell}"


def _what_would_tell(found: Recommendation, between: Difference, fresh: bool) -> str:
    """How many seeds would tell a difference from 0, and of a finished study the command that trains them.

    Args:
        found: The recommendation.
        between: The difference.
        fresh: Whether it is over fresh seeds.
    """
    if not between.mean:
        return "the best of each measured the same"
    lead = f"{between.mean:+.2g}" if between.mean > 0 else f"the {-between.mean:.2g} that it is behind"
    if between.needed > MOST_CONFIRMED:
        return f"{lead} would take more than {MOST_CONFIRMED:,} seeds to tell"
    records, seeds = found.records, "fresh seeds" if found.records.of_a_study else "seeds"
    if math.isnan(between.needed):
        said, needed = f"one seed settles nothing, it takes at least {FEWEST} {seeds}", FEWEST
    else:
        needed = int(between.needed)
        few = f"{between.seeds} seeds settle nothing, " if between.seeds < FEWEST else ""
        said = f"{few}about {needed} {seeds} would tell {lead}"
    if not records.run or not records.finished or (found.fresh and not fresh):
        return said
    grown = f"confirm.seeds={needed}" if fresh else f"'confirm={{finalists: {ADVISED}, seeds: {needed}}}'"
    return f"{said}: belay-study extend {records.name} --set {grown}"


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
    if comparison.itself:
        return f"the best setting is itself {name}"
    setting = row(found.records.settings, comparison.setting)
    where = setting_text(setting, [*BASELINE_PARAMETERS[comparison.baseline], *varied])
    return f"{difference_text(comparison.difference)} over {name}" + (f" ({where})" if where else "")


def sureness(found: Recommendation) -> str:
    """How many of the others cannot be told from the best setting."""
    if found.rivals is None:
        return f"unknown with one seed; {'give `seeds` at least 2' if found.records.run else 'add rows of other seeds'}"
    if not found.others:
        return "no other setting was completed"
    count = found.others - found.left
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
