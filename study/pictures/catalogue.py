"""All kinds of pictures by name: title, and how a study's records become one; a picture as a file's content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import vl_convert

from study.errors import BadInput
from study.findings.collect import Records
from study.pictures.base import Picture, Unsupported
from study.pictures.coordinates import coordinates
from study.pictures.evidence import comparison, importance
from study.pictures.limit import limit
from study.pictures.motion import learning_curves, response
from study.pictures.parallel import parallel
from study.pictures.plane import regime_map
from study.pictures.riders import surface

SCALE = 2.0  # pixels of a PNG for each of the picture's own


@dataclass(frozen=True)
class Kind:
    """A kind of picture: its title in the report, and what draws it."""

    title: str
    draw: Callable[[Records], Picture]


KINDS = {
    "comparison": Kind("Against the other families", comparison),
    "coordinates": Kind("Mass ratio, memory, damping ratio", coordinates),
    "regimes": Kind("Regime map", regime_map),
    "riders": Kind("What rode along", surface),
    "stability": Kind("The stability limit", limit),
    "curves": Kind("Learning curves", learning_curves),
    "response": Kind("The average itself", response),
    "importance": Kind("What matters", importance),
    "parallel": Kind("Parallel coordinates", parallel),
}


def picture(records: Records, kind: str) -> Picture:
    """One of a study's pictures.

    Raises:
        BadInput: There is no such kind, or the study cannot support it.
    """
    if kind not in KINDS:
        raise BadInput(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
    try:
        return KINDS[kind].draw(records)
    except Unsupported as error:
        raise BadInput(
            f"`kind` must be one that {records.name!r} has data for, got {kind!r}: {error}; "
            f"`belay-study report {records.name}` has all that the study supports."
        ) from error


def image(drawn: Picture, form: Literal["png", "svg"], theme: str) -> bytes:
    """The picture as a file's content, in the theme "light" or "dark"."""
    spec = drawn.complete(theme)
    if form == "svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    return vl_convert.vegalite_to_png(spec, scale=SCALE)
