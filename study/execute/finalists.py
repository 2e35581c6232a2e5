"""Chooses the settings that are measured once more, on fresh seeds, when a search is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from study.design.schema import AVERAGE, Outcome, Setting, family, live_of
from study.design.study import Study


def finalists(study: Study, settings: Sequence[Setting], outcomes: Mapping[int, Outcome]) -> list[Setting]:
    """The finalists of a study whose search is done, by their means over the seeds that it was searched on.

    They are the best setting, the best EMA and the best without averaging; then the best of each other family; then the
    next best. A setting that did not complete every seed is none.

    Args:
        study: The study.
        settings: All that it asked.
        outcomes: What each came to, by number, with the last values of the objective and of its live counterpart.
    """
    confirm, metric = study.config.confirm, study.config.objective.metric
    if confirm is None:
        return []
    searched = {setting.number: outcomes[setting.number].part("search") for setting in settings}
    complete = [setting for setting in settings if searched[setting.number].state == "complete"]

    def ranked(metric: str) -> list[Setting]:
        sign = -1 if study.mode == "max" else 1
        return sorted(complete, key=lambda setting: sign * searched[setting.number].value(metric))

    chosen = {setting.number: setting for setting in _in_order(ranked(metric), _unaveraged(ranked, metric))}
    return list(chosen.values())[: confirm.finalists]


def _in_order(ranking: Sequence[Setting], unaveraged: Sequence[Setting]) -> Iterator[Setting]:
    """The settings in the order in which they become finalists, some of them twice."""
    families: dict[str, Setting] = {}
    for setting in ranking:
        families.setdefault(family(setting.oscillator), setting)
    yield from ranking[:1]
    if "ema" in families:
        yield families["ema"]
    yield from unaveraged[:1]
    yield from families.values()
    yield from ranking


def _unaveraged(ranked: Callable[[str], list[Setting]], metric: str) -> list[Setting]:
    """The settings whose average leaves training alone, by what the model's own weights came to."""
    if not metric.startswith(AVERAGE):
        return []
    return [setting for setting in ranked(live_of(metric)) if setting.oscillator.coupling == 0]
