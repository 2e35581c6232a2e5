"""Asks Optuna for settings and tells it their results: the same settings whatever the timing, and after a kill.

Optuna's storage is the one truth. Each search is an Optuna study of its own, and its n-th setting is Optuna's trial n.
A search that learns draws setting n once exactly the settings up to ``n - in_flight`` have been told, in their order,
with a sampler whose seed follows from n. A result that arrives earlier waits in the storage, as an attribute of its
trial. So neither the order in which packs finish nor a killed driver changes what is asked.

A study has one driver at a time: the lease is checked before each write, and a trial whose number is not the expected
one ends the run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.stats import qmc
from sqlalchemy.exc import SQLAlchemyError

from study.design.places import secrets
from study.design.schema import Outcome, Setting
from study.design.space import label
from study.design.study import Space, Study
from study.errors import FailedWork, TakenOver, reason
from study.execute.lease import Lease
from study.execute.plan import Plan, plan
from study.execute.storage import CONFIG, OUTCOME, SETTING, check_name, open_storage, outcome_of, study_name

LEARNING = {"tpe", "gp"}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Asker:
    """Asks a study's settings one by one and keeps their outcomes.

    Args:
        study: The study.
        url: Optuna's storage.
        lease: The right to drive the study; may be left out where no other driver can reach the storage.

    Raises:
        BadInput: The storage cannot be opened, or holds a study of this name that asks something else.
        FailedWork: The storage fails, or another driver has taken the study over.
    """

    def __init__(self, study: Study, url: str, lease: Lease | None = None) -> None:
        self.study, self.plan, self._secrets = study, plan(study), secrets(url)
        check_name(study.config, url)
        storage, check = open_storage(url), _nothing if lease is None else lease.check
        with self._storage():
            check()
            self._searches = [
                _Search(study, self.plan, name, index, storage, check) for index, name in enumerate(study.spaces)
            ]
            self._searches[0].optuna.set_user_attr(CONFIG, study.config.plain())

    @property
    def asked_all(self) -> bool:
        """Whether every setting has been handed out."""
        return not any(search.left for search in self._searches)

    def ask(self) -> Setting | None:
        """The next setting to train; None if it has to wait for results, or none is left.

        Raises:
            FailedWork: The storage fails, or another driver has taken the study over.
        """
        with self._storage():
            for search in sorted((s for s in self._searches if s.left), key=lambda s: s.next_number):
                if (setting := search.ask()) is not None:
                    return setting
        return None

    def tell(self, outcome: Outcome) -> None:
        """Keeps a setting's outcome, and tells it to its search once all settings before it are told.

        Raises:
            FailedWork: The storage fails, or another driver has taken the study over.
        """
        search = next(search for search in self._searches if outcome.setting in search.numbers)
        with self._storage():
            search.tell(outcome)

    def outcomes(self) -> Iterator[tuple[Setting, Outcome]]:
        """All settings that have an outcome, in the order of their numbers."""
        done = [pair for search in self._searches for pair in search.done()]
        return iter(sorted(done, key=lambda pair: pair[0].number))

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        """Turns an error of the storage into a FailedWork of one line."""
        try:
            yield
        except (SQLAlchemyError, OptunaError) as error:
            raise FailedWork(
                f"`storage.url` must take what is asked and told, got {reason(error, self._secrets)}; mend it, then "
                f"`belay-study resume {self.study.config.name}`."
            ) from error


class Listed(BaseSampler):
    """Gives trial n the n-th point of a list."""

    def __init__(self, points: list[dict[str, Any]]) -> None:
        self.points = points

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """No parameter is drawn jointly with others."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """No parameter is drawn jointly with others."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The parameter at the trial's own point."""
        return self.points[trial.number][param_name]


