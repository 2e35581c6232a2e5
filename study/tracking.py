"""Connects to MLflow's tracking store and finds runs in it: for the recorder, and for the commands that read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy.exc import SQLAlchemyError

from study.design.places import alone, check_answers, secrets, sqlite_file, with_password, without_password
from study.design.schema import Tag
from study.errors import BadInput, reason

ANSWER = "answers", "start it"
REFUSALS = {  # what MLflow's error codes ask for
    "UNAUTHENTICATED": ("takes the login", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to one it knows"),
    "PERMISSION_DENIED": ("lets the login use the records", "take the login that made them, have it given the right"),
}
SERVED = "mlflow-artifacts:"  # what the place of artifacts that a server hands on begins with
BESIDE = "artifacts"  # the folder beside an SQLite file in which its studies' artifacts are
PAGE = 1000  # the most runs that MLflow gives at once


def connect(uri: str, key: str, advice: str) -> MlflowClient:
    """A client of a tracking store that answers.

    Args:
        uri: MLflow's tracking URI.
        key: What gave it, for the message.
        advice: What else to do than to start it, for the message.

    Raises:
        BadInput: It does not answer, or refuses the login.
    """
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with answering(uri, key, advice):
        check_answers(uri)
        with alone(uri):
            client = MlflowClient(tracking_uri=with_password(uri))
            client.search_experiments(max_results=1)
    return client


@contextmanager
def answering(uri: str, key: str, advice: str) -> Iterator[None]:
    """Says in one line that the tracking store does not answer; takes what `connect` takes.

    Raises:
        BadInput: It does not.
    """
    try:
        yield
    except (MlflowException, OSError, ImportError, ValueError, SQLAlchemyError, CommandError) as error:
        rule, mend = REFUSALS.get(getattr(error, "error_code", ""), ANSWER)
        raise BadInput(
            f"`{key}` must be an MLflow server or database that {rule}, got {without_password(uri)}: "
            f"{reason(error, secrets(uri))}; {mend}, or {advice}."
        ) from None  # as its text may hold the password


def check_artifacts(experiment: Experiment, uri: str, key: str) -> None:
    """Refuses a database in place of the server by which an experiment's artifacts are reached.

    Raises:
        BadInput: The experiment was made by a server and is asked for without it.
    """
    if experiment.artifact_location.startswith(SERVED) and urlsplit(uri).scheme not in ("http", "https"):
        raise BadInput(
            f"`{key}` must be the MLflow server that keeps the artifacts of {experiment.name!r}, got its database "
            f"{without_password(uri)}; name the server, as in http://HOST:5000."
        )


def artifacts(client: MlflowClient, run: str) -> ArtifactRepository:
    """The artifacts of a run: where MLflow noted, or beside its SQLite file if that was moved or copied with them."""
    place, file = client.get_run(run).info.artifact_uri, sqlite_file(client.tracking_uri)
    if file is not None and (moved := file.parent / BESIDE / run / "artifacts").is_dir():
        place = moved.absolute().as_uri()
    return get_artifact_repository(place, tracking_uri=client.tracking_uri)


def runs(client: MlflowClient, experiments: Sequence[str], kind: str, **tags: str) -> Iterator[Run]:
    """All runs of a kind (`study.design.schema.Tag.KIND`) in some experiments, newest first.

    Args:
        client: Of the tracking store.
        experiments: Their ids.
        kind: A value of `Tag.KIND`.
        tags: Further tags that the runs must have.
    """
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in {Tag.KIND: kind, **tags}.items())
    return pages(lambda **page: client.search_runs(list(experiments), filter_string=query, **page))


def all_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """All runs of an experiment, of whatever kind, also those in MLflow's trash."""
    return pages(lambda **page: client.search_runs([experiment], run_view_type=ViewType.ALL, **page))


def pages(search: Any) -> Iterator[Any]:
    """All items of a paged search."""
    token = None
    while True:
        page = search(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
