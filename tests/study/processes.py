"""Processes of ``belay-study`` that begin with their imports done: they are forked from one process that has them.

They are processes like any other, which may be killed; they lack only the seconds in which a new Python imports torch,
Optuna and MLflow.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from studies import Answer, environment_with

# What `belay-study run --inline` imports; no Ray, whose driver must not be forked.
IMPORTED = [
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.samplers",
    "study.cli",
    "study.live",
    "study.answer",
    "study.doctor",
    "study.execute.inline",
    "study.execute.sweep",
    "study.findings.recommend",
    "tasks_of_tests",
    "torch._dynamo",  # which the first optimizer imports
    "torch.fx.experimental.proxy_tensor",
]
PATIENCE = 600  # seconds that a process has until its end


@dataclass
class Process:
    """A process that runs a command; what it prints goes to the files `stdout` and `stderr` of a folder."""

    child: ForkServerProcess
    folder: Path

    @property
    def pid(self) -> int:
        assert self.child.pid is not None
        return self.child.pid

    @property
    def running(self) -> bool:
        return self.child.is_alive()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it and waits until it has gone."""
        self.child.kill()
        self.child.join()

    def end(self) -> Answer:
        """Waits for its end; its exit code, which is a negative number where a signal ended it, and what it printed."""
        self.child.join(PATIENCE)
        assert self.child.exitcode is not None, "it does not end"
        return Answer(self.child.exitcode, *((self.folder / name).read_text() for name in ("stdout", "stderr")))


@contextmanager
def forked(*line: object, home: Path, first: Callable[[], None] | None = None, **environment: str) -> Iterator[Process]:
    """A process that runs ``belay-study LINE``; it is killed at the end of the block, also where a test fails.

    Args:
        line: The command and its arguments.
        home: Its working directory.
        first: What it calls before the command.
        environment: What differs from the environment of this process.
    """
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as changed:  # the process that all are forked from finds what it shall import
        changed.setenv("PYTHONPATH", environment_with()["PYTHONPATH"])
        context.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    with TemporaryDirectory() as folder:
        arguments = (list(map(str, line)), home, folder, environment_with(**environment), first)
        process = Process(context.Process(target=_drive, args=arguments), Path(folder))
        process.child.start()
        try:
            yield process
        finally:
            process.kill()


def without_ray() -> None:
    """Has `import ray` fail in this process, into which nothing may have imported it yet."""
    assert "ray" not in sys.modules
    sys.modules["ray"] = None  # type: ignore[assignment] # what Python takes for a module that cannot be imported


def _drive(
    line: list[str], home: Path, folder: str, environment: dict[str, str], first: Callable[[], None] | None
) -> None:
    """The command in a process that was forked for it."""
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
    # As at a terminal, also where the tests run in the background, whose processes inherit an ignored SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if first is not None:
        first()
    sys.argv = ["belay-study", *line]
    from study.cli import main

    main()
