"""The command line's `--storage` and `--tracking`: where they lead, and how its messages repeat them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from study.design.places import Connections, without_password
from study.errors import BadInput, StudyError

STORED = ("run", "resume", "status", "doctor")  # commands that take --storage
TRACKED = ("run", "resume", "list", "best", "regimes", "compare", "export", "doctor")  # and --tracking
COMMAND = re.compile(r"belay-study (\w+)( [\w.-]+)?")


@dataclass(frozen=True)
class Chosen:
    """The connections of one call, and which of them the user chose.

    Attributes:
        connections: Where the records are.
        storage: Whether `--storage` or the config gave the storage.
        tracking: The same of the tracking store.
    """

    connections: Connections
    storage: bool
    tracking: bool

    def repeated(self, text: str) -> str:
        """The text with these options in every command that it advises, as the command must name the same places."""
        return COMMAND.sub(lambda found: found[0] + "".join(self._options(found[1])), text)

    def _options(self, command: str) -> Iterator[str]:
        if self.storage and command in STORED:
            yield f" --storage {shlex.quote(without_password(self.connections.storage))}"
        if self.tracking and command in TRACKED:
            yield f" --tracking {shlex.quote(without_password(self.connections.tracking))}"


@contextmanager
def connecting(storage: str | None = None, tracking: str | None = None, hurried: bool = True) -> Iterator[Chosen]:
    """The connections of a command; the advice in errors raised meanwhile names them too.

    Args:
        storage: What `--storage` or the config gives, if anything.
        tracking: What `--tracking` or the config gives, if anything.
        hurried: Whether to say soon that an MLflow server is down, rather than to try for minutes.

    Raises:
        BadInput: A URL names an environment variable that is not set, or its password cannot be told from the rest.
    """
    if hurried:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    chosen = Chosen(Connections.of(storage, tracking), bool(storage), bool(tracking))
    try:
        yield chosen
    except StudyError as error:
        error.args = (chosen.repeated(str(error)),)
        raise


def check_no_password(option: str, values: Sequence[str]) -> None:
    """Raises BadInput if an option's value holds a password: a command line can be read by all, and Ray keeps it."""
    for value in values:
        if without_password(value) != value:
            raise BadInput(
                f"`{option}` must hold no password, as others can read a command line, got {without_password(value)}; "
                "name an environment variable in its place, in single quotes, as in '${PGPASSWORD}'."
            )
