"""Runs a study: asks its settings, has a back end train them, keeps what they came to, records it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from study.design.places import Connections
from study.design.study import Study
from study.errors import FailedWork, Interrupted, shortened
from study.execute.ask import Asker
from study.execute.lease import Lease
from study.execute.ledger import Ledger, check_name
from study.execute.packs import BackEnd, Packs, Progress, Watch
from study.execute.tables import opened
from study.execute.train.probe import Room, room

if TYPE_CHECKING:
    from study.execute.record import Recorder

SHOWN = 500  # characters of what a task raised


def run(
    study: Study, connections: Connections, back_end: BackEnd, watch: Watch, say: Callable[[str], None]
) -> Progress:
    """Runs what is left of a study; one that is new is created, one that is finished is only recorded anew.

    Args:
        study: The study.
        connections: Where its records are.
        back_end: Where it is trained: `study.execute.cluster.back_end` or `study.execute.inline.back_end`.
        watch: Called with the progress at the start and after each pack.
        say: Called with a line if another driver has to be waited for, or runs are not trained as planned.

    Returns:
        The final progress.

    Raises:
        BadInput: The study cannot be run as asked, or another driver runs it; nothing has been trained or recorded.
        FailedWork: Every setting failed, a worker or MLflow could not do its part; what is done is kept.
        Interrupted: Ctrl-C; what is done is kept.
    """
    config = study.config
    url, uri = connections.storage, connections.tracking
    check_name(config, url)
    with contextlib.ExitStack() as held:
        engine = held.enter_context(opened(url, making=True))
        lease = held.enter_context(Lease(config.name, engine, say))
        beside = held.enter_context(ThreadPoolExecutor(2))  # while Ray starts
        opening = beside.submit(_recorder, study, uri, lease)
        ledger = Ledger(engine, config.name, url, lease)
        finished = _is_finished(study, ledger)
        trying = beside.submit(_room, study, finished)
        with contextlib.ExitStack() as training:
            trainer = None if finished else training.enter_context(back_end(config))
            recorder, room = opening.result(), trying.result()
            ledger.begin(config)
            if room.broken:
                say(f"runs are trained one by one, though the task names what is `stackable`: {room.reason}")
            asker = Asker(study, ledger, room.runs, trainer.workers if trainer else 1)
            _say_if_few(asker, say)
            packs = Packs(asker, recorder, watch, say)
            recorder.open(asker.plan.settings)
            try:
                with _finishing(recorder, packs), training.pop_all():  # Ray ends while the recorder delivers
                    if trainer is not None and not asker.asked_all:
                        trainer.train(packs)
            except KeyboardInterrupt as stop:
                raise Interrupted(
                    f"interrupted with {packs.progress.done} of {packs.progress.planned} settings done, all kept; "
                    f"`belay-study resume {config.name}` does the rest."
                ) from stop
    _conclude(asker, packs, say)
    return packs.progress


def _say_if_few(asker: Asker, say: Callable[[str], None]) -> None:
    """Says where the study's space holds fewer settings than are asked for: it ends when all are tried."""
    asked, held = asker.study.config.search.settings or 0, len(asker.plan.numbers("main"))
    if held < asked:
        say(f"the space holds {held} settings, fewer than the {asked} of `search.settings`: each is tried once")


def _room(study: Study, finished: bool) -> Room:
    """How many runs a pack may hold; of a finished study there will be none."""
    return Room(1) if finished else room(study)


def _is_finished(study: Study, ledger: Ledger) -> bool:
    """Whether the ledger has the study and nothing of it is left to run."""
    return ledger.config is not None and Asker(study, ledger).asked_all


def sync(study: Study, connections: Connections, say: Callable[[str], None]) -> Progress:
    """Records a study anew, all of it from the ledger; trains nothing.

    Args:
        study: The study, as the ledger has it.
        connections: Where its records are.
        say: Called with a line if another driver has to be waited for.

    Returns:
        How far the study is.

    Raises:
        BadInput: The records or the ledger cannot be reached, or another driver runs the study.
        FailedWork: MLflow could not take the records.
    """
    name, url = study.config.name, connections.storage
    with opened(url, making=True) as engine, Lease(name, engine, say) as lease:
        recorder = _recorder(study, connections.tracking, lease, anew=True)
        packs = Packs(Asker(study, Ledger(engine, name, url, lease)), recorder, lambda _: None, say)
        recorder.open(packs.progress.planned)
        with _finishing(recorder, packs):
            return packs.progress


def _recorder(study: Study, uri: str, lease: Lease, anew: bool = False) -> Recorder:
    from study.execute.record import Recorder

    return Recorder(study, uri, lease.check, anew)


@contextlib.contextmanager
def _finishing(recorder: Recorder, packs: Packs) -> Iterator[None]:
    """Ends the study's record the way the work ended."""
    try:
        packs.record_all()
        yield
    except BaseException as stop:
        with contextlib.suppress(FailedWork):  # what went wrong first is what the user reads
            recorder.close("KILLED" if isinstance(stop, KeyboardInterrupt) else "FAILED")
        raise
    recorder.close("FINISHED" if packs.progress.finished else "KILLED")


def _conclude(asker: Asker, packs: Packs, say: Callable[[str], None]) -> None:
    """Says which limit has ended a study; raises FailedWork if nothing can be said, or if none has and work is left."""
    progress, stopped = packs.progress, packs.why_stopped()
    for note in packs.notes:
        say(note)
    if progress.failed == progress.done > 0:
        message = shortened(next(outcome.message for _, outcome in asker.outcomes()), SHOWN).rstrip(".")
        raise FailedWork(
            f"every setting failed ({progress.done} of {progress.planned} tried), the first with: {message}; mend the "
            "task and run it under a new name."
        )
    if stopped:
        say(_stopped(asker.study.config.name, stopped, progress))
    elif not progress.finished:
        name, confirmed = asker.study.config.name, f" and {progress.confirmed} of {progress.finalists} finalists"
        raise FailedWork(
            f"{progress.done} of {progress.planned} settings{confirmed if progress.finalists else ''} are done; "
            f"`belay-study resume {name}` does the rest."
        )


def _stopped(name: str, why: str, progress: Progress) -> str:
    """Why a study ended before all settings were tried, and what goes on."""
    advice = f"`belay-study resume {name}` goes on"
    if progress.finished:
        advice = f"`belay-study extend {name} --set limits.settings_without_gain=N`, with a larger N, goes on"
    return f"{why}: {progress.done} of {progress.planned} settings are done; {advice}"
