"""The project's READMEs: their text, code and tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README, LIBRARY, STUDY, CLUSTER = (ROOT / place / "README.md" for place in (".", "belay", "study", "configs"))
ALL = (README, LIBRARY, STUDY, CLUSTER)


def text(document: Path) -> str:
    """All of a document."""
    return document.read_text(encoding="utf-8")


def blocks(language: str, *documents: Path) -> list[str]:
    """The code blocks of a language, in some documents or in all."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return [
        block
        for document in documents or ALL
        for block in re.findall(pattern, text(document), flags=re.MULTILINE | re.DOTALL)
    ]


def table(*head: str) -> list[list[str]]:
    """The cells of the one table with this head, row by row."""
    lines = [line for document in ALL for line in [*text(document).splitlines(), ""]]
    (start,) = [place for place, line in enumerate(lines) if cells(line) == list(head)]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
        assert len(rows[-1]) == len(head), line
    return rows


def cells(line: str) -> list[str]:
    """The cells of a table's row; a bar with a backslash is part of one."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def spans(words: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", words)


def anchors(document: Path) -> set[str]:
    """The names by which links reach a document's headings."""
    found, code = set(), False
    for line in text(document).splitlines():
        code ^= line.startswith("```")
        if not code and (heading := re.match(r"#+ (.*)", line)):
            found.add(re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-"))
    return found


def links(document: Path) -> list[tuple[Path, str]]:
    """Where a document's links within the project and its pictures lead: a file and a heading of it, or ""."""
    found = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text(document))
    return [((document.parent / file).resolve() if file else document, heading) for file, heading in found]
