"""Writes a study of the ledger as Optuna studies, for optuna-dashboard and for Optuna's own analyses."""

from __future__ import annotations

from datetime import datetime

import optuna
from optuna.exceptions import DuplicatedStudyError, OptunaError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from study.design.places import secrets, without_password
from study.design.schema import Outcome
from study.design.study import Study
from study.errors import BadInput, reason
from study.execute.ledger import Asked, Ledger
from study.execute.search import ending, new_study, trial_of
from study.execute.tables import opened


def to_optuna(study: Study, url: str, to: str) -> list[str]:
    """Writes each search of a study as an Optuna study of its own; settings that are not done are left out.

    Args:
        study: The study.
        url: The ledger's URL.
        to: URL of the database to write to; one that is missing is made.

    Returns:
        The names of Optuna's studies: the study's, and NAME/ema for the plain EMAs searched beside its space.

    Raises:
        BadInput: The database cannot be written, or has a study of such a name.
    """
    with opened(url, making=False) as engine:
        ledger = Ledger(engine, study.config.name, url)
        asked, outcomes = ledger.asked(), ledger.outcomes()
    had = {number: {result.seed for result in outcome.seeds} for number, outcome in outcomes.items()}
    done = [each for each in asked if had.get(each.setting.number, set()).issuperset(study.config.stages[0])]
    names = {search: study.config.name + ("" if search == "main" else f"/{search}") for search in study.spaces}
    try:
        storage = optuna.storages.RDBStorage(to.replace("{", "{{").replace("}", "}}"))  # Optuna takes it for a template
        for search, name in names.items():
            made = new_study(study, storage=storage, study_name=name)
            members = [each for each in done if each.search == search]
            made.add_trials([_trial(study, each, outcomes[each.setting.number].part("search")) for each in members])
        storage.engine.dispose()
    except DuplicatedStudyError as error:
        raise BadInput(
            f"`to` must be a database without these studies, got {without_password(to)}, which has one of "
            f"{', '.join(names.values())}; name another."
        ) from error
    except (OptunaError, SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:  # the last: an old schema
        raise BadInput(
            f"`to` must be optuna: and a database that can be written, got {without_password(to)}: "
            f"{reason(error, secrets(to))}; name another."
        ) from None  # as its text may hold the password
    return list(names.values())


def _trial(study: Study, asked: Asked, outcome: Outcome) -> FrozenTrial:
    trial = trial_of(study.spaces[asked.search], asked.drawn, **ending(outcome, study))
    trial.datetime_complete = datetime.fromtimestamp(outcome.finished)
    trial.datetime_start = datetime.fromtimestamp(outcome.finished - outcome.seconds)
    trial.set_user_attr("setting", asked.setting.number)
    return trial
