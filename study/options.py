"""The command line's options in its messages: places, which advice repeats, and what an error is about."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from study.design.places import Connections, without_password, without_passwords
from study.errors import BadInput, StudyError

TRAINING = ("run", "resume", "extend")  # commands that take --inline
STORED = (*TRAINING, "sync", "status", "logs", "delete", "doctor")  # commands that take --storage
READING = ("list", "best", "regimes", "importance", "compare", "export", "report", "plot")
TRACKED = (*TRAINING, *READING, "sync", "delete", "doctor")  # and --tracking
ADDRESSED = (*{*STORED, *TRACKED} - {"doctor"}, "stop")  # and --address
CONNECTION = re.compile(r"(?P<key>tracking\.uri|storage\.url)=(?P<url>.*)|\W*(?P<entry>tracking|storage)\b", re.DOTALL)
COMMAND = re.compile(r"belay-study (\w+)( [\w.-]+)?")
OPTIONS = {  # by which the command line gives what other parts of the program know by a name of their own
    "override": "--set",
    "tracking": "--tracking",
    "parameter": "--by",
    "baseline": "--baseline",
    "family": "--family",
    "table": "--from",
    "metric": "--metric",
    "to": "--to",
    "module": "--task",
    "kind": "KIND",
}
RULE = re.compile(rf"`({'|'.join(OPTIONS)})`(?= must )")
asked_from = ContextVar("asked_from", default="")  # the `--address` by which a client asked for what this process does


@dataclass(frozen=True)
class Chosen:
    """The connections of one call, and which of them the user chose.

    Attributes:
        connections: Where the records are.
        storage: Whether `--storage` or the config gave the storage.
        tracking: The same of the tracking store.
        inline: Whether the study is trained in this process.
        address: By which a client on another machine asked for it; "" if the user is on this one.
    """

    connections: Connections
    storage: bool
    tracking: bool
    inline: bool
    address: str = ""

    def repeated(self, text: str) -> str:
        """The text with these options in every command that it advises, as the command must name the same places."""
        return COMMAND.sub(lambda found: found[0] + "".join(self._options(found[1])), text)

    def _options(self, command: str) -> Iterator[str]:
        if self.inline and command in TRAINING:
            yield " --inline"
        if self.storage and command in STORED:
            yield f" --storage {shlex.quote(without_password(self.connections.storage))}"
        if self.tracking and command in TRACKED:
            yield f" --tracking {shlex.quote(without_password(self.connections.tracking))}"
        if self.address and command in ADDRESSED:
            yield f" --address {shlex.quote(self.address)}"


@contextmanager
def connecting(
    storage: str | None = None, tracking: str | None = None, inline: bool = False, hurried: bool = True
) -> Iterator[Chosen]:
    """The connections of a command; the advice in errors raised meanwhile names them too.

    Args:
        storage: What `--storage` or the config gives, if anything.
        tracking: What `--tracking` or the config gives, if anything.
        inline: Whether the study is trained in this process.
        hurried: Whether to say soon that an MLflow server is down, rather than to try for minutes.

    Raises:
        BadInput: A URL names an environment variable that is not set, or its password cannot be told from the rest.
    """
    if hurried:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    chosen = Chosen(Connections.of(storage, tracking), bool(storage), bool(tracking), inline, asked_from.get())
    try:
        yield chosen
    except StudyError as error:
        error.args = (chosen.repeated(str(error)),)
        raise


def with_options(message: str) -> str:
    """An error's message with the option in place of the name at its beginning, where an option gave the value."""
    found = RULE.match(message)
    return f"`{OPTIONS[found[1]]}`{message[found.end() :]}" if found else message


def check_no_password(option: str, values: Sequence[str]) -> None:
    """Raises BadInput if an option's value holds a password: a command line can be read by all, and Ray keeps it."""
    for value in values:
        where, url = _connection(value) if option == "--set" else ("", value)
        shown = where + without_password(url) if url else without_passwords(value)
        if shown != (where + url if url else value):
            raise BadInput(
                f"`{option}` must hold no password, as others can read a command line, got {shown}; "
                "name an environment variable in its place, in single quotes, as in '${PGPASSWORD}'."
            )
        if url and "***" in url:
            raise BadInput(
                f"`{option}` must have no stars in place of a password, got {shown}; write an environment variable, "
                "as in '${PGPASSWORD}', in place of ***."
            )


def _connection(override: str) -> tuple[str, str | None]:
    """What a `--set` says of where the records are, as the key with its = and the URL; else an empty text and None.

    Raises:
        BadInput: It says so in another way than as one URL, and may hold a password anywhere.
    """
    found = CONNECTION.match(override)
    if not found:
        return "", None
    if found["url"] is None:
        raise BadInput(
            f"`--set` must say where the records are as tracking.uri=URL or storage.url=URL, got {found['entry']}...; "
            "change it, and write no password."
        )
    return f"{found['key']}=", found["url"].strip(" '\"")
