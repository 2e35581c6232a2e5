"""A job's answer inside its log, in which Ray mixes stdout, stderr and lines of its own.

The log is Ray's up to a line that says that the command begins, then the command's stderr, then its exit code and its
stdout in lines that nothing else begins like.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

BEGIN = "belay-study: the job begins"
MARK = "belay-study:answer:"
PART = re.compile(rf"{MARK}\d+/(?P<parts>\d+):(?P<text>[A-Za-z0-9+/=]*)")
WIDTH = 4000  # characters of an answer's line


@dataclass(frozen=True)
class Answer:
    """What a command came to: its exit code and what it wrote to stdout."""

    code: int
    out: bytes

    def write(self, log: TextIO) -> None:
        """Writes it to the log, whose last line may lack its end."""
        packed = zlib.compress(json.dumps([self.code, base64.b64encode(self.out).decode()]).encode())
        text = base64.b64encode(packed).decode()
        parts = [text[at : at + WIDTH] for at in range(0, len(text), WIDTH)]
        lines = [f"{MARK}{place}/{len(parts)}:{part}\n" for place, part in enumerate(parts, 1)]
        log.write("\n" + "".join(lines))
        log.flush()


class Reader:
    """Reads a job's log as it grows.

    Args:
        show: Called with each whole line of the command's stderr, except empty ones.
        quiet: Characters at the start of the log that are read but not shown.
        whole: Whether to show what Ray logs before the command begins, too.
    """

    def __init__(self, show: Callable[[str], None], quiet: int = 0, whole: bool = False) -> None:
        self._show, self._quiet, self._begun = show, quiet, whole
        self._rest, self._parts = "", list[str]()
        self.seen = 0  # characters of whole lines
        self.answer: Answer | None = None
        self.last = ""  # line that was not empty

    @property
    def read(self) -> int:
        """How many characters of the log are read."""
        return self.seen + len(self._rest)

    def feed(self, text: str) -> None:
        """Takes in what comes next."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.seen += len(line) + 1
            self._take(line)

    def _take(self, line: str) -> None:
        if part := PART.fullmatch(line):
            self._collect(part["text"], int(part["parts"]))
        elif line == BEGIN:
            self._begun = True
        elif line:
            self.last = line
            if self._begun and self.seen > self._quiet:
                self._show(line)

    def _collect(self, part: str, parts: int) -> None:
        self._parts.append(part)
        if parts == len(self._parts):
            code, out = json.loads(zlib.decompress(base64.b64decode("".join(self._parts))))
            self.answer = Answer(code, base64.b64decode(out))
