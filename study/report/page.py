"""Puts the page together: one HTML file that needs no network."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from study.design.document import dump_document
from study.design.schema import Tag
from study.errors import BadInput, FailedWork
from study.findings.collect import Records, asked
from study.findings.recommend import Recommendation, recommend
from study.pictures.base import GAP, Picture, Unsupported, columns
from study.pictures.catalogue import KINDS
from study.pictures.theme import CONFIG
from study.report import listing, words


@dataclass(frozen=True)
class Section:
    """A picture's place in the report: the picture, or the reason why it is left out."""

    kind: str
    title: str
    picture: Picture | None
    reason: str = ""


def report(records: Records) -> str:
    """The report as the text of an HTML file. The same records give the same text."""
    found, lead = _answer(records)
    sections = [_section(records, kind) for kind in KINDS]
    heads, rows = listing.table(records)
    ended, ended_note = listing.ended(records)
    library, script = _library(), _asset("page.js")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_asset("page.html")).render(
        name=records.name,
        task=records.task.get("name", ""),
        policy=_policy(library, script),
        style=Markup(_asset("page.css")),
        sentences=lead,
        notices=list(words.notices(records, found)),
        figures=words.key_figures(found) if found else [],
        sections=sections,
        heads=heads,
        rows=rows,
        table_note=listing.table_note(records, len(rows)),
        ended=ended,
        ended_note=ended_note,
        download=listing.download(records),
        commands=_commands(records),
        config=_config(records),
        origin=words.origin(records),
        data=Markup(_embedded(_data(records, sections))),
        library=Markup(library),
        script=Markup(script),
    )


def _answer(records: Records) -> tuple[Recommendation | None, list[str]]:
    try:
        found = recommend(records)
    except FailedWork as error:
        return None, [f"There is no answer: {error}"]
    return found, words.sentences(found)


def _config(records: Records) -> str:
    """The config as YAML, or why it is not at hand."""
    try:
        return dump_document(asked(records))
    except BadInput as error:
        return f"# not at hand: {error}"


def _section(records: Records, kind: str) -> Section:
    title = KINDS[kind].title
    try:
        return Section(kind, title, KINDS[kind].draw(records))
    except Unsupported as error:
        return Section(kind, title, None, str(error))


def _data(records: Records, sections: list[Section]) -> dict[str, Any]:
    """What the page's script draws; a frame that several pictures share is there once."""
    pictures = {section.kind: section.picture for section in sections if section.picture}
    frames: dict[str, pd.DataFrame] = {}
    for picture in pictures.values():
        frames.update(picture.data)
    return {
        "study": records.name,
        "gap": GAP,
        "themes": CONFIG,
        "data": {name: columns(frame) for name, frame in frames.items()},
        "figures": {
            kind: {
                "chart": picture.chart,
                "data": list(picture.data),
                "columns": picture.columns,
                "kept": [one["name"] for one in picture.chart.get("params", []) if "value" in one],
            }
            for kind, picture in pictures.items()
        },
    }


def _embedded(data: dict[str, Any]) -> str:
    """Data as JSON that no text in it can break out of: nothing in it looks like markup."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _policy(*scripts: str) -> str:
    """What the browser may run: these scripts (Vega compiles expressions); it may load nothing from anywhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _asset(name: str) -> str:
    return (files("study.report") / name).read_text(encoding="utf-8")


def _commands(records: Records) -> str:
    """What to type to have it all again."""
    name, commit = shlex.quote(records.name), records.tags.get(Tag.COMMIT, "")
    lines = [f"git checkout {shlex.quote(commit)}"] if commit else []
    lines += ["belay-study run study.yaml  # the config below", f"belay-study report {name} -o report.html"]
    return "\n".join(lines)
