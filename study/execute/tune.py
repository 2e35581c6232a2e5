"""Trains packs on Ray Tune: a trial is a pack. What its workers do is in `study.execute.worker`."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.design.schema import Outcome
from study.errors import FailedWork
from study.execute.packs import Packs
from study.execute.plan import Pack
from study.execute.train import lost
from study.execute.trial import PACK, REST, UNABLE, run

# A worker for which there is nothing to do yet rests: so long at least, and longer the longer it has waited. Without
# rests Tune would keep one idle worker and end all others; a new one takes seconds to start, and is given up where the
# kept one is free before that.
SHORTEST_REST, REST_SHARE, LONGEST_REST = 0.05, 0.1, 30.0  # seconds, of the time waited, seconds
RETRIES = 2  # of a pack whose worker died; one of them may go to a worker on the same dead machine


def train_all(packs: Packs) -> None:
    """Has Ray Tune run packs until none is left."""
    config = packs.study.config
    here = str(Path.cwd())
    trainable = tune.with_parameters(run, document=config.plain(), folder=here, paths=[here, *sys.path])
    trials = _Trials(packs)
    with tempfile.TemporaryDirectory(prefix="belay-study-", ignore_cleanup_errors=True) as folder:  # Tune's own notes
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": config.resources.cpus, "gpu": config.resources.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=trials, num_samples=-1, reuse_actors=True, trial_dirname_creator=lambda trial: trial.trial_id
            ),
            run_config=tune.RunConfig(
                name=config.name,
                storage_path=folder,
                verbose=0,
                callbacks=[trials.workers],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # Tune prints in spite of verbose=0; stdout is for answers
                tuner.fit()
        except (tune.TuneError, RayError, RuntimeError) as error:
            raise trials.fault or FailedWork(
                f"Ray must keep its workers, got {_last_line(error)}; `belay-study resume {config.name}` goes on."
            ) from error
    if trials.fault is not None:  # after the last trial was given
        raise trials.fault


def _last_line(error: Exception) -> str:
    """What an error of Tune says, whose text may be a whole traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300].rstrip(".") if lines else type(error).__name__


class _Workers(tune.Callback):
    """Counts workers."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self.most = 0  # that have been at work at once

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Counts one more at work."""
        self._busy.add(trial.trial_id)
        self.most = max(self.most, len(self._busy))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Counts one less."""
        self._busy.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Counts one less."""
        self._busy.discard(trial.trial_id)


class _Trials(Searcher):
    """What Ray Tune asks for trials and tells of their ends."""

    def __init__(self, packs: Packs) -> None:
        super().__init__()
        self._packs = packs
        self._running: dict[str, Pack] = {}
        self._resting: set[str] = set()
        self.workers = _Workers()
        self._handed_out = time.monotonic()  # when the last pack was
        self.fault: Exception | None = None  # what ends the sweep; of Tune itself one gets its traceback as text

    def suggest(self, trial_id: str) -> Any:
        """The next trial's pack, or its rest; None while settings wait for results; FINISHED when none is left."""
        if self.fault is not None:
            raise self.fault
        try:
            pack = self._packs.next()
        except Exception as error:
            self.fault = error
            raise
        if pack is None:
            return Searcher.FINISHED if self._packs.exhausted and not self._may_split else self._rest(trial_id)
        self._running[trial_id] = pack
        self._handed_out = time.monotonic()
        return {PACK: pack.to_json()}

    def _rest(self, trial_id: str) -> dict[str, float] | None:
        """A rest for a worker that has nothing to do; None if there is no such."""
        if len(self._running) + len(self._resting) >= self.workers.most:
            return None
        self._resting.add(trial_id)
        waited = time.monotonic() - self._handed_out
        return {REST: min(max(SHORTEST_REST, REST_SHARE * waited), LONGEST_REST)}

    @property
    def _may_split(self) -> bool:
        """Whether a pack is in training that would be handed out anew, in parts, if its worker died."""
        return any(len(pack.settings) > 1 for pack in self._running.values())

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Gives a pack back with its outcomes; one that was only stopped has none.

        It raises nothing, as Tune would train the pack again; `suggest`, which comes next, raises what failed here.
        """
        result = result or {}
        if trial_id in self._resting:
            self._resting.remove(trial_id)
            return
        pack = self._running.pop(trial_id)
        if unable := result.get(UNABLE):
            self.fault = self.fault or FailedWork(
                f"the workers must be able to import the task, got {unable.rstrip('.')}; install it on every node, and "
                f"`belay-study resume {self._packs.study.config.name}` goes on."
            )
            return
        outcomes = [Outcome.from_json(outcome) for outcome in result.get("outcomes", ())]
        if error and not outcomes:
            if self._packs.split(pack):  # one setting must not cost the others
                return
            outcomes = lost(
                pack, f"the worker died {RETRIES + 1} times; see Ray's logs in /tmp/ray/session_latest/logs."
            )
        try:
            self._packs.finish(outcomes)
        except Exception as error:
            self.fault = self.fault or error

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes its searcher to disk, and the state of this one is in the ledger."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Leaves an empty file, for the same reason."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Reads nothing; a study goes on from the ledger."""
