"""Takes what is printed while packs train: stdout and stderr, with warnings and what the task's own programs say."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace

from study.design.schema import Outcome, Printed

KEPT = 20_000  # bytes of what is printed while a pack trains: its end, as an error stands there


class Output:
    """A file for what is printed while a pack trains, emptied for each.

    It is one file for all packs, as loggers and programs that a task starts may hold it open.
    """

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        # Whoever writes goes on at its end, also after it was emptied; tempfile would not do that for the mode "a".
        fcntl.fcntl(self.file, fcntl.F_SETFL, os.O_APPEND)

    def empty(self) -> None:
        """Forgets what was printed so far."""
        self.file.flush()
        os.ftruncate(self.file.fileno(), 0)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Takes what this process prints meanwhile; programs that it starts print where it did before."""
        with redirect_stdout(self.file), redirect_stderr(self.file):
            yield

    def beside(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The outcomes of settings that trained together, at the first of them their notes and what was printed."""
        self.file.flush()
        size = os.fstat(self.file.fileno()).st_size
        text = os.pread(self.file.fileno(), KEPT, max(0, size - KEPT)).decode("utf-8", "replace")
        if size > KEPT:
            text = f"[of {size:,} bytes the first {size - KEPT:,} are left out]\n{text}"
        notes = dict.fromkeys(note for outcome in outcomes for note in outcome.notes)
        if not (text := "".join(f"[{note}]\n" for note in notes) + text):
            return outcomes
        printed = Printed(text, tuple(outcome.setting for outcome in outcomes))
        return [replace(outcomes[0], printed=printed), *outcomes[1:]]
