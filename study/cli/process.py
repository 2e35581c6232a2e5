"""How a command is carried out: here or on a cluster, and what ends its process."""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from study.errors import BadInput

if TYPE_CHECKING:
    from study.options import Chosen


def here_or_there(command: Callable[..., None]) -> Callable[..., int | None]:
    """Has a command run as a job of a cluster where `--address` names one, unless it is a dry run."""

    @functools.wraps(command)
    def called(**given: Any) -> int | None:
        address = given["address"]
        if address and not given.get("dry_run"):
            from study.remote.commands import elsewhere

            with terminated_as_interrupted():
                return elsewhere(address, command.__name__.partition("_")[0], given)
        if given.get("detach"):
            raise BadInput("`--detach` must have the `--address` of a cluster, got none; add it, or leave both out.")
        command(**given)
        return None

    return called


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Has SIGTERM do what Ctrl-C does, and SIGHUP, which a terminal that is closed sends, unless nohup ignores it."""

    def interrupt(number: int, _: object) -> NoReturn:
        if number == signal.SIGHUP:  # both the shell and the system may tell it
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def last_words(chosen: Chosen, name: str) -> Iterator[None]:
    """Has a process beside this one print a line if this one is ended meanwhile.

    Ray ends its driver's process, without a word and without an exception, when Ray's own process on the machine dies.
    """
    text = f"this process was killed{'' if chosen.inline else ' or lost its Ray'}; `belay-study resume {name}` goes on."
    line = f"belay-study: {chosen.repeated(text)}"
    command = ["sh", "-c", 'read -r ended || printf "%s\\n" "$1" >&2', "sh", line]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as beside:
        try:
            yield
        finally:
            beside.communicate(b"ended\n")


def say(line: str) -> None:
    """Prints a line that is no part of the answer."""
    typer.echo(line, err=True)
