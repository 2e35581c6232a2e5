"""Writes results to MLflow: a parent run for the study, a child run for each setting.

Everything is found again by its tags, so that recording twice, or going on after a kill, changes nothing. Children are
written by one thread; what it could not deliver, a later `resume` delivers from the ledger.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from statistics import fmean, stdev
from typing import Literal

from mlflow.entities import Metric, Param, RunTag

from study.design.places import HOME, make_room, secrets, sqlite_file, without_password
from study.design.schema import (
    CONFIG_ARTIFACT,
    LONGEST_PARAM,
    PACKAGES,
    SETTING_RUN,
    STUDY_RUN,
    Outcome,
    Setting,
    Tag,
    error_metric,
    family,
    figures,
    fresh_metric,
    seed_metric,
    value_tags,
)
from study.design.study import Study
from study.errors import BadInput, FailedWork, TakenOver, reason
from study.tracking import answering, connect, runs

LARGEST_BATCH, MOST_PARAMS = 1000, 100  # metrics and parameters that MLflow takes at once
ADVICE = f"leave `tracking` out for a local file in {HOME}"
Ending = Literal["FINISHED", "KILLED", "FAILED"]


class Recorder:
    """Writes one study's records; `open` it, `record` settings in any order, `close` it.

    Args:
        study: The study.
        uri: MLflow's tracking URI.
        check: Called before each write; raises TakenOver if another driver has the study now. May be left out where no
            other driver can reach the study.

    Raises:
        BadInput: The tracking server does not answer, or holds a study of this name that asks something else.
    """

    def __init__(self, study: Study, uri: str, check: Callable[[], None] = lambda: None) -> None:
        self._study, self._uri, self._check = study, uri, check
        make_room("tracking.uri", uri)
        self._client = connect(uri, "tracking.uri", ADVICE)
        with answering(uri, "tracking.uri", ADVICE):
            self._experiment, self._parent, self._children = self._find_records()
        self._queue: queue.SimpleQueue[tuple[Setting, Outcome] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name="recorder", daemon=True)
        self._fault: Exception | None = None

    def open(self, planned: int) -> None:
        """Creates the experiment and the parent run, or goes on with those that are there.

        Raises:
            BadInput: The task's data cannot be read.
            FailedWork: MLflow takes no records.
        """
        tags = self._parent_tags()  # before anything is made: a task's data may be missing
        tags[Tag.PLANNED] = str(planned)
        with self._delivering():
            self._check()
            if not self._experiment:
                local = sqlite_file(self._uri)
                where = (local.parent / "artifacts").absolute().as_uri() if local else None
                self._experiment = self._client.create_experiment(self._study.config.name, artifact_location=where)
            if not self._parent:
                run = self._client.create_run(self._experiment, run_name=self._study.config.name, tags=tags)
                self._parent = run.info.run_id
            else:
                self._client.update_run(self._parent, status="RUNNING")
                for tag in (Tag.PLANNED, Tag.SEEDS):  # the study may have grown
                    self._client.set_tag(self._parent, tag, tags[tag])
            self._client.log_dict(self._parent, self._study.config.plain(), CONFIG_ARTIFACT)
        self._thread.start()

    def lacks(self, setting: int, outcome: Outcome) -> bool:
        """Whether a setting has no run yet that has all of these seeds."""
        return self._children.get(setting, ("", 0))[1] < len(outcome.seeds)

    def record(self, setting: Setting, outcome: Outcome) -> None:
        """Queues a setting's outcome, to be written unless all of its seeds are recorded already."""
        self._queue.put((setting, outcome))

    def close(self, ending: Ending) -> None:
        """Delivers what is queued and ends the parent run; if another driver has the study, leaves both to that one.

        Raises:
            FailedWork: Something could not be delivered.
            TakenOver: Another driver has the study now.
        """
        self._queue.put(None)
        self._thread.join()
        with self._delivering():
            if self._fault is not None:
                raise self._fault
            self._check()
            self._client.set_terminated(self._parent, status=ending)

    @contextmanager
    def _delivering(self) -> Iterator[None]:
        """Says in one line that MLflow did not take the records."""
        try:
            yield
        except TakenOver:
            raise
        except Exception as error:  # whatever MLflow, its database or its server may raise
            raise FailedWork(
                f"MLflow must take the records, got {reason(error, secrets(self._uri))} from "
                f"{without_password(self._uri)}: no result is lost, `belay-study resume {self._study.config.name}` "
                "delivers the rest."
            ) from None  # as its text may hold the password

    def _deliver(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._fault is None:
                try:
                    self._check()
                    self._write(*item)
                except Exception as error:  # `close` raises it; training goes on until then
                    self._fault = error

    def _write(self, setting: Setting, outcome: Outcome) -> None:
        if not self.lacks(setting.number, outcome):
            return
        run, _ = self._children.get(setting.number, ("", 0))
        at = round(outcome.finished * 1000)
        if not run:
            name = f"{setting.number:04d} {family(setting.oscillator)}"
            began = at - round(outcome.seconds * 1000)
            tags = {Tag.PARENT: self._parent, Tag.KIND: SETTING_RUN, Tag.SETTING: str(setting.number)}
            run = self._client.create_run(self._experiment, start_time=began, tags=tags, run_name=name).info.run_id
            self._children[setting.number] = run, 0
        metrics = [Metric(key, value, at, step) for key, value, step in _metrics(setting, outcome)]
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in setting.items()]
        labels = [RunTag(name, value) for name, value in _labels(setting, outcome).items()]
        for start in range(0, len(params), MOST_PARAMS):
            batch = params[start : start + MOST_PARAMS]
            self._client.log_batch(run, params=batch, tags=labels if start == 0 else ())
        for start in range(0, len(metrics), LARGEST_BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + LARGEST_BATCH])
        self._client.set_terminated(
            run, "FAILED" if outcome.part("search").state == "failed" else "FINISHED", end_time=at
        )
        self._children[setting.number] = run, len(outcome.seeds)

    def _find_records(self) -> tuple[str, str, dict[int, tuple[str, int]]]:
        """What is on record already: the experiment, the parent run, the children; "" and {} where there is nothing."""
        experiment = self._find_experiment()
        return experiment, *(self._find_runs(experiment) if experiment else ("", {}))

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._study.config.name)
        if found is not None and found.lifecycle_stage != "active":
            raise BadInput(
                f"the study's MLflow experiment must not be deleted, got {found.name!r} in its trash; change `name`, "
                "or restore or purge it (`mlflow gc`)."
            )
        return found.experiment_id if found else ""

    def _find_runs(self, experiment: str) -> tuple[str, dict[int, tuple[str, int]]]:
        """The parent run and, by number, the children and how many seeds they hold: none until they are complete."""
        parent = ""
        for run in runs(self._client, experiment, STUDY_RUN):
            self._check_identity(run.data.tags.get(Tag.IDENTITY))
            parent = run.info.run_id
        children = {
            int(run.data.tags[Tag.SETTING]): (
                run.info.run_id,
                0 if run.info.status == "RUNNING" else int(run.data.tags[Tag.SEEDS]),
            )
            for run in runs(self._client, experiment, SETTING_RUN)
        }
        return parent, children

    def _check_identity(self, asked: str | None) -> None:
        if asked != self._study.config.identity:
            name = self._study.config.name
            raise BadInput(
                f"the study's name must be new or its config the same, got {name!r} with another config in "
                f"{without_password(self._uri)}; change `name` (or `--set name={name}-2`)."
            )

    def _parent_tags(self) -> dict[str, str]:
        config = self._study.config
        return {
            Tag.KIND: STUDY_RUN,
            Tag.IDENTITY: config.identity,
            Tag.METRIC: config.objective.metric,
            Tag.MODE: self._study.mode,
            Tag.STEPS: str(config.steps),
            Tag.SEEDS: str(config.seeds),
            Tag.TASK: json.dumps(config.task.model_dump(mode="json")),
            Tag.DATA: self._study.data_digest(),
            Tag.COMMIT: _commit(),
            Tag.VERSIONS: json.dumps({package: version(package) for package in PACKAGES}),
        }


