"""Runs a study on Ray Tune: a trial is a pack, and what it measured goes to Optuna's storage and to MLflow."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # tasks may read files beside the config
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # MLflow has the records
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is answered here

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from study.design.config import StudyConfig, parse_config
from study.design.places import storage_url, tracking_uri
from study.design.schema import Outcome, SeedResult, Setting
from study.design.study import Study
from study.errors import BadInput, FailedWork, Interrupted, StudyError, reason
from study.execute.ask import Asker
from study.execute.loop import train_pack
from study.execute.plan import Pack, pack
from study.execute.storage import check_name, is_finished

if TYPE_CHECKING:
    from study.execute.record import Ending, Recorder

HOPELESS = 8  # settings that all fail before the study is given up
RETRIES = 1  # of a pack whose worker died


@dataclass
class Progress:
    """How far a running study is."""

    planned: int
    done: int = 0
    diverged: int = 0
    failed: int = 0
    best: tuple[Setting, float] | None = None
    began_with: int = 0
    started: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the settings done since the start; None before the first."""
        new = self.done - self.began_with
        return (time.monotonic() - self.started) / new * (self.planned - self.done) if new else None


Watch = Callable[[Progress], None]


def run(study: Study, watch: Watch) -> Progress:
    """Runs what is left of a study; one that is new is created, one that is finished is only recorded anew.

    Args:
        study: The study.
        watch: Called with the progress at the start and after each setting.

    Returns:
        The final progress.

    Raises:
        BadInput: The study cannot be run as asked; nothing has been trained.
        FailedWork: Every setting failed, a worker or MLflow could not do its part; what is done is kept.
        Interrupted: Ctrl-C or SIGTERM; what is done is kept.
    """
    config = study.config
    url, uri = storage_url(config.storage.url), tracking_uri(config.tracking.uri)
    check_name(config, url)
    with ThreadPoolExecutor(1) as beside:
        opening = beside.submit(_recorder, study, uri)  # importing MLflow and making its tables takes as long as Ray
        with contextlib.nullcontext() if is_finished(study, url) else _ray(config):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, _interrupt)  # only now: Ray has just put a handler of its own there
            recorder = opening.result()
            asker = Asker(study, url)
            recorder.open(asker.plan.settings)
            packs = _Packs(asker, recorder, watch)
            try:
                with _finishing(recorder, packs):
                    if not asker.asked_all:
                        _fit(study, packs)
            except KeyboardInterrupt as stop:
                raise Interrupted(
                    f"interrupted with {packs.progress.done} of {packs.progress.planned} settings done, all kept; "
                    f"`belay-study resume {config.name}` does the rest."
                ) from stop
    _check_results(asker, packs.progress)
    return packs.progress


