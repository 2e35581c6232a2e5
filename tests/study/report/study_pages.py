"""A study whose names and messages are markup, for the tests of the page as text and in a browser."""

from __future__ import annotations

import dataclasses

import recorded

from study.design.schema import Tag
from study.findings.collect import Records

MARKUP = "</script><img src=x onerror=alert(1)>&\u2028"


def hostile() -> Records:
    """The study "mixed" with markup wherever a name or a message can be anybody's."""
    records = recorded.records("mixed")
    table = records.table.assign(optimizer=MARKUP)
    table.loc[table["state"] == "failed", "message"] = MARKUP
    table.loc[0, "optimizer"] = "sgd"
    tags = records.tags | {Tag.COMMIT: MARKUP, Tag.DATA: MARKUP}
    return dataclasses.replace(records, name=MARKUP, task={"name": MARKUP}, table=table, tags=tags)
