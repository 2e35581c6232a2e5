"""Runs a study: asks its settings, has a back end train them, keeps what they came to, records it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from study.design.places import Connections
from study.design.study import Study
from study.errors import FailedWork, Interrupted, TakenOver
from study.execute.ask import Asker
from study.execute.lease import Lease
from study.execute.packs import BackEnd, Packs, Progress, Watch
from study.execute.storage import check_name, is_finished, is_there, open_storage

if TYPE_CHECKING:
    from study.execute.record import Ending, Recorder


def run(
    study: Study, connections: Connections, back_end: BackEnd, watch: Watch, say: Callable[[str], None]
) -> Progress:
    """Runs what is left of a study; one that is new is created, one that is finished is only recorded anew.

    Args:
        study: The study.
        connections: Where its records are.
        back_end: Where it is trained: `study.execute.tune.back_end` or `study.execute.inline.back_end`.
        watch: Called with the progress at the start and after each pack.
        say: Called with a line if another driver has to be waited for.

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
    if is_there(url):
        Lease(config.name, open_storage(url).engine, say).check_free()
    with ThreadPoolExecutor(1) as beside, contextlib.ExitStack() as held:
        opening = beside.submit(_recorder, study, uri)  # importing MLflow and making its tables takes as long as Ray
        with contextlib.nullcontext() if is_finished(study, url) else back_end(config) as train_all:
            recorder = opening.result()
            lease = held.enter_context(Lease(config.name, open_storage(url).engine, say))
            asker = Asker(study, url, lease)
            recorder.open(asker.plan.settings)
            packs = Packs(asker, recorder, watch)
            try:
                with _finishing(recorder, packs):
                    if train_all is not None and not asker.asked_all:
                        train_all(packs)
            except KeyboardInterrupt as stop:
                raise Interrupted(
                    f"interrupted with {packs.progress.done} of {packs.progress.planned} settings done, all kept; "
                    f"`belay-study resume {config.name}` does the rest."
                ) from stop
    _check_results(asker, packs.progress)
    return packs.progress


def _recorder(study: Study, uri: str) -> Recorder:
    from study.execute.record import Recorder

    return Recorder(study, uri)


@contextlib.contextmanager
def _finishing(recorder: Recorder, packs: Packs) -> Iterator[None]:
    """Ends the study's record the way the work ended; that of a study which was taken over is another driver's."""
    ending: Ending | None = "FAILED"
    try:
        packs.record_all()
        yield
        ending = "FINISHED"
    except KeyboardInterrupt:
        ending = "KILLED"
        raise
    except TakenOver:
        ending = None
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