def _metrics(setting: Setting, outcome: Outcome) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of everything measured or derived; nothing that is not finite.

    The mean over seeds is kept only of a setting that every seed completed, so that MLflow sorts no other first. That
    over a finalist's fresh seeds has a name of its own.
    """
    for result in outcome.seeds:
        if result.state == "complete":
            last = {name: (value, step) for step, metrics in result.history for name, value in metrics.items()}
            for name, (value, step) in last.items():
                yield seed_metric(name, result.seed), value, step
    searched, fresh = outcome.part("search"), outcome.part("confirmation")
    if searched.state == "complete":
        yield from _means(searched)
    if fresh.seeds and fresh.state == "complete":
        yield from ((fresh_metric(name), value, step) for name, value, step in _means(fresh))
    for name, value in figures(setting.oscillator, int(setting["steps"])).items():
        if abs(value) < float("inf"):
            yield f"oscillator/{name}", value, 0
    yield "seconds", outcome.seconds, 0


def _means(outcome: Outcome) -> Iterator[tuple[str, float, int]]:
    """Mean and standard error over seeds at every step that all seeds reported."""
    values: dict[tuple[str, int], list[float]] = {}
    for result in outcome.seeds:
        for step, metrics in result.history:
            for name, value in metrics.items():
                values.setdefault((name, step), []).append(value)
    seeds = len(outcome.seeds)
    for (name, step), present in values.items():
        if len(present) == seeds:
            yield name, fmean(present), step
            if seeds > 1:
                yield error_metric(name), stdev(present) / seeds**0.5, step


def _labels(setting: Setting, outcome: Outcome) -> dict[str, str]:
    searched, fresh = outcome.part("search"), outcome.part("confirmation")
    labels = {
        Tag.FAMILY: family(setting.oscillator),
        Tag.REGIME: setting.oscillator.regime,
        Tag.OUTCOME: searched.state,
        Tag.SEEDS: str(len(outcome.seeds)),
        Tag.MESSAGE: searched.message[:500],
        **value_tags(setting),
    }
    if fresh.seeds:
        labels[Tag.CONFIRMED] = fresh.state
    steps = [result.diverged_at for result in searched.seeds if result.diverged_at is not None]
    return labels | ({Tag.DIVERGED_AT: str(min(steps))} if steps else {})


def _commit() -> str:
    """The commit checked out in the working directory; "" where there is none."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