class _Packs(Searcher):
    """What Ray Tune asks for packs and tells of their ends."""

    def __init__(self, asker: Asker, recorder: Recorder, watch: Watch) -> None:
        super().__init__()
        self._asker, self._recorder, self._watch = asker, recorder, watch
        self._running: dict[str, Pack] = {}
        self.progress = Progress(asker.plan.settings, started=time.monotonic())
        for setting, outcome in asker.outcomes():
            self._count(setting, outcome)
        self.progress.began_with = self.progress.done
        watch(self.progress)

    def suggest(self, trial_id: str) -> Any:
        """The next pack; None while settings wait for results; FINISHED when there is none, or no hope."""
        hopeless = self.progress.failed == self.progress.done >= HOPELESS
        setting = None if hopeless else self._asker.ask()
        if setting is None:
            return Searcher.FINISHED if hopeless or self._asker.asked_all else None
        (self._running[trial_id],) = pack([setting], self._asker.study.config.seeds)
        return {"pack": self._running[trial_id].to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keeps, records and counts what a pack came to; one that was only stopped is left to be run again."""
        trained = self._running.pop(trial_id)
        outcomes = [Outcome.from_json(outcome) for outcome in (result or {}).get("outcomes", ())]
        if error and not outcomes:
            message = f"the worker died {RETRIES + 1} times; see Ray's logs in /tmp/ray/session_latest/logs."
            outcomes = [_lost(setting.number, trained.seeds, message) for setting in trained.settings]
        for outcome in outcomes:
            setting = next(setting for setting in trained.settings if setting.number == outcome.setting)
            self._asker.tell(outcome)
            self._recorder.record(setting, outcome)
            self._count(setting, outcome)
        self._watch(self.progress)

    def record_all(self) -> None:
        """Queues every outcome of the storage; those that are recorded already stay as they are."""
        for setting, outcome in self._asker.outcomes():
            self._recorder.record(setting, outcome)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as Tune pickles its searcher to disk: the state is in Optuna's storage, whose URL is nobody's."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Leaves an empty file, for the same reason."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing; a study goes on from Optuna's storage."""

    def _count(self, setting: Setting, outcome: Outcome) -> None:
        progress, study = self.progress, self._asker.study
        progress.done += 1
        progress.diverged += outcome.state == "diverged"
        progress.failed += outcome.state == "failed"
        if outcome.state == "complete":
            value = outcome.value(study.config.objective.metric)
            if progress.best is None or (value > progress.best[1] if study.mode == "max" else value < progress.best[1]):
                progress.best = setting, value


def _fit(study: Study, packs: _Packs) -> None:
    """Has Ray Tune run packs until none is left."""
    config = study.config
    trainable = tune.with_parameters(
        _train, document=config.model_dump(mode="json"), paths=[str(Path.cwd()), *sys.path]
    )
    folder = tempfile.mkdtemp(prefix="belay-study-")  # Tune's own notes, of no use afterwards
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": config.resources.cpus, "gpu": config.resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=packs, num_samples=-1, reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id
        ),
        run_config=tune.RunConfig(
            name=config.name,
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Tune prints there in spite of verbose=0; it is for answers
            tuner.fit()
    except (tune.TuneError, RayError, RuntimeError) as error:
        raise FailedWork(
            f"Ray must keep its workers, got {reason(error)}; `belay-study resume {config.name}` goes on."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _train(tried: dict[str, Any], document: dict[str, Any], paths: list[str]) -> None:
    """Trains a pack in a Ray worker."""
    sys.path += [path for path in paths if path not in sys.path]  # where the driver finds the user's own tasks
    trained = Pack.from_json(tried["pack"])
    try:
        study = Study.of(parse_config(document))
        torch.set_num_threads(max(1, int(study.config.resources.cpus)))
        outcomes = list(train_pack(study, trained))
    except StudyError as error:  # the worker lacks what the driver has: the task's module, most likely
        outcomes = [_lost(setting.number, trained.seeds, str(error)) for setting in trained.settings]
    tune.report({"outcomes": [outcome.to_json() for outcome in outcomes]})


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _recorder(study: Study, uri: str) -> Recorder:
    from study.execute.record import Recorder

    return Recorder(study, uri)


@contextlib.contextmanager
def _ray(config: StudyConfig) -> Iterator[None]:
    """Ray as the process has it, or the cluster of RAY_ADDRESS, or a local one for as long as this lasts."""
    if ray.is_initialized():
        _check_resources(config)
        yield
        return
    local: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise FailedWork(f"Ray must start or answer, got {reason(error)}; see `belay-study doctor`.") from error
    try:
        _check_resources(config)
        yield
    finally:
        ray.shutdown()


def _check_resources(config: StudyConfig) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    for name, key, wanted in (("cpus", "CPU", config.resources.cpus), ("gpus", "GPU", config.resources.gpus)):
        largest = max(node.get(key, 0) for node in nodes)
        if wanted > largest:
            raise BadInput(
                f"`resources.{name}` must fit on a node of the cluster, got {wanted:g}; the largest has {largest:g}."
            )


@contextlib.contextmanager
def _finishing(recorder: Recorder, packs: _Packs) -> Iterator[None]:
    """Ends the study's record the way the work ended."""
    ending: Ending = "FAILED"
    try:
        packs.record_all()
        yield
        ending = "FINISHED"
    except KeyboardInterrupt:
        ending = "KILLED"
        raise
    finally:
        recorder.close(ending)


def _check_results(asker: Asker, progress: Progress) -> None:
    """Raises FailedWork if nothing can be said."""
    if progress.failed == progress.done > 0:
        message = next(outcome.message for _, outcome in asker.outcomes())
        raise FailedWork(
            f"every setting failed ({progress.done} of {progress.planned} tried), the first with: {message}; mend the "
            "task and run it under a new name."
        )
    if progress.done < progress.planned:
        name = asker.study.config.name
        raise FailedWork(
            f"{progress.done} of {progress.planned} settings are done; `belay-study resume {name}` does the rest."
        )


def _lost(number: int, seeds: tuple[int, ...], message: str) -> Outcome:
    return Outcome(number, [SeedResult(seed, state="failed", message=message) for seed in seeds], finished=time.time())
