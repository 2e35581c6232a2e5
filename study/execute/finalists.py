"""Chooses the settings that are measured once more, on fresh seeds, when a search is done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from study.design.riders import outcome_of, rider, values_of
from study.design.schema import AVERAGE, Family, Outcome, Setting, family, live_of
from study.design.study import Study

Searched = tuple[Setting, Outcome]  # a setting, and what it came to on the seeds that are searched by


def finalists(study: Study, searched: Sequence[Searched]) -> list[Searched]:
    """The finalists of a study whose search is done, by their means over the seeds that it was searched on.

    They are the best setting, the best EMA and the best without averaging; then the best of each other family; then the
    next best. The best riders of each setting, one a family, are settings too. One that did not complete every seed is
    no finalist. Those that were longer in a race are better.

    Args:
        study: The study.
        searched: All that it asked, with the last values of the objective and of its live counterpart.
    """
    confirm, metric = study.config.confirm, study.config.objective.metric
    if confirm is None:
        return []
    complete = [each for each in searched if each[1].state == "complete"]
    riders = [each for one in complete for each in _best_riders(study, *one)]
    unaveraged = [each for each in complete if each[0]["coupling"] == 0] if metric.startswith(AVERAGE) else []
    order = _in_order(ranked(study, [*complete, *riders], metric), ranked(study, unaveraged, live_of(metric)))
    chosen = {setting.number: (setting, outcome) for setting, outcome in order}
    return list(chosen.values())[: confirm.finalists]


def _best_riders(study: Study, host: Setting, outcome: Outcome) -> Iterator[Searched]:
    """The best rider of each family of a setting; all of them would be as good as alike."""
    best: dict[Family, tuple[float, int]] = {}
    sign = -1 if study.mode == "max" else 1
    for place, value in enumerate(values_of(study, outcome)):
        if math.isfinite(value):
            kind = family(study.riders[place])
            best[kind] = min(best.get(kind, (math.inf, 0)), (sign * value, place))
    for _, place in best.values():
        setting = rider(study, host, place)
        yield setting, outcome_of(outcome, study.config.steps, setting)


def ranked(study: Study, searched: Sequence[Searched], metric: str) -> list[Searched]:
    """Best first: those with most seeds, then by the metric's mean; ties in the order in which they were asked."""
    sign = -1 if study.mode == "max" else 1
    return sorted(searched, key=lambda each: (-len(each[1].seeds), sign * each[1].value(metric)))


def _in_order(ranking: Sequence[Searched], unaveraged: Sequence[Searched]) -> Iterator[Searched]:
    """The settings in the order in which they become finalists, some of them twice."""
    families: dict[Family, Searched] = {}
    for each in ranking:
        families.setdefault(family(each[0].oscillator), each)
    yield from ranking[:1]
    if "ema" in families:
        yield families["ema"]
    yield from unaveraged[:1]
    yield from families.values()
    yield from ranking
