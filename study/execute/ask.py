"""Optuna asks and tells: the same settings whatever the timing, and after any interruption.

Optuna's storage is the one truth. Each search is an Optuna study of its own. Setting n of a search that learns is asked
when exactly the settings up to ``n - in_flight`` have been told, in their order, by a sampler whose seed is a function
of n; results that are in before their turn wait in the storage as an attribute of their trial. So neither the order in
which packs finish nor a killed driver changes what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.stats import qmc
from sqlalchemy.exc import SQLAlchemyError

from study.design.config import StudyConfig, parse_config
from study.design.places import make_room, sqlite_file, without_password
from study.design.schema import Outcome, Setting
from study.design.space import label
from study.design.study import Space, Study
from study.errors import BadInput
from study.execute.plan import Plan, plan

CONFIG, SETTING, OUTCOME = "config", "setting", "outcome"
LEARNING = {"tpe", "gp"}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Asker:
    """Asks a study's settings one by one and keeps what they came to.

    Args:
        study: The study.
        url: Optuna's storage.

    Raises:
        BadInput: The storage cannot be opened, or holds a study of this name that asks something else.
    """

    def __init__(self, study: Study, url: str) -> None:
        self.study, self.plan = study, plan(study)
        check_name(study.config, url)
        storage = _open(url)
        self._searches = [_Search(study, self.plan, name, index, storage) for index, name in enumerate(study.spaces)]
        self._searches[0].optuna.set_user_attr(CONFIG, study.config.model_dump(mode="json"))

    @property
    def asked_all(self) -> bool:
        """Whether every setting has been handed out."""
        return not any(search.left for search in self._searches)

    def ask(self) -> Setting | None:
        """The next setting to train; None if it has to wait for results, or none is left."""
        for search in sorted((s for s in self._searches if s.left), key=lambda s: s.next_number):
            if (setting := search.ask()) is not None:
                return setting
        return None

    def tell(self, outcome: Outcome) -> None:
        """Keeps a setting's outcome, and tells it to its search when its turn has come."""
        search = next(search for search in self._searches if outcome.setting in search.numbers)
        search.tell(outcome)

    def outcomes(self) -> Iterator[tuple[Setting, Outcome]]:
        """All settings that are done, in the order of their numbers."""
        done = [pair for search in self._searches for pair in search.done()]
        return iter(sorted(done, key=lambda pair: pair[0].number))


class Listed(BaseSampler):
    """Draws from a list of points in the order of the trials' numbers; nothing jointly."""

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
    """One Optuna study, whose trial n is the search's n-th setting; the first `told` trials are finished."""

    def __init__(self, study: Study, plan: Plan, name: str, index: int, storage: RDBStorage) -> None:
        self.study, self.space, self.index = study, study.spaces[name], index
        self.numbers = plan.numbers(name)
        self.learns = study.config.search.sampler in LEARNING
        self.points = plan.grids[name] if plan.grids else _points(study, self.space, index, len(self.numbers))
        self.optuna = optuna.create_study(
            storage=storage,
            study_name=_study_name(study.config.name, name),
            direction="maximize" if study.mode == "max" else "minimize",
            load_if_exists=True,
        )
        trials = self.optuna.get_trials(deepcopy=False)
        self.told = sum(trial.state.is_finished() for trial in trials)
        self.results = {trial.number: outcome for trial in trials if (outcome := _outcome(trial))}
        self.lost = [trial.number for trial in trials if trial.number not in self.results]
        self.optuna.sampler = Listed([])  # taking up old trials draws nothing
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
        """Hands out what an earlier driver lost, then the next setting, unless that must wait for results."""
        if self.lost:
            return self._draw(self.lost.pop(0))
        number = len(self.trials)
        needed = max(0, number - self.study.config.search.in_flight + 1) if self.learns else 0
        self._tell_until(needed)
        if self.told < needed:
            return None
        self.optuna.sampler = self._sampler(number)
        self.trials[number] = self.optuna.ask()
        return self._draw(number)

    def tell(self, outcome: Outcome) -> None:
        """Stores an outcome; it is told now if no later setting waits for it."""
        number = self.numbers.index(outcome.setting)
        self.trials[number].set_user_attr(OUTCOME, json.dumps(outcome.to_json()))
        self.results[number] = outcome
        if not self.learns or not self.left:
            self._tell_until(len(self.numbers))

    def done(self) -> Iterator[tuple[Setting, Outcome]]:
        """The settings that have an outcome."""
        for number, outcome in self.results.items():
            yield self._draw(number), outcome

    def _tell_until(self, number: int) -> None:
        while self.told < number and self.told in self.results:
            outcome = self.results[self.told]
            if outcome.state == "complete":
                self.optuna.tell(self.told, outcome.value(self.study.config.objective.metric))
            else:  # TPE ranks pruned trials below all others, and never sees failed ones
                self.optuna.tell(self.told, state=TrialState.PRUNED if outcome.state == "diverged" else TrialState.FAIL)
            self.told += 1

    def _draw(self, number: int) -> Setting:
        """The setting of a trial; drawn now, and kept with it, if that was never finished."""
        trial = self.trials[number]
        if (kept := trial.user_attrs.get(SETTING)) is not None:
            return Setting(self.numbers[number], kept)
        self.optuna.sampler = self._sampler(number)
        self.trials[number] = trial = Trial(self.optuna, trial._trial_id)
        self._pass_over(trial)
        drawn = {name: dimension.suggest(name, trial) for name, dimension in self.space.items()}
        setting = self.study.setting(self.numbers[number], drawn)
        trial.set_user_attr(SETTING, dict(setting))
        return setting

    def _pass_over(self, trial: Trial) -> None:
        """Has the sampler draw again, for nothing, what a killed driver drew: the next draws come out as they would."""
        labels = [label(name, dimension) for name, dimension in self.space.items()]
        drawn = trial.distributions
        for name in labels:
            if name in drawn and not drawn[name].single():
                frozen = self.optuna.get_trials(deepcopy=False)[trial.number]
                self.optuna.sampler.sample_independent(self.optuna, frozen, name, drawn[name])

    def _sampler(self, number: int) -> BaseSampler:
        if self.points is not None:
            return Listed(self.points)
        seed = _seed(self.study, self.index, number)
        kind = self.study.config.search.sampler
        if kind == "random":
            return RandomSampler(seed)
        return TPESampler(seed=seed) if kind == "tpe" else GPSampler(seed=seed)


