"""Ray as a back end: starts or finds it, and has `study.execute.tune` train there."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from study.design.config import Resources, StudyConfig
from study.design.tasks import check_names, imported
from study.errors import BadInput
from study.execute.connection import connected, nodes, read_environment
from study.execute.packs import Trainer

ENVIRONMENT = {  # what Ray, and glibc in the workers of a local one, take from the environment alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # tasks may read files of the working directory
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the records
    "TUNE_MAX_PENDING_TRIALS_PG": "16",  # packs that wait: a worker takes the next one, where it would be ended at 1
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep, not only Tune
    "RAY_prestart_worker_first_driver": "0",  # no trial would use such a worker: Tune's have their own environment
    "RAY_enable_autoscaler_v2": "1",  # it ends when told to; the first version has to be killed, a second later
    # Each step's tensors then lie where the last step's were; new memory for them would take a tenth of the training.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
}


@contextlib.contextmanager
def back_end(config: StudyConfig) -> Iterator[Trainer]:
    """Ray as the process has it, or the cluster of RAY_ADDRESS, or a local one for as long as this lasts.

    Raises:
        BadInput: No node of it has the resources of a pack, or its workers, who look for modules in the working
            directory first, would import a file there in place of another module.
        FailedWork: It does not start or answer.
    """
    check_names(Path.cwd(), imported())
    with _environment(), connected():
        workers = _count_workers(config.resources)
        from study.execute.tune import train_all  # which takes a while: first of all Ray has to be started

        yield Trainer(workers, train_all)


def _count_workers(wanted: Resources) -> int:
    """How many packs the nodes hold at once.

    Raises:
        BadInput: None of them holds one.
    """
    found = nodes()
    for name, key, each in (("cpus", "CPU", wanted.cpus), ("gpus", "GPU", wanted.gpus)):
        largest = max(node.get(key, 0) for node in found)
        if each > largest:
            raise BadInput(
                f"`resources.{name}` must fit on a node of the cluster, got {each:g}; the largest has {largest:g}."
            )
    gpus = [node.get("GPU", 0) / wanted.gpus if wanted.gpus else math.inf for node in found]
    return max(1, sum(int(min(node.get("CPU", 0) / wanted.cpus, most)) for node, most in zip(found, gpus, strict=True)))


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """`ENVIRONMENT` for as long as this lasts, for whatever of it the user has not set."""
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    os.environ.update({name: ENVIRONMENT[name] for name in missing})
    read_environment()
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
        read_environment()
