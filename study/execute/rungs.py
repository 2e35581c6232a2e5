"""Successive halving over steps: what a setting has to reach at each rung of its run, so that it goes on.

As Ray Tune's and Optuna's asynchronous halving (ASHA; Li et al. 2018) with a factor of two, except that a setting is
compared only with settings of earlier waves, so that timing changes nothing. The first seed of a setting decides for
all of them: seeds are trained one after the other where models are large.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

from study.design.schema import Outcome, SeedResult
from study.design.study import Study
from study.execute.plan import JUDGED, Bars

FEWEST = 4  # settings that have got to a rung before it lets go of any


class Rungs:
    """What settings have come to at the rungs of a study.

    Args:
        study: The study.
        outcomes: Of the settings that are told already, with the histories of their first seeds.
    """

    def __init__(self, study: Study, outcomes: Iterable[Outcome] = ()) -> None:
        self._study = study
        self._reached: dict[int, list[float]] = {}  # by number: the objective at each rung that it got to
        for outcome in outcomes:
            self.tell(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Takes what a setting came to."""
        for result in outcome.seeds:
            if result.seed == JUDGED:
                self._reached[outcome.setting] = list(self._at_rungs(result))

    def bars(self, numbers: Iterable[int]) -> Bars:
        """The median of these settings at each rung, as far as enough of them got."""
        reached, bars = [self._reached.get(number, []) for number in numbers], []
        for place, step in enumerate(self._study.config.rung_steps):
            values = [values[place] for values in reached if len(values) > place]
            if len(values) < FEWEST:
                break
            bars.append((step, median(values)))
        return tuple(bars)

    def _at_rungs(self, result: SeedResult) -> Iterator[float]:
        """The objective at each rung: as it was first reported there or after it, before the end of the run."""
        config = self._study.config
        metric = config.objective.metric
        reported = [(step, metrics[metric]) for step, metrics in result.history if metric in metrics]
        for rung in config.rung_steps:
            due = [value for step, value in reported if rung <= step < config.steps]
            if not due:
                return
            yield due[0]
