"""One search of a study: draws its settings by Optuna, in a grid or as points, the same ones after a kill.

A sampler that learns draws from what it is shown of the settings before. Optuna lives in memory and is fed from the
ledger.
"""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from study.design.config import MOST_SETTINGS
from study.design.dimension import label
from study.design.riders import values_of
from study.design.schema import COORDINATES, INFINITE, PARAMETERS, Outcome, Value, natural
from study.design.space import Space, combinations, drawn_as, grid, holds, suggest
from study.design.start import known
from study.design.study import Study
from study.execute.ledger import Asked
from study.execute.plan import LEARNING, Plan

optuna.logging.set_verbosity(optuna.logging.WARNING)

POINTS = 1000  # tried in place of a setting that was drawn before, of a space of many


class Search:
    """Draws the settings of one search.

    To Optuna a setting that was drawn is a running trial. When it is told, that trial is marked as failed, and a
    finished one is added, then one for its best rider. So finished trials are in the order of the settings' numbers,
    whatever had been drawn before they were told.

    Args:
        study: The study.
        index: The search's place among the study's.
        plan: Which numbers its settings have.
        name: Its name.
    """

    def __init__(self, study: Study, index: int, plan: Plan, name: str) -> None:
        self._study, self._space, self._index, self._name = study, study.spaces[name], index, name
        self._asked: list[Asked] = []
        self._trials: list[int] = []  # Optuna's number of each
        self._told = 0
        self._sampler = study.config.search.sampler
        self._points: list[dict[str, Any]] = []
        self._start = [known(values, self._space) for values in study.config.search.start] if name == "main" else []
        if self._sampler not in LEARNING:
            count = len(plan.numbers(name))
            if plan.grids:
                self._points = [drawn_as(self._space, point) for point in plan.grids[name]]
            else:
                self._points = _points(study, self._space, index, count)
                self._points = [*map(operator.or_, self._points, self._start), *self._points[len(self._start) :]]
        self._optuna = new_study(study)
        self._known: set[str] = set()  # all that was drawn, as JSON
        self._rest = self._shuffled() if combinations(self._space) <= MOST_SETTINGS else None

    def add(self, asked: Asked) -> None:
        """Takes a setting that was drawn before; of a grid, perhaps in the order of an earlier version."""
        place = len(self._asked)
        if self._sampler == "grid" and self._points[place] != asked.drawn and asked.drawn in self._points:
            self._points.insert(place, self._points.pop(self._points.index(asked.drawn)))
        self._asked.append(asked)
        self._known.add(_as_key(asked.drawn))
        if self._sampler in LEARNING:
            self._trials.append(self._enter(asked.drawn))

    def _enter(self, drawn: Mapping[str, Any]) -> int:
        """Enters what was drawn as a trial that still runs; Optuna's number of it."""
        self._optuna.add_trial(trial_of(self._space, drawn, state=TrialState.RUNNING))
        return len(self._optuna.get_trials(deepcopy=False)) - 1

    def learn(self, outcomes: Mapping[int, Outcome]) -> None:
        """Shows Optuna, if it draws, what the first settings came to on the seeds that all of them got, by number."""
        if self._sampler not in LEARNING:
            return
        new = slice(self._told, len(outcomes))
        for asked, trial in zip(self._asked[new], self._trials[new], strict=True):
            outcome = outcomes[asked.setting.number]
            self._optuna.tell(trial, state=TrialState.FAIL)
            self._optuna.add_trial(trial_of(self._space, asked.drawn, **ending(outcome, self._study)))
            if best := self._best_rider(outcome):
                drawn, value = best
                self._optuna.add_trial(trial_of(self._space, asked.drawn | drawn, value=value))
        self._told = len(outcomes)

    def draw(self, numbers: Sequence[int]) -> Iterator[Asked]:
        """The next settings, which get these numbers."""
        if numbers and self._sampler in LEARNING:
            self._optuna.sampler = self._learning(_seed(self._study, self._index, numbers[0]))
        for number in numbers:
            drawn = self._ask_optuna() if self._sampler in LEARNING else self._next_point()
            values = suggest(self._space, FixedTrial(drawn))
            self._known.add(_as_key(drawn))
            self._asked.append(Asked(self._name, drawn, self._study.setting(number, values)))
            yield self._asked[-1]

    def _next_point(self) -> dict[str, Any]:
        """The next point of a search that does not learn; in place of what it drew before, another."""
        return self._new(self._varying(self._points[len(self._asked)]))

    def _ask_optuna(self) -> dict[str, Any]:
        """What Optuna draws next, around what is known of it; in place of what it drew before, another."""
        if len(self._asked) < len(self._start):
            self._optuna.enqueue_trial(self._start[len(self._asked)])
        trial = self._optuna.ask()
        suggest(self._space, trial)
        drawn = self._new(trial.params)
        if drawn != trial.params:
            self._optuna.tell(trial, state=TrialState.FAIL)
        self._trials.append(trial.number if drawn == trial.params else self._enter(drawn))
        return drawn

    def _new(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """What was drawn, or where that was drawn before, another that was not."""
        if _as_key(drawn) not in self._known:
            return drawn
        others = self._scattered() if self._rest is None else self._rest
        return next((other for other in others if _as_key(other) not in self._known), drawn)

    def _shuffled(self) -> Iterator[dict[str, Any]]:
        """All that a space of few settings holds, in an order that the study's seed fixes."""
        settings = grid(self._space)
        for place in np.random.default_rng(_seed(self._study, self._index)).permutation(len(settings)):
            yield drawn_as(self._space, settings[place])

    def _scattered(self) -> Iterator[dict[str, Any]]:
        """Random points of a space of many settings, which the study's seed and the place of the next setting fix."""
        seed = _seed(self._study, self._index, len(self._asked))
        for shares in np.random.default_rng(seed).random((POINTS, len(self._space))):
            yield self._varying(_point(self._space, shares))

    def _varying(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """What varies of a point: of a parameter whose conditions do not hold there, nothing is drawn."""
        point = FixedTrial(dict(drawn))
        suggest(self._space, point)
        return point.params

    def _best_rider(self, outcome: Outcome) -> tuple[dict[str, Value], float] | None:
        """The best rider of a setting that the search could have drawn: what of it differs from the setting; its value.

        All riders would swamp what the search itself has drawn.
        """
        values = values_of(self._study, outcome)
        there = [(values[place], place) for place in self._riders if values and math.isfinite(values[place])]
        if not there:
            return None
        value, place = max(there) if self._study.mode == "max" else min(there)
        return self._riders[place], value

    @functools.cached_property
    def _riders(self) -> dict[int, dict[str, Value]]:
        """What Optuna would have drawn for riders, by place, of those within the space."""
        steps, space = self._study.config.steps, {n: d for n, d in self._space.items() if n in COORDINATES}
        found = {}
        for place, average in enumerate(self._study.riders):
            raw = {name: getattr(average, name) for name in PARAMETERS}
            ratio = {"damping_ratio": INFINITE} if average.damping_ratio == math.inf else {}
            values = raw | natural(average, steps) | ratio
            if holds(space, values):
                found[place] = drawn_as(space, values)
        return found

    def _learning(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed) if self._sampler == "tpe" else GPSampler(seed=seed)


def new_study(study: Study, **options: Any) -> optuna.Study:
    """An empty Optuna study with the study's direction."""
    return optuna.create_study(direction="maximize" if study.mode == "max" else "minimize", **options)


def trial_of(space: Space, drawn: Mapping[str, Any], **ending: Any) -> FrozenTrial:
    """Optuna's trial of a setting that was drawn before, with this state and these values."""
    fixed = FixedTrial(dict(drawn))
    suggest(space, fixed)  # notes the parameters' distributions
    return create_trial(params=fixed.params, distributions=fixed.distributions, **ending)


def ending(outcome: Outcome, study: Study) -> dict[str, Any]:
    """The state and values by which Optuna is told of an outcome."""
    if outcome.state == "complete":
        return {"state": TrialState.COMPLETE, "values": [outcome.value(study.config.objective.metric)]}
    # TPE ranks pruned trials below all others, those with values by the last one, and never sees failed ones.
    if outcome.state == "pruned":
        step, metrics = outcome.seeds[0].history[-1]
        return {"state": TrialState.PRUNED, "intermediate_values": {step: metrics[study.config.objective.metric]}}
    return {"state": TrialState.PRUNED if outcome.state == "diverged" else TrialState.FAIL}


def _seed(study: Study, *path: int) -> int:
    """A seed that follows from the study's seed and a path of numbers, such as search and setting."""
    return int(np.random.SeedSequence([study.config.search.seed, *path]).generate_state(1)[0])


def _as_key(drawn: Mapping[str, Any]) -> str:
    """What was drawn as a text by which it is known again."""
    return json.dumps(drawn, sort_keys=True)


def _points(study: Study, space: Space, index: int, count: int) -> list[dict[str, Any]]:
    """The points of a search that does not learn, `count` or a few more; those of a longer one begin with them."""
    seed, parameters = _seed(study, index), len(space)
    if study.config.search.sampler == "qmc":
        from scipy.stats import qmc  # half a second, which no other search waits for

        shares = qmc.Sobol(parameters, rng=seed).random_base2(max(0, count - 1).bit_length())
    else:
        shares = np.random.default_rng(seed).random((count, parameters))
    return [_point(space, row) for row in shares]


def _point(space: Space, shares: Iterable[float]) -> dict[str, Any]:
    """What Optuna draws, by its own names, at these shares of the dimensions, from 0 to 1 each."""
    return {label(name, each): each.at(float(share)) for (name, each), share in zip(space.items(), shares, strict=True)}
