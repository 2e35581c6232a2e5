"""Writes results to MLflow: a parent run for the study, a child run for each setting, all rows in the parent's table.

Everything is found again by its tags, so that recording twice, or going on after a kill, changes nothing. Children and
table are written by one thread; what it could not deliver, a later `resume` delivers from the ledger.
"""

from __future__ import annotations

import json
import math
import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Metric, Param, RunTag

from study import results
from study.design.document import as_text
from study.design.places import HOME, make_room, secrets, sqlite_file, without_password
from study.design.riders import riders_of
from study.design.schema import (
    CONFIG_ARTIFACT,
    LONGEST_PARAM,
    SETTING_RUN,
    STUDY_RUN,
    Outcome,
    Setting,
    Tag,
)
from study.design.study import Study
from study.errors import BadInput, FailedWork, reason
from study.execute import entries
from study.tracking import BESIDE, answering, artifacts, check_artifacts, connect, runs

MOST_METRICS, MOST_PARAMS = 800, 100  # that MLflow takes at once, beside the tags
EVERY, REST = 10.0, 10  # seconds between writes of the results, at least, and how many times as long as one takes
ADVICE = f"leave `tracking` out for a local file in {HOME}"
Ending = Literal["FINISHED", "KILLED", "FAILED"]


class Recorder:
    """Writes one study's records; `open` it, `record` settings in any order, `close` it.

    Args:
        study: The study.
        uri: MLflow's tracking URI.
        check: Called before each write; raises TakenOver if another driver has the study now. May be left out where no
            other driver can reach the study.
        anew: Whether to trust nothing that is on record: every setting is lacking.

    Raises:
        BadInput: The tracking server does not answer, or holds a study of this name that asks something else.
    """

    def __init__(self, study: Study, uri: str, check: Callable[[], None] = lambda: None, anew: bool = False) -> None:
        self._study, self._uri, self._check, self._anew = study, uri, check, anew
        make_room("tracking.uri", uri)
        self._client = connect(uri, "tracking.uri", ADVICE)
        self._results = results.table()  # as on record
        self._children: dict[int, tuple[str, int]] = {}  # by number: a setting's run, and how many seeds it holds
        self._data = ""  # the digest of the data that the study on record is of
        with answering(uri, "tracking.uri", ADVICE):
            self._experiment = self._find_experiment()
            self._parent = self._find_parent() if self._experiment else ""
            if self._parent:
                self._find_results()
        self._seeds = Counter(self._results["setting"])  # by number: how many of them have rows
        self._ridden = Counter(self._results["setting"][self._results["role"] == "rider"])
        self._new: list[dict[str, Any]] = []  # rows that the results on record lack
        self._due = math.inf  # when they may be written again
        self._queue: queue.SimpleQueue[tuple[Setting, Outcome] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name="recorder", daemon=True)
        self._fault: Exception | None = None

    def open(self, planned: int) -> None:
        """Creates the experiment and the parent run, or goes on with those that are there.

        Raises:
            BadInput: The task's data cannot be read, or is not what the study began with.
            FailedWork: MLflow takes no records.
        """
        tags = entries.study_tags(self._study)  # before anything is made: a task's data may be missing
        if self._data not in ("", tags[Tag.DATA]):
            raise BadInput(
                f"the task's data must be what the study began with, got a digest of {tags[Tag.DATA]!r} in place of "
                f"{self._data!r}; bring the data back, or change `name`."
            )
        tags |= {Tag.PLANNED: str(planned), Tag.DONE: self._done}
        if not self._parent:
            tags |= entries.curvature_tag(self._study)
        with self._delivering():
            self._check()
            if not self._experiment:
                local = sqlite_file(self._uri)
                where = (local.parent / BESIDE).absolute().as_uri() if local else None
                self._experiment = self._client.create_experiment(self._study.config.name, artifact_location=where)
            if not self._parent:
                run = self._client.create_run(self._experiment, run_name=self._study.config.name, tags=tags)
                self._parent = run.info.run_id
            else:
                self._client.update_run(self._parent, status="RUNNING")
                for tag in (Tag.PLANNED, Tag.SEEDS, Tag.DONE):  # the study may have grown
                    self._client.set_tag(self._parent, tag, tags[tag])
            self._write_config()
        self._due = time.monotonic() + EVERY
        self._thread.start()

    def _write_config(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / CONFIG_ARTIFACT
            file.write_text(json.dumps(self._study.config.plain(), indent=2), encoding="utf-8")
            artifacts(self._client, self._parent).log_artifact(str(file))  # type: ignore[no-untyped-call]

    def lacks(self, setting: int, outcome: Outcome) -> bool:
        """Whether the results lack seeds of a setting that this outcome has."""
        return self._anew or self._seeds[setting] < len(outcome.seeds)

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
        except FailedWork:  # of the ledger, by which is known whose study it is
            raise
        except Exception as error:  # whatever MLflow, its database or its server may raise
            raise FailedWork(
                f"MLflow must take the records, got {reason(error, secrets(self._uri))} from "
                f"{without_password(self._uri)}: no result is lost, `belay-study resume {self._study.config.name}` "
                "delivers the rest."
            ) from None  # as its text may hold the password

    def _deliver(self) -> None:
        ended = False
        while not ended:
            item = None
            with suppress(queue.Empty):
                item = self._queue.get(timeout=self._patience())
                ended = item is None
            if self._fault is None:
                try:
                    self._check()
                    if item is not None:
                        self._write(*item)
                    if self._new and (ended or time.monotonic() >= self._due):
                        self._write_results()
                except Exception as error:  # `close` raises it; training goes on until then
                    self._fault = error

    def _patience(self) -> float | None:
        """Seconds until the results may be written; None if there is nothing to write."""
        return max(0.0, self._due - time.monotonic()) if self._new and self._fault is None else None

    def _write(self, setting: Setting, outcome: Outcome) -> None:
        if not self.lacks(setting.number, outcome):
            return
        run, seeds = self._children.get(setting.number, ("", 0))
        if seeds < len(outcome.seeds):
            run = self._write_child(setting, outcome, run)
            self._children[setting.number] = run, len(outcome.seeds)
        self._new += results.rows(setting, outcome, run)
        self._seeds[setting.number] = len(outcome.seeds)
        for rider, ridden in riders_of(self._study, setting, outcome):
            if self._anew or self._ridden[rider.number] < len(ridden.seeds):
                self._new += results.rows(rider, ridden, "")
                self._ridden[rider.number] = len(ridden.seeds)

    def _write_child(self, setting: Setting, outcome: Outcome, run: str) -> str:
        """Writes a setting's run, or all of one that is there; its id. What says how far it is goes last."""
        at = _milliseconds(outcome.finished)
        labels = {**entries.labels(setting, outcome), Tag.AFTER: str(len(self._results))}
        tags = [RunTag(name, value) for name, value in labels.items()] if run else []
        known = self._client.get_run(run).data.params if run else ()  # MLflow lets none be changed
        if not run:
            name = f"{setting.number:04d} {labels[Tag.FAMILY]}"
            began = at - _milliseconds(outcome.seconds)
            labels |= {Tag.PARENT: self._parent, Tag.KIND: SETTING_RUN, Tag.SETTING: str(setting.number)}
            run = self._client.create_run(self._experiment, start_time=began, tags=labels, run_name=name).info.run_id
        found = entries.metrics(setting, outcome)
        metrics = [Metric(key, value, _milliseconds(then), step) for key, value, step, then in found]
        params = [Param(name, as_text(value)[:LONGEST_PARAM]) for name, value in setting.items() if name not in known]
        batches = max(1, math.ceil(len(metrics) / MOST_METRICS), math.ceil(len(params) / MOST_PARAMS))
        for batch in range(batches):
            some = slice(batch * MOST_METRICS, (batch + 1) * MOST_METRICS)
            few = slice(batch * MOST_PARAMS, (batch + 1) * MOST_PARAMS)
            self._client.log_batch(run, metrics[some], params[few], tags if batch == batches - 1 else [])
        self._client.set_terminated(run, "FAILED" if labels[Tag.OUTCOME] == "failed" else "FINISHED", end_time=at)
        return run

    def _write_results(self) -> None:
        """Puts the new rows on record, and says when that may be done again."""
        began = time.monotonic()
        self._results, self._new = results.table(self._new, self._results), []
        results.write(artifacts(self._client, self._parent), self._results)
        self._client.set_tag(self._parent, Tag.DONE, self._done)
        now = time.monotonic()
        self._due = now + max(EVERY, REST * (now - began))

    @property
    def _done(self) -> str:
        """How many settings have results of all seeds that every setting gets."""
        searched = self._results["setting"][self._results["role"] == "search"]
        return str(int((searched.value_counts() >= self._study.config.first_seeds).sum()))

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._study.config.name)
        if found is None:
            return ""
        if found.lifecycle_stage != "active":
            raise BadInput(
                f"the study's MLflow experiment must not be deleted, got {found.name!r} in its trash; change `name`, "
                "or restore or purge it (`mlflow gc`)."
            )
        check_artifacts(found, self._uri, "tracking.uri")
        return str(found.experiment_id)

    def _find_parent(self) -> str:
        """The study's run; "" where there is none."""
        parent = ""
        for run in runs(self._client, [self._experiment], STUDY_RUN):
            self._check_identity(run.data.tags.get(Tag.IDENTITY))
            parent, self._data = run.info.run_id, run.data.tags.get(Tag.DATA, "")
        return parent

    def _find_results(self) -> None:
        """Takes up the results on record and the settings' runs, of which none counts until it is complete.

        The results say which runs were there when they were written. Those written since are found by their tag, as
        all are if there are no results.
        """
        since: dict[str, str] = {}
        with suppress(results.Unreadable):
            self._results = results.read(artifacts(self._client, self._parent))
            if not self._anew:
                since = {Tag.AFTER: str(len(self._results))}
                known = self._results.groupby("setting")["run"].agg(["last", "size"])
                self._children = {number: (run, seeds) for number, run, seeds in known.itertuples()}
        for run in runs(self._client, [self._experiment], SETTING_RUN, **since):
            number = int(run.data.tags[Tag.SETTING])
            seeds = 0 if run.info.status == "RUNNING" else int(run.data.tags[Tag.SEEDS])
            if seeds >= self._children.get(number, ("", 0))[1]:
                self._children[number] = run.info.run_id, seeds

    def _check_identity(self, asked: str | None) -> None:
        if asked != self._study.config.identity:
            name = self._study.config.name
            raise BadInput(
                f"the study's name must be new or its config the same, got {name!r} with another config in "
                f"{without_password(self._uri)}; change `name`, e.g. to {name}-2."
            )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
