"""A race over seeds: the better settings of a search that is done get more seeds, so that the best is chosen surely.

As sequential halving (Karnin, Koren, Somekh 2013), with half of all runs in the first stage, a quarter in each of two
more: half of `seeds` for all settings, `seeds` more for the best quarter, twice as many for the best eighth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from study.design.riders import values_of
from study.design.schema import AVERAGE, Setting, live_of
from study.design.study import Study
from study.execute.finalists import Searched, ranked

SHARES = (0.25, 0.125)  # of a search's settings, that go on to the second and to the third stage
FEWEST = 2  # settings of a search that go on: one alone is compared with none


def runners(study: Study, searches: Mapping[str, tuple[int, Sequence[Searched]]], share: float) -> Iterator[Setting]:
    """The settings that get the seeds of a race's next stage: the best of each search, and the best unaveraged one.

    So EMAs, which have a search of their own, are measured as surely as all others. A setting is as good as the best of
    itself and its riders; one that did not complete every seed does not go on.

    Args:
        study: The study.
        searches: By search, how many settings it has and, with the same seeds each, those that are in the race.
        share: Of each search's settings that go on.
    """
    sign, metric = -1 if study.mode == "max" else 1, study.config.objective.metric

    def cost(searched: Searched) -> float:
        ridden = [value for value in values_of(study, searched[1]) if math.isfinite(value)]
        return min(sign * value for value in (searched[1].value(metric), *ridden))

    unaveraged: list[Searched] = []
    for size, searched in searches.values():
        complete = [each for each in searched if each[1].state == "complete"]
        best_first = sorted(complete, key=cost)
        yield from (setting for setting, _ in best_first[: max(FEWEST, math.ceil(share * size))])
        unaveraged += [each for each in complete if each[0]["coupling"] == 0]
    if metric.startswith(AVERAGE):
        yield from (setting for setting, _ in ranked(study, unaveraged, live_of(metric))[:1])
