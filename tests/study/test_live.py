"""Progress on stderr: lines by a clock of the test's own, and a live view on a real terminal."""

from __future__ import annotations

import os
import pty
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from study.design.schema import Setting
from study.execute.packs import Progress
from study.live import EVERY, LiveView, describe

METRIC, TEXT = "average/loss", "small: starting Ray and MLflow"
BEST = (Setting(3, {"decay": 0.9, "damping": 0.1, "coupling": 0.0}), 0.123456)


class Clock:
    """Stands still until it is put forward."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- lines ------------------------------------------------------------------------------------------------------------


def test_elsewhere_than_on_a_terminal_a_progress_is_a_line_if_the_last_one_is_long_ago(capsys):
    clock = Clock()
    with LiveView(METRIC, TEXT, clock) as view:
        view.show(Progress(4))
        clock.now += EVERY
        view.show(Progress(4, done=1, began_with=1))
        clock.now += EVERY / 2
        view.show(Progress(4, done=2, began_with=2))
        clock.now += EVERY
        view.show(Progress(4, done=3, began_with=3))
        clock.now += 2 * EVERY
        view.show(Progress(4, done=3, began_with=3, failed=1))
    assert capsys.readouterr() == ("", f"{TEXT}\n2/4 settings, training\n3/4 settings, 1 failed\n")


def test_the_last_progress_is_always_a_line(capsys):
    with LiveView(METRIC, TEXT, Clock()) as view:
        view.show(Progress(2, done=1))
        view.show(Progress(2, done=2, best=BEST, finished=True))
    assert capsys.readouterr().err == f"{TEXT}\n2/2 settings, best average/loss 0.1235 (underdamped)\n"


def test_a_line_is_wrapped_nowhere_and_marks_up_nothing(capsys):
    text = "[bold]name[/bold]: " + "words " * 100 + "end"
    with LiveView(METRIC, text, Clock()):
        pass
    assert capsys.readouterr().err == text + "\n"


# --- a terminal -------------------------------------------------------------------------------------------------------


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Has stderr be a terminal; what it was sent is in the list at the end of the block."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()
    sent: list[bytes] = []

    def read() -> None:  # as it comes, since who writes to a full terminal waits
        with suppress(OSError):  # so ends a terminal that nobody writes to any more
            while some := os.read(master, 4096):
                sent.append(some)

    with ThreadPoolExecutor(1) as reader, os.fdopen(slave, "w") as stderr:
        reader.submit(read)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            yield sent
    os.close(master)


def test_on_a_terminal_progress_is_one_live_line_that_is_gone_at_the_end(monkeypatch, capsys):
    with terminal(monkeypatch) as sent:
        with LiveView(METRIC, TEXT) as view:
            view.show(Progress(4, done=3, best=BEST))
        sys.stderr.write("after\n")
    shown = b"".join(sent).decode()
    assert "3/4" in shown
    assert "underdamped" in shown
    assert shown.index("underdamped") < shown.rindex("\x1b[2K")  # the line is erased again
    assert shown.rstrip().endswith("after")
    assert capsys.readouterr() == ("", "")


def test_a_live_view_ends_with_an_exception_and_lets_it_through(monkeypatch):
    with terminal(monkeypatch):
        view = LiveView(METRIC, TEXT)
        with pytest.raises(KeyError), view:
            raise KeyError
        assert view._bar.live.is_started is False


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_study_without_any_result_is_training():
    assert describe(Progress(20), METRIC) == "training"


def test_the_best_so_far_what_went_wrong_and_the_time_left_are_told(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 130.0)
    progress = Progress(20, done=12, diverged=2, failed=1, best=BEST, began_with=2, started=100.0)
    assert describe(progress, METRIC) == (
        "best average/loss 0.1235 (underdamped), 2 diverged, 1 failed, about 24 s left"
    )


def test_how_far_a_race_and_a_confirmation_are_is_told():
    progress = Progress(20, done=20, racing=5, raced=2, started=1.0)
    assert describe(progress, METRIC) == "2 of 5 in the race"
    assert describe(replace(progress, raced=5, finalists=3, confirmed=1), METRIC) == (
        "5 of 5 in the race, 1 of 3 finalists confirmed"
    )


def test_a_finished_study_has_no_time_left():
    assert describe(Progress(2, done=2, failed=2, started=1.0), METRIC) == "2 failed"


def test_what_was_done_before_this_start_says_nothing_of_the_time_left():
    assert describe(Progress(20, done=5, diverged=1, began_with=5, started=1.0), METRIC) == "1 diverged"
