"""Riders: averages without coupling that watch a setting's training beside its own, as settings of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator

from study.design.schema import MOST_RIDERS, PARAMETERS, RIDERS, Outcome, SeedResult, Setting, over_seeds
from study.design.study import Study


def rider(study: Study, host: Setting, place: int) -> Setting:
    """The setting that a rider is: its host's, with its own average."""
    average = study.riders[place]
    own = {name: getattr(average, name) for name in PARAMETERS}
    return Setting(RIDERS + MOST_RIDERS * host.number + place, {**host, **own})


def place_of(setting: int) -> int:
    """A rider's place among those of its host, by its number."""
    return (setting - RIDERS) % MOST_RIDERS


def outcome_of(outcome: Outcome, steps: int, setting: Setting) -> Outcome:
    """What a rider came to on the seeds that are searched by.

    Args:
        outcome: What its host came to.
        steps: Of each run.
        setting: The rider.
    """
    place = place_of(setting.number)
    seeds = [
        SeedResult(
            result.seed,
            [(steps, {name: values[place] for name, values in result.riders.items()})],
            finished=result.finished,
        )
        for result in outcome.part("search").seeds
    ]
    return Outcome(setting.number, seeds)


def riders_of(study: Study, host: Setting, outcome: Outcome) -> Iterator[tuple[Setting, Outcome]]:
    """The riders of a setting, with what each came to; of those that were finite on every seed.

    Args:
        study: The study.
        host: The setting.
        outcome: What it came to.
    """
    for place, value in enumerate(values_of(study, outcome)):
        if math.isfinite(value):
            setting = rider(study, host, place)
            yield setting, outcome_of(outcome, study.config.steps, setting)


def values_of(study: Study, outcome: Outcome) -> list[float]:
    """The objective of each rider over the seeds that its host is searched by; nan where one of them is not finite.

    A host that did not complete every seed, with riders on each, has none.
    """
    searched, metric = outcome.part("search"), study.config.objective.metric
    if searched.state != "complete" or not all(metric in result.riders for result in searched.seeds):
        return []
    columns = zip(*(result.riders[metric] for result in searched.seeds), strict=True)
    return [over_seeds(values) for values in columns]
