"""Deletes a study: its rows in the ledger, and its experiment in MLflow, which goes to MLflow's trash."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import inspect

from study.design.places import Connections, sqlite_file, without_password
from study.design.schema import Tag
from study.errors import BadInput
from study.execute.lease import Lease
from study.execute.ledger import Ledger
from study.execute.tables import LEASES, opened
from study.tracking import all_runs, answering, connect, pages

ADVICE = "tracking", "name another"  # what names the tracking store, and what else to do than to start it


@dataclass(frozen=True)
class Stored:
    """What there is of a study.

    Attributes:
        name: The study.
        places: Where its records are.
        in_ledger: Whether the ledger has it.
        settings: How many settings the ledger has.
        results: How many results, one for each seed of a setting.
        experiment: Id of its MLflow experiment; "" where there is none.
        runs: How many runs that has.
    """

    name: str
    places: Connections
    in_ledger: bool
    settings: int
    results: int
    experiment: str
    runs: int

    @property
    def text(self) -> str:
        """What there is and where, in words."""
        parts = []
        if self.in_ledger:
            rows = f"{_count(self.settings, 'setting')} with {_count(self.results, 'result')}"
            parts.append(f"{rows} in the ledger {without_password(self.places.storage)}")
        if self.experiment:
            parts.append(f"{_count(self.runs, 'run')} in MLflow at {without_password(self.places.tracking)}")
        return f"{self.name}: {' and '.join(parts)}"

    @property
    def name_in_trash(self) -> str:
        """What its experiment is called in MLflow's trash, where names stay taken, so that its own is free."""
        return _in_trash(self.name, self.experiment)


def _in_trash(name: str, experiment: str) -> str:
    ending = f"-deleted-{experiment}"
    return name if name.endswith(ending) else name + ending


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def stored(name: str, places: Connections) -> Stored:
    """What there is of a study; nothing is changed.

    Raises:
        BadInput: There is nothing, a store does not answer, or the study's experiment holds other runs too.
    """
    in_ledger, settings, results = _in_ledger(name, places.storage)
    experiment, runs = _in_mlflow(name, places.tracking, in_ledger)
    if not in_ledger and not experiment:
        raise BadInput(
            f"the study must exist in {without_password(places.storage)} or {without_password(places.tracking)}, got "
            f"{name!r}; `belay-study list` shows what does."
        )
    return Stored(name, places, in_ledger, settings, results, experiment, runs)


def delete(name: str, places: Connections, say: Callable[[str], None]) -> Stored:
    """Deletes a study, or finishes a deletion that was interrupted: the ledger's part, which names it, comes last.

    Args:
        name: The study.
        places: Where its records are.
        say: Called with a line if another driver has to be waited for.

    Returns:
        What there was.

    Raises:
        BadInput: As `stored` raises it, or a driver runs the study; nothing has been deleted.
        FailedWork: The ledger cannot be written.
    """
    if not _has_ledger(places.storage):
        found = stored(name, places)
        _delete_experiment(found)
        return found
    with _driving(name, places.storage, say) as ledger:
        found = stored(name, places)
        _delete_experiment(found)
        if found.in_ledger:
            ledger.delete()
    return found


@contextmanager
def _driving(name: str, url: str, say: Callable[[str], None]) -> Iterator[Ledger]:
    """A study's pages of the ledger, which no other driver may write meanwhile."""
    with opened(url, making=True) as engine, Lease(name, engine, say) as lease:
        yield Ledger(engine, name, url, lease)


def _has_ledger(url: str) -> bool:
    """Whether there is a ledger, in which a driver might hold a lease."""
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return False
    with opened(url, making=False) as engine:
        return inspect(engine).has_table(LEASES.name)


def _in_ledger(name: str, url: str) -> tuple[bool, int, int]:
    """Whether the ledger has the study, and how many settings and results of it."""
    if not _has_ledger(url):
        return False, 0, 0
    with opened(url, making=False) as engine:
        ledger = Ledger(engine, name, url)
        return (False, 0, 0) if ledger.config is None else (True, *ledger.size())


def _in_mlflow(name: str, uri: str, in_ledger: bool) -> tuple[str, int]:
    """The id of the study's experiment and how many runs it has, also of one in MLflow's trash; "" and 0 without one.

    An experiment of the study's name that no run shows to be a study's is one only if the ledger has the study.
    """
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return "", 0
    client = connect(uri, *ADVICE)
    with answering(uri, *ADVICE):
        experiment = client.get_experiment_by_name(name)
        if experiment is None and in_ledger:  # a kill may have come before a renamed one was moved to the trash
            every = pages(client.search_experiments)
            experiment = next((each for each in every if each.name == _in_trash(name, each.experiment_id)), None)
        runs = list(all_runs(client, experiment.experiment_id)) if experiment else []
    if experiment is None or not (in_ledger or any(Tag.KIND in run.data.tags for run in runs)):
        return "", 0
    if others := [run.info.run_name for run in runs if Tag.KIND not in run.data.tags]:
        raise BadInput(
            f"the MLflow experiment of {name!r} must hold nothing else, got {_count(len(others), 'other run')}, as "
            f"{others[0]}; delete those first (`mlflow runs delete`, then `mlflow gc`)."
        )
    return str(experiment.experiment_id), len(runs)


def _delete_experiment(found: Stored) -> None:
    """Moves the study's experiment to MLflow's trash under another name; one in the trash has to leave it for that."""
    if not found.experiment:
        return
    uri = found.places.tracking
    client = connect(uri, *ADVICE)
    with answering(uri, *ADVICE):
        if client.get_experiment(found.experiment).lifecycle_stage != "active":
            client.restore_experiment(found.experiment)
        if client.get_experiment(found.experiment).name != found.name_in_trash:
            client.rename_experiment(found.experiment, found.name_in_trash)
        client.delete_experiment(found.experiment)