def _seed(study: Study, *path: int) -> int:
    """A seed of its own for each place in the study."""
    return int(np.random.SeedSequence([study.config.search.seed, *path]).generate_state(1)[0])


def _points(study: Study, space: Space, index: int, count: int) -> list[dict[str, Any]] | None:
    """The points of a Sobol sequence, if that is how the space is searched."""
    if study.config.search.sampler != "qmc":
        return None
    sequence = qmc.Sobol(len(space), rng=_seed(study, index)).random_base2(max(0, count - 1).bit_length())
    return [{label(n, d): d.at(float(u)) for (n, d), u in zip(space.items(), row, strict=True)} for row in sequence]


def _outcome(trial: FrozenTrial) -> Outcome | None:
    kept = trial.user_attrs.get(OUTCOME)
    return None if kept is None else Outcome.from_json(json.loads(kept))


# --- Optuna's storage -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How far a study is, in settings."""

    planned: int
    done: int
    diverged: int
    failed: int

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return self.done == self.planned


def counts(study: Study, url: str) -> Counts:
    """How far a study is, read from the storage without changing it."""
    storage, states = _open(url), []
    for name in study.spaces:
        stored = storage.get_study_id_from_name(_study_name(study.config.name, name))
        states += [
            outcome.state for trial in storage.get_all_trials(stored, deepcopy=False) if (outcome := _outcome(trial))
        ]
    return Counts(plan(study).settings, len(states), states.count("diverged"), states.count("failed"))


def check_name(config: StudyConfig, url: str) -> None:
    """Raises BadInput if the storage holds a study of this name that asks something else; creates nothing."""
    file = sqlite_file(url)
    taken = None if file is not None and not file.exists() else _config(_open(url), config.name)
    if taken is not None and taken.question != config.question:
        raise BadInput(
            f"the study's name must be new or its config the same, got {config.name!r} with another config in "
            f"{without_password(url)}; change `name` (or `--set name={config.name}-2`), or resume the old one."
        )


def stored_config(name: str, url: str) -> StudyConfig:
    """The config of a study in the storage.

    Raises:
        BadInput: The storage cannot be opened or has no study of this name.
    """
    file = sqlite_file(url)
    config = None if file is not None and not file.exists() else _config(_open(url), name)
    if config is None:
        raise BadInput(
            f"the study must exist in {without_password(url)}, got {name!r}; `belay-study list` shows what does."
        )
    return config


def knock(url: str) -> None:
    """Raises BadInput unless the storage answers."""
    _open(url)


def _open(url: str) -> RDBStorage:
    make_room("storage.url", url)
    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise BadInput(
            f"`storage.url` must be a database that answers, got {without_password(url)}: {reason}."
        ) from error


def _config(storage: RDBStorage, name: str) -> StudyConfig | None:
    """The config kept with a study; None if there is none, or its driver died before it was kept."""
    try:
        attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(_study_name(name, "main")))
    except KeyError:
        return None
    return parse_config(attributes[CONFIG]) if CONFIG in attributes else None


def _study_name(name: str, search: str) -> str:
    return name if search == "main" else f"{name}/{search}"
