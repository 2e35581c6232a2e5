"""What settings printed as they trained, in the ledger: once for those that trained together."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, select

from study.design.schema import Outcome
from study.execute.tables import PRINTED


@dataclass(frozen=True)
class Page:
    """What was printed in one go.

    Attributes:
        seeds: That trained.
        settings: Numbers of the settings that trained together; which of them printed what is not known.
        text: What they printed, or its end.
    """

    seeds: list[int]
    settings: list[int]
    text: str


def rows(study: int, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """The rows of what a pack printed: one for each setting, of which the first has the text."""
    for outcome in outcomes:
        if outcome.printed is None:
            continue
        seeds = [result.seed for result in outcome.seeds]
        page = zlib.compress(json.dumps({"seeds": seeds, "text": outcome.printed.text}).encode())
        shared = {"study": study, "seed": seeds[0], "first": outcome.setting}
        for setting in outcome.printed.settings:
            yield shared | {"setting": setting, "page": page if setting == outcome.setting else None}


def pages(connection: Connection, study: int, settings: Sequence[int]) -> Iterator[Page]:
    """What settings printed, and those that trained together with them, in the order of seeds."""
    mine, first = PRINTED, PRINTED.alias()
    same = and_(first.c.study == mine.c.study, first.c.setting == mine.c.first, first.c.seed == mine.c.seed)
    query = select(first.c.seed, first.c.setting, first.c.page).select_from(mine.join(first, same))
    query = query.where(mine.c.study == study, mine.c.setting.in_(settings)).order_by(first.c.seed).distinct()
    for row in connection.execute(query).all():
        together = select(PRINTED.c.setting).filter_by(study=study, seed=row.seed, first=row.setting)
        numbers = connection.execute(together.order_by(PRINTED.c.setting)).scalars()
        kept = json.loads(zlib.decompress(row.page))
        yield Page(kept["seeds"], list(numbers), kept["text"])
