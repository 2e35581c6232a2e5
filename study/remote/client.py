"""The jobs of a Ray cluster, through its dashboard. The only file that talks to it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import ray
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from study.design.places import check_answers, without_password
from study.errors import BadInput, FailedWork, printable, reason
from study.remote.frame import Answer, Reader
from study.remote.order import Order

STOP_WAIT = 120  # seconds from a job's SIGTERM to its SIGKILL; Ray's own 3 are too few to write records in
KNOCK = 10.0  # seconds that a dashboard may take to answer at all
PATIENCE = 60.0  # seconds without a sign of the cluster before it is given up
AGAIN = 1.0  # seconds between two tries to reach it
TROUBLE = (OSError, RuntimeError, ClientError, AuthenticationError)  # what Ray's client raises
OVERRULING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client would rather believe these than its argument
TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")  # loggers
ID = re.compile(r"belay-(?P<name>.+)-(?P<question>[0-9a-f]{16})-(?P<attempt>\d+)")


@dataclass(frozen=True)
class StudyJob:
    """A job that runs, or ran, a study."""

    name: str
    question: str
    attempt: int
    running: bool

    @property
    def id(self) -> str:
        """Its submission id, which Ray gives to one job only."""
        return f"belay-{self.name}-{self.question}-{self.attempt}"


class Cluster:
    """A Ray cluster whose dashboard is at an address.

    Args:
        address: ``http://HOST:PORT``, or https.

    Raises:
        BadInput: Nothing that takes jobs answers there, it has another Ray, or it does not accept the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _check_address(address)
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            check_answers(self.address, KNOCK)
            with _not_overruled():
                self._client = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise BadInput(
                f"the cluster must accept Ray's token, got {_said(error)} from {self.address}; set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN_PATH to the file that holds it."
            ) from error
        except (*TROUBLE, ValueError, KeyError) as error:
            raise BadInput(
                f"`--address` must be the dashboard of a Ray cluster, got {self.address}: {_said(error)}; start it or "
                "name another."
            ) from error
        _check_version(str(self._client._server_ray_version), self.address)  # it has no public name

    def jobs(self, name: str) -> list[StudyJob]:
        """The jobs of a study, the newest last."""
        found = []
        for details in sorted(self._listed(), key=lambda details: details.start_time or 0):
            parts = ID.fullmatch(details.submission_id or "")
            if parts and parts["name"] == name:
                running = not JobStatus(details.status).is_terminal()
                found.append(StudyJob(name, parts["question"], int(parts["attempt"]), running))
        return found

    def submit(self, submission_id: str, order: Order, package: Path | None = None) -> bool:
        """Starts a job.

        Returns:
            Whether it was: False if there is one of this id already.

        Raises:
            FailedWork: The cluster did not take it.
        """
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT)}  # none of this machine's own
        code = {} if package is None else {"working_dir": str(package)}
        try:
            self._client.submit_job(
                entrypoint=order.entrypoint(),
                submission_id=submission_id,
                runtime_env={"env_vars": environment, **code},
            )
        except (*TROUBLE, ValueError) as error:
            if any(details.submission_id == submission_id for details in self._listed()):
                return False
            raise FailedWork(f"the cluster must take the job, got {_said(error)} from {self.address}.") from error
        return True

    def follow(self, submission_id: str, reader: Reader) -> None:
        """Reads a job's log until the job ends.

        Raises:
            FailedWork: The cluster is out of reach.
        """
        asyncio.run(self._follow(submission_id, reader))

    def answer(self, submission_id: str, reader: Reader) -> Answer:
        """Reads a job's log until the job ends.

        Raises:
            FailedWork: It ended without an answer, or the cluster is out of reach.
        """
        self.follow(submission_id, reader)
        if reader.answer is None:
            details = self._client.get_job_info(submission_id)
            said = [line for line in (details.message or "").splitlines() if line.strip()]
            raise FailedWork(
                f"the job must end with its answer, got {details.status} and "
                f"{printable(reader.last or (said or ['nothing'])[-1])!r}; see the log of {submission_id} at "
                f"{self.address}."
            )
        return reader.answer

    def log(self, submission_id: str) -> str:
        """All that a job has logged."""
        with self._in_reach():
            return self._client.get_job_logs(submission_id)

    def stop(self, submission_id: str) -> None:
        """Asks a job to stop and to keep what it has done; it is killed only after `STOP_WAIT` seconds."""
        with self._in_reach():
            self._client.stop_job(submission_id)

    def forget(self, submission_id: str) -> None:
        """Takes a job that has ended off the cluster's list."""
        with self._in_reach():
            self._client.delete_job(submission_id)

    def _listed(self) -> list[JobDetails]:
        with self._in_reach():
            return self._client.list_jobs()

    async def _follow(self, submission_id: str, reader: Reader) -> None:
        """Feeds the reader all of the log, through as many connections as it takes."""
        heard = time.monotonic()
        while True:
            try:
                await self._tail(submission_id, reader)
                if self._ended(submission_id):  # what the last connection did not bring
                    reader.feed(self._client.get_job_logs(submission_id)[reader.read :])
                    return
                heard = time.monotonic()
            except TROUBLE as error:
                if time.monotonic() - heard > PATIENCE:
                    raise self._lost(error) from error
            await asyncio.sleep(AGAIN)

    async def _tail(self, submission_id: str, reader: Reader) -> None:
        """Feeds the reader what one connection brings, until it ends or the job has."""
        known = reader.read
        lines: AsyncIterator[str] = self._client.tail_job_logs(submission_id)
        while True:
            coming = asyncio.ensure_future(anext(lines, None))
            while not (await asyncio.wait({coming}, timeout=PATIENCE))[0]:  # silent: a long pack, or a dead connection
                if self._ended(submission_id):
                    coming.cancel()
                    return
            text = coming.result()
            if text is None:
                return
            reader.feed(text[known:])
            known = max(0, known - len(text))

    def _ended(self, submission_id: str) -> bool:
        check_answers(self.address, KNOCK)  # Ray's client would wait for ever for a host that is gone
        return self._client.get_job_status(submission_id).is_terminal()

    @contextmanager
    def _in_reach(self) -> Iterator[None]:
        try:
            yield
        except TROUBLE as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> FailedWork:
        return FailedWork(
            f"the cluster must stay in reach, got {_said(error)} from {self.address}; a job that runs there goes on, "
            "and the same command looks again."
        )


def _said(error: Exception) -> str:
    return printable(reason(error))


def _check_address(address: str) -> None:
    try:
        place = urlsplit(address)
        good = place.scheme in ("http", "https") and bool(place.hostname) and place.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        good = False
    if not good:
        raise BadInput(
            f"`--address` must be http://HOST:PORT of Ray's dashboard, got {without_password(address)}; give e.g. "
            "http://head:8265."
        )
    if "@" in place.netloc:
        raise BadInput(
            f"`--address` must hold no login, got {without_password(address)}; Ray's token comes from "
            "RAY_AUTH_TOKEN_PATH."
        )


def _check_version(there: str, address: str) -> None:
    if there != ray.__version__:
        raise BadInput(
            f"the cluster must have this machine's Ray {ray.__version__}, got {there} at {address}; install "
            f"`ray[default]=={there}` here, or the other there."
        )


@contextmanager
def _not_overruled() -> Iterator[None]:
    """Hides what would lead Ray's client to another cluster."""
    hidden = {name: os.environ.pop(name) for name in OVERRULING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
