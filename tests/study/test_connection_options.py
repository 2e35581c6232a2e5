"""Passwords that are given on the command line, of whatever form, are refused without being shown."""

from __future__ import annotations

import pytest

from study.errors import BadInput
from study.options import check_no_password


def refusal(option: str, value: str) -> str:
    with pytest.raises(BadInput) as caught:
        check_no_password(option, [value])
    return str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--storage", "postgresql://me:PW"),
        ("--storage", "host=h password=PW"),
        ("--tracking", "http://PW@host"),
        ("--set", "storage.url=postgresql:me:PW@h/db"),
        ("--set", "tracking.uri='http://me:PW@h'"),
        ("--set", "objective=postgresql://me:PW@h/db"),
    ],
)
def test_a_password_is_refused(option, value):
    message = refusal(option, value)
    assert f"`{option}` must hold no password, as others can read a command line, got " in message
    assert "***" in message
    assert "PW" not in message.replace("PGPASSWORD", "")


@pytest.mark.parametrize(
    "value", ["tracking.password=PW", "tracking=PW", "storage: {password: PW}", "storage.url", " storage.url =PW"]
)
def test_where_the_records_are_is_set_as_one_url(value):
    message = refusal("--set", value)
    assert "must say where the records are as tracking.uri=URL or storage.url=URL, got " in message
    assert "PW" not in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("--storage", "postgresql://me:***@h/db"), ("--set", "tracking.uri=http://h/?token=***"), ("--tracking", "***")],
)
def test_stars_of_an_advice_are_to_be_replaced(option, value):
    assert "write an environment variable, as in '${PGPASSWORD}', in place of ***." in refusal(option, value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--storage", "sqlite:///here/a b.db"),
        ("--storage", "postgresql://me:${PGPASSWORD}@${HOST}/db"),
        ("--tracking", "databricks"),
        ("--set", "storage.url=postgresql://me@h/db"),
        ("--set", "tracking.uri="),
        ("--set", "task=package.module:Task"),
        ("--set", "space.lr={log: [0.1, 1]}"),
    ],
)
def test_what_holds_no_password_is_taken(option, value):
    check_no_password(option, [value])
