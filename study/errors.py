"""What can be expected to go wrong; the command line prints each as one line and exits with its code."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 2000  # characters of a message


class StudyError(Exception):
    """An expected failure. Its text is one line: the rule, the value, the next step."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(" ".join(message.split())), LONGEST))


class BadInput(StudyError):
    """The user asked for something that cannot be."""

    exit_code = 2


class FailedWork(StudyError):
    """The request was sound, but work that it needs failed."""


class TakenOver(FailedWork):
    """Another driver has the study now: this one must write nothing more."""


class Interrupted(StudyError):
    """The user stopped the work; what was done is kept."""

    exit_code = 130


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end if it has more than so many characters."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def printable(text: str) -> str:
    """The text with escapes in place of characters that would act on a terminal or not be seen."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counted(count: int, what: str) -> str:
    """So many of something, in the singular or in the plural with s."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def reason(error: Exception, secrets: Iterable[str] = ()) -> str:
    """The first line of what another library says went wrong, cut to a readable length.

    Of a database's error it is what the database itself said, however SQLAlchemy or MLflow wrapped it.

    Args:
        error: The library's error.
        secrets: Texts that stars stand for, as `study.design.places.secrets` lists them.
    """
    said = str(getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error)
    for secret in secrets:
        said = said.replace(secret, "***")
    return (said.splitlines() or [type(error).__name__])[0][:300].rstrip(".")
