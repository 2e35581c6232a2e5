"""Optuna's storage as the truth about studies: what was asked of them, what is done, and their configs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from alembic.util import CommandError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from study.design.apart import MLFLOW_TABLE, check_tables
from study.design.config import StudyConfig, parse_config
from study.design.places import alone, make_room, secrets, sqlite_file, with_password, without_password
from study.design.schema import Outcome
from study.design.study import Study
from study.errors import BadInput, reason
from study.execute.plan import plan

BUSY = 300  # seconds to wait for another thread's or process's write to an SQLite file
CONFIG, SETTING, OUTCOME = "config", "setting", "outcome"  # attributes of Optuna's studies and trials


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
    states = []
    with _opened(url) as storage:
        for name in study.spaces:
            stored = storage.get_study_id_from_name(study_name(study.config.name, name))
            trials = storage.get_all_trials(stored, deepcopy=False)
            states += [outcome.state for trial in trials if (outcome := outcome_of(trial))]
    return Counts(plan(study).settings, len(states), states.count("diverged"), states.count("failed"))


def check_name(config: StudyConfig, url: str) -> None:
    """Raises BadInput if the storage holds a study of this name that asks something else; creates nothing."""
    taken = _config(config.name, url)
    if taken is not None and taken.question != config.question:
        raise BadInput(
            f"the study's name must be new or its config the same, got {config.name!r} with another config in "
            f"{without_password(url)}; change `name` (or `--set name={config.name}-2`), or resume the old one."
        )


def is_finished(study: Study, url: str) -> bool:
    """Whether the storage has the study and nothing of it is left to run; creates nothing."""
    return _config(study.config.name, url) is not None and counts(study, url).finished


def stored_config(name: str, url: str) -> StudyConfig:
    """The config of a study in the storage.

    Raises:
        BadInput: The storage cannot be opened or has no study of this name.
    """
    config = _config(name, url)
    if config is None:
        raise BadInput(
            f"the study must exist in {without_password(url)}, got {name!r}; `belay-study list` shows what does."
        )
    return config


def check_storage(url: str) -> None:
    """Raises BadInput unless the storage answers."""
    with _opened(url):
        pass


def open_storage(url: str) -> RDBStorage:
    """The storage, made where it is not there; it holds connections until its `engine` is disposed of.

    Raises:
        BadInput: It cannot be opened, or is MLflow's database.
    """
    make_room("storage.url", url)
    try:
        with alone(url):
            check_tables(with_password(url), MLFLOW_TABLE, without_password(url))
            escaped = with_password(url).replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
            return RDBStorage(escaped, engine_kwargs={"connect_args": {"timeout": BUSY}} if sqlite_file(url) else None)
    except (SQLAlchemyError, CommandError, ImportError, RuntimeError, ValueError) as error:
        said = reason(error, secrets(url))
        raise BadInput(
            f"`storage.url` must be a database that answers, got {without_password(url)}: {said}; start or mend it."
        ) from None  # as its text may hold the password


@contextmanager
def _opened(url: str) -> Iterator[RDBStorage]:
    """The storage for as long as a look at it takes: its connections are closed at the end."""
    storage = open_storage(url)
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _config(name: str, url: str) -> StudyConfig | None:
    """The config kept with a study; None if there is none, or its driver died before it was kept."""
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return None
    with _opened(url) as storage:
        try:
            attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(study_name(name, "main")))
        except KeyError:
            return None
    return parse_config(attributes[CONFIG]) if CONFIG in attributes else None


def study_name(name: str, search: str) -> str:
    """What Optuna calls a search of a study."""
    return name if search == "main" else f"{name}/{search}"


def outcome_of(trial: FrozenTrial) -> Outcome | None:
    """What a trial came to; None if that is not known yet."""
    kept = trial.user_attrs.get(OUTCOME)
    return None if kept is None else Outcome.from_json(json.loads(kept))