class _Search:
    """One Optuna study, whose trial n is the search's n-th setting; the first `told` trials are finished.

    Args:
        study: The study.
        plan: Which numbers the search's settings have in the study.
        name: The search's name.
        index: Its place among the study's searches.
        storage: Optuna's storage.
        check: Called before each write; raises FailedWork if another driver has taken the study over.
    """

    def __init__(
        self, study: Study, plan: Plan, name: str, index: int, storage: RDBStorage, check: Callable[[], None]
    ) -> None:
        self.study, self.space, self.index, self._check = study, study.spaces[name], index, check
        self.numbers = plan.numbers(name)
        self.learns = study.config.search.sampler in LEARNING
        self.points = plan.grids[name] if plan.grids else _points(study, self.space, index, len(self.numbers))
        self.optuna = optuna.create_study(
            storage=storage,
            study_name=study_name(study.config.name, name),
            direction="maximize" if study.mode == "max" else "minimize",
            load_if_exists=True,
        )
        trials = self.optuna.get_trials(deepcopy=False)
        self.told = sum(trial.state.is_finished() for trial in trials)
        self.results = {trial.number: outcome for trial in trials if (outcome := outcome_of(trial))}
        self.lost = [trial.number for trial in trials if trial.number not in self.results]  # their driver was killed
        self.optuna.sampler = Listed([])  # making a Trial calls the sampler, which must draw nothing here
        self.trials = {trial.number: Trial(self.optuna, trial._trial_id) for trial in trials}

    @property
    def left(self) -> bool:
        """Whether there is a setting to hand out."""
        return bool(self.lost) or len(self.trials) < len(self.numbers)

    @property
    def next_number(self) -> int:
        """The study-wide number of the setting that is handed out next."""
        return self.numbers[self.lost[0] if self.lost else len(self.trials)]

    def ask(self) -> Setting | None:
        """Hands out the settings that a killed driver left without an outcome, then new ones.

        None if a new setting must wait for results.
        """
        if self.lost:
            self._check()
            return self._draw(self.lost.pop(0))
        number = len(self.trials)
        needed = max(0, number - self.study.config.search.in_flight + 1) if self.learns else 0
        self._tell_until(needed)
        if self.told < needed:
            return None
        self._check()
        self.optuna.sampler = self._sampler(number)
        trial = self.optuna.ask()
        if trial.number != number:
            raise self._interference(f"trial {number} was asked by another driver")
        self.trials[number] = trial
        return self._draw(number)

    def tell(self, outcome: Outcome) -> None:
        """Stores an outcome. It is told at once only where this cannot change what later settings are drawn from."""
        number = self.numbers.index(outcome.setting)
        self._check()
        try:
            self.trials[number].set_user_attr(OUTCOME, json.dumps(outcome.to_json()))
        except UpdateFinishedTrialError as error:
            raise self._interference(f"trial {number} was told by another driver") from error
        self.results[number] = outcome
        if not self.learns or not self.left:
            self._tell_until(len(self.numbers))

    def done(self) -> Iterator[tuple[Setting, Outcome]]:
        """The settings that have an outcome."""
        for number, outcome in self.results.items():
            yield self._draw(number), outcome

    def _tell_until(self, number: int) -> None:
        """Tells the outcomes of the trials before `number` in their order, up to the first that is still missing."""
        while self.told < number and self.told in self.results:
            self._check()
            outcome, value, state = self.results[self.told], None, None
            if outcome.state == "complete":
                value = outcome.value(self.study.config.objective.metric)
            else:  # TPE ranks pruned trials below all others, and never sees failed ones
                state = TrialState.PRUNED if outcome.state == "diverged" else TrialState.FAIL
            try:
                self.optuna.tell(self.told, value, state)
            except ValueError as error:  # Optuna's answer where the trial is finished already
                raise self._interference(f"trial {self.told} was told by another driver") from error
            self.told += 1

    def _interference(self, what: str) -> TakenOver:
        name = self.study.config.name
        return TakenOver(
            f"a study must have one driver at a time, got {name!r}, whose {what}; stop that one or wait for its end, "
            f"then `belay-study resume {name}`."
        )

    def _draw(self, number: int) -> Setting:
        """The setting of a trial: as the storage has it, else drawn now and stored."""
        trial = self.trials[number]
        if (kept := trial.user_attrs.get(SETTING)) is not None:
            return Setting(self.numbers[number], kept)
        self.optuna.sampler = self._sampler(number)
        self.trials[number] = trial = Trial(self.optuna, trial._trial_id)
        self._replay_draws(trial)
        drawn = {name: dimension.suggest(name, trial) for name, dimension in self.space.items()}
        setting = self.study.setting(self.numbers[number], drawn)
        trial.set_user_attr(SETTING, dict(setting))
        return setting

    def _replay_draws(self, trial: Trial) -> None:
        """Repeats the draws that a killed driver stored, so that the random stream continues where it was."""
        labels = [label(name, dimension) for name, dimension in self.space.items()]
        drawn = trial.distributions
        for name in labels:
            if name in drawn and not drawn[name].single():
                frozen = self.optuna.get_trials(deepcopy=False)[trial.number]
                self.optuna.sampler.sample_independent(self.optuna, frozen, name, drawn[name])

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler that draws trial `number`."""
        if self.points is not None:
            return Listed(self.points)
        seed = _seed(self.study, self.index, number)
        kind = self.study.config.search.sampler
        if kind == "random":
            return RandomSampler(seed)
        return TPESampler(seed=seed) if kind == "tpe" else GPSampler(seed=seed)


def _nothing() -> None:
    """The check where there is no lease."""


def _seed(study: Study, *path: int) -> int:
    """A seed that follows from the study's seed and a path of numbers, such as search and trial."""
    return int(np.random.SeedSequence([study.config.search.seed, *path]).generate_state(1)[0])


def _points(study: Study, space: Space, index: int, count: int) -> list[dict[str, Any]] | None:
    """The first `count` points of a Sobol sequence (or a few more) for the sampler qmc; None for any other."""
    if study.config.search.sampler != "qmc":
        return None
    sequence = qmc.Sobol(len(space), rng=_seed(study, index)).random_base2(max(0, count - 1).bit_length())
    return [{label(n, d): d.at(float(u)) for (n, d), u in zip(space.items(), row, strict=True)} for row in sequence]
