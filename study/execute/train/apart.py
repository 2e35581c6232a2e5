"""Trains in a process of its own where that must not take too long: nothing else ends what hangs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

from study.design.schema import Outcome
from study.design.study import Study
from study.execute.plan import Pack
from study.execute.train import lost, train_pack
from study.execute.train.output import Output

Train = Callable[[Pack], list[Outcome]]

FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')  # as faulthandler writes it
FRAMES = 8  # that a message names, the innermost


@contextmanager
def trainer(study: Study) -> Iterator[Train]:
    """What trains packs of a study: this process or, where `limits.setting_seconds` is given, one of its own."""
    output = Output()
    with output.file:
        if study.config.limits.setting_seconds is None:
            yield partial(_train_here, study, output)
            return
        apart = _Apart(study, output)
        try:
            yield apart.train
        finally:
            apart.end()


def room_apart(study: Study) -> list[Any]:
    """What `study.execute.train.probe.Room` is made of, as a process of its own finds it, or why that found nothing."""
    output = Output()
    with output.file:
        apart = _Apart(study, output)
        try:
            said = apart.ask(None)
            found: list[Any] = json.loads(said) if said.startswith("[") else [1, apart.why_ended(said), True]
            return found
        finally:
            apart.end()


def _train_here(study: Study, output: Output, pack: Pack) -> list[Outcome]:
    """Trains a pack in this process."""
    output.empty()
    with output.taking():
        outcomes = list(train_pack(study, pack))
    return output.beside(outcomes)


@dataclass(frozen=True)
class _Child:
    """A process that trains packs, and the pipes to it and from it."""

    process: subprocess.Popen[bytes]
    orders: TextIO
    results: TextIO


class _Apart:
    """Trains packs of a study in one process after another: a new one where the last has ended."""

    def __init__(self, study: Study, output: Output) -> None:
        self._study, self._output = study, output
        self._child: _Child | None = None

    def train(self, pack: Pack) -> list[Outcome]:
        """Trains a pack; setting by setting if that ends its process, and a setting that ends its own has failed."""
        said = self.ask(pack.to_json())
        if said.startswith("["):
            return self._output.beside([Outcome.from_json(outcome) for outcome in json.loads(said)])
        message = self.why_ended(said)
        if len(pack.settings) > 1:
            return [outcome for setting in pack.settings for outcome in self.train(pack.of(setting))]
        return self._output.beside(lost(pack, message))

    def end(self) -> int:
        """Ends the process and all that it started; its exit code."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        with suppress(BrokenPipeError):  # it has ended by itself
            child.orders.close()
        child.results.close()
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        return child.process.wait()

    def ask(self, order: dict[str, Any] | None) -> str:
        """What the process answers, as JSON, or where it was when its time was over, or nothing.

        Args:
            order: A pack, whose outcomes are the answer, or None for the room that the study's packs have.
        """
        self._output.empty()
        child = self._child = self._child or _started(self._study, self._output)
        with suppress(BrokenPipeError):  # it has ended: there is nothing to read either
            child.orders.write(json.dumps(order) + "\n")
            child.orders.flush()
        said = child.results.readline()
        if said.startswith("["):
            return said if said.endswith("\n") else ""  # it was ended in the middle of its answer
        return said + child.results.read()

    def why_ended(self, stack: str) -> str:
        """Why the process gave no answer; ends it.

        Args:
            stack: Where it was when its time was over; "" if it ended by itself.
        """
        code = self.end()
        if not stack:
            return f"the process that trained it ended with exit code {code}."
        limit = self._study.config.limits.setting_seconds
        return (
            f"a setting must train within `limits.setting_seconds`, got no end after {limit:g} s in {_where(stack)}; "
            "mend the task or give it more time."
        )


def _started(study: Study, output: Output) -> _Child:
    """A new process, which has the study's config, and prints there, as all that it starts."""
    with ExitStack() as theirs:  # the ends of the pipes that this process does not keep
        their_orders, our_orders = os.pipe()
        theirs.callback(os.close, their_orders)
        our_results, their_results = os.pipe()
        theirs.callback(os.close, their_results)
        code = (
            f"import sys; sys.path[:] = {sys.path}; from study.execute.train import child; "
            f"child.main({their_orders}, {their_results})"
        )
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code],  # unbuffered: what it prints before it is ended is kept
            stdin=subprocess.DEVNULL,
            stdout=output.file,
            stderr=output.file,
            pass_fds=(their_orders, their_results),
            start_new_session=True,  # so that all that it starts can be ended with it
        )
    child = _Child(process, os.fdopen(our_orders, "w", encoding="utf-8"), os.fdopen(our_results, encoding="utf-8"))
    child.orders.write(json.dumps(study.config.plain()) + "\n")
    return child


def _where(stack: str) -> str:
    """The innermost calls of the main thread, which comes last, without those that led to the task."""
    calls = FRAME.findall(stack.rpartition("Thread 0x")[2])
    own = str(Path(__file__).parent)
    inner = list(takewhile(lambda call: not call[0].startswith(own), calls)) or calls
    return " < ".join(f"{Path(file).name}:{line} {function}" for file, line, function in inner[:FRAMES])
