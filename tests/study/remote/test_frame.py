"""An answer inside a job's log, in which stdout, stderr and Ray's own lines are mixed."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.remote.frame import BEGIN, MARK, Answer, Reader


def log_of(progress: str, answer: Answer) -> str:
    log = io.StringIO()
    log.write(f"2026-01-01 INFO Runtime env is setting up.\n{BEGIN}\n{progress}")
    answer.write(log)
    return log.getvalue()


@given(
    progress=st.lists(st.text(st.characters(exclude_characters="\n\r")).filter(lambda line: not line.startswith(MARK))),
    out=st.binary(max_size=20_000),
    code=st.integers(0, 255),
    piece=st.integers(1, 5000),
)
def test_what_was_written_is_read_in_whatever_pieces_it_comes(
    progress: list[str], out: bytes, code: int, piece: int
) -> None:
    shown: list[str] = []
    reader = Reader(shown.append)
    text = log_of("".join(f"{line}\n" for line in progress), Answer(code, out))
    for at in range(0, len(text), piece):
        reader.feed(text[at : at + piece])
    assert reader.answer == Answer(code, out)
    assert shown == [line for line in progress if line and line != BEGIN]
    assert reader.read == len(text)


def test_a_last_line_without_its_end_is_shown_and_disturbs_nothing() -> None:
    shown: list[str] = []
    reader = Reader(shown.append)
    reader.feed(log_of("10/20 settings\n\n20/20 sett", Answer(1, b'{"lr": 0.1}\n')))
    assert (shown, reader.last) == (["10/20 settings", "20/20 sett"], "20/20 sett")
    assert reader.answer == Answer(1, b'{"lr": 0.1}\n')


def test_an_answer_of_megabytes_is_written_in_short_lines() -> None:
    out = b"".join(str(number**3).encode() for number in range(100_000))
    text = log_of("", Answer(0, out))
    assert max(map(len, text.splitlines())) < 5_000 < len(text)
    reader = Reader(lambda line: None)
    reader.feed(text)
    assert reader.answer == Answer(0, out)


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_log_that_breaks_off_has_no_answer(cut: int) -> None:
    reader = Reader(lambda line: None)
    reader.feed(log_of("training\n", Answer(0, b"done"))[: -1 - cut])
    assert reader.answer is None
    assert reader.last == "training"


def test_what_a_latecomer_need_not_see_is_read_quietly() -> None:
    shown: list[str] = []
    text = log_of("one\ntwo\nthree\n", Answer(0, b""))
    reader = Reader(shown.append, quiet=text.index("three"))
    reader.feed(text)
    assert (shown, reader.answer) == (["three"], Answer(0, b""))


def test_the_whole_log_is_shown_where_it_is_asked_for() -> None:
    shown: list[str] = []
    Reader(shown.append, whole=True).feed(log_of("one\n", Answer(0, b"done")))
    assert shown == ["2026-01-01 INFO Runtime env is setting up.", "one"]
