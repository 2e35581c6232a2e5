"""The work of a study as a back end sees it: packs, handed out one by one and given back with their outcomes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from study.design.config import StudyConfig
from study.design.riders import rider, values_of
from study.design.schema import STATES, Outcome, Setting, State, host_of
from study.design.study import Study
from study.execute.ask import Asker
from study.execute.plan import Pack

if TYPE_CHECKING:
    from study.execute.record import Recorder

HOPELESS = 8  # settings that all fail before the study is given up


@dataclass
class Progress:
    """How far a running study is."""

    planned: int
    done: int = 0
    pruned: int = 0
    diverged: int = 0
    failed: int = 0
    racing: int = 0  # of the settings that are done: in the newest further stage of a race
    raced: int = 0  # of these: with all seeds of that stage
    finalists: int = 0  # of the settings that are done: measured once more
    confirmed: int = 0
    best: tuple[Setting, float] | None = None
    finished: bool = False  # nothing is left to train
    began_with: int = 0
    started: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the settings done since the start; None before the first."""
        new = self.done - self.began_with
        return (time.monotonic() - self.started) / new * (self.planned - self.done) if new else None


Watch = Callable[[Progress], None]


class Packs:
    """Hands out a study's packs, and keeps, records and counts what they came to.

    Args:
        asker: Asks the settings and keeps their outcomes.
        recorder: Records them.
        watch: Called with the progress at the start and after each pack.
        say: Called with a line where packs were not trained as planned.
    """

    def __init__(self, asker: Asker, recorder: Recorder, watch: Watch, say: Callable[[str], None]) -> None:
        self._asker, self._recorder, self._watch, self._say = asker, recorder, watch, say
        self._noted: dict[str, set[int]] = {}  # the settings of each thing that was otherwise than planned
        self._states: dict[int, State] = {}  # of the settings that are done
        self._count_of: Counter[State] = Counter()
        self._longest = 0  # most seeds that a setting was searched by
        self.progress = Progress(asker.plan.settings, started=time.monotonic())
        for setting, outcome in asker.outcomes():
            self._count(setting, outcome)
        self.progress.began_with = self.progress.done
        self._show()

    @property
    def study(self) -> Study:
        """The study whose packs these are."""
        return self._asker.study

    @property
    def exhausted(self) -> bool:
        """Whether `next` will give no further pack: none is left, the first settings all failed, or time is up."""
        return self._hopeless or self._is_over or self._asker.asked_all

    def next(self) -> Pack | None:
        """The next pack to train; None if it has to wait for results, or none is left."""
        return None if self._hopeless or self._is_over else self._asker.next()

    def split(self, pack: Pack) -> bool:
        """Hands a pack that was lost out once more, a setting at a time; False if it is of one setting."""
        return self._asker.split(pack)

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Keeps, records and counts what a pack came to; a setting without an outcome is asked again by `resume`."""
        for outcome in outcomes:
            self._note(outcome)
        for setting, outcome in self._asker.tell(outcomes):
            self._recorder.record(setting, outcome)
            self._count(setting, outcome)
        self._show()

    @property
    def notes(self) -> list[str]:
        """What was otherwise than planned, and of how many settings."""
        return [f"{what}: {len(settings)} settings in all" for what, settings in self._noted.items()]

    def record_all(self) -> None:
        """Queues every outcome of the ledger that the records lack."""
        for setting, outcome in self._asker.outcomes():
            if self._recorder.lacks(setting.number, outcome):
                self._recorder.record(setting, self._asker.whole(outcome))

    @property
    def _hopeless(self) -> bool:
        return self.progress.failed == self.progress.done >= HOPELESS

    @property
    def _is_over(self) -> bool:
        """Whether the time that the study may take is up, and something is left."""
        hours = self.study.config.limits.hours
        return (
            hours is not None and not self._asker.finished and time.monotonic() - self.progress.started >= hours * 3600
        )

    def why_stopped(self) -> str:
        """Why not all settings were tried, where a limit ended it; to be asked at the end."""
        limits = self.study.config.limits
        if self._is_over:
            return f"the {limits.hours:g} hours of `limits.hours` are over"
        if self._asker.ended_early and self._asker.finished:
            return f"{limits.settings_without_gain} settings (`limits.settings_without_gain`) came to nothing better"
        return ""

    def _show(self) -> None:
        progress, asker = self.progress, self._asker
        progress.racing, progress.raced = asker.race
        progress.finalists, progress.confirmed = len(asker.finalists), asker.confirmed
        progress.finished = asker.finished
        self._watch(progress)

    def _note(self, outcome: Outcome) -> None:
        """Says what was otherwise than planned in a setting's training, the first time of each such thing."""
        for note in outcome.notes:
            what, _, why = note.partition(": ")
            if what not in self._noted:
                of = f"`belay-study logs {self.study.config.name} {outcome.setting}`"
                self._say(f"{what}: {why.rstrip('.')}; first of setting {outcome.setting}, see {of}")
            self._noted.setdefault(what, set()).add(outcome.setting)

    def _count(self, setting: Setting, outcome: Outcome) -> None:
        progress, study, searched = self.progress, self.study, outcome.part("search")
        if host_of(setting.number) is not None:
            return
        before = self._states.get(setting.number)  # where it has got more seeds since
        self._states[setting.number] = searched.state
        self._count_of[searched.state] += 1
        if before is not None:
            self._count_of[before] -= 1
        progress.done = len(self._states)
        progress.pruned, progress.diverged, progress.failed = (self._count_of[state] for state in STATES[1:])
        if searched.state == "complete" and len(searched.seeds) >= self._longest:
            if len(searched.seeds) > self._longest:
                self._longest, progress.best = len(searched.seeds), None
            self._rank(setting, searched.value(study.config.objective.metric))
            for place, value in enumerate(values_of(study, searched)):
                self._rank(rider(study, setting, place), value)

    def _rank(self, setting: Setting, value: float) -> None:
        """Takes a setting for the best so far if it is."""
        best, sign = self.progress.best, 1 if self.study.mode == "max" else -1
        if best is None or sign * value > sign * best[1]:
            self.progress.best = setting, value


@dataclass(frozen=True)
class Trainer:
    """What an open back end has.

    Attributes:
        workers: How many packs it trains at once.
        train: Trains packs until none is left.
    """

    workers: int
    train: Callable[[Packs], None]


class BackEnd(Protocol):
    """Where packs are trained: on Ray (`study.execute.cluster`) or in this process (`study.execute.inline`).

    Entered with the study's config before anything is written, so that a place that lacks what the study needs is told
    at once.
    """

    def __call__(self, config: StudyConfig) -> AbstractContextManager[Trainer]:
        """Opens it for as long as the context lasts."""
