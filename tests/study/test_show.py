"""Values, tables and plain data as they are printed."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from studies import CommandLine, small

from study.design.config import parse_config
from study.design.document import as_text, from_text, plain, read_document
from study.design.study import Study
from study.design.tasks import catalogue
from study.execute.plan import plan
from study.execute.printed import Page
from study.execute.train.probe import Room
from study.show import number, show_catalogue, show_data, show_failures, show_plan, show_printed, show_rows, show_table

TABLE = pd.DataFrame(
    {
        "study": ["digits", "a-long-name"],
        "setting": [3, 12],
        "mean": [0.123456789, 1e-17],
        "se": [math.nan, math.inf],
        "good": [True, False],
    }
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (12345.6, "1.235e+04"),
        (0.99987654, "0.999877"),
        (0.99, "0.99"),
        (1.0, "1"),
        (np.float64(0.5), "0.5"),
        (math.nan, "-"),
        (math.inf, "inf"),
        (3, "3"),
        (True, "true"),
        (np.bool_(False), "false"),
        ("true", '"true"'),
        (0.9999996, "0.9999996"),
        (1 - 2**-53, "0.99999999999999989"),
        ("1e-3", '"1e-3"'),
        ("null", '"null"'),
        ("", '""'),
        ("007", "007"),
        ("sgd", "sgd"),
        (None, "null"),
        ([64, "a"], '[64, "a"]'),
    ],
)
def test_numbers_are_shown_at_four_digits_and_those_close_below_1_at_six(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.float64("nan"), None),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (1e-300, 1e-300),
        ("sgd", "sgd"),
        (None, None),
    ],
)
def test_a_plain_value_is_python_s_own_and_fits_strict_json(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.0, 1e-300, "1", "1.0", "007", "1_000", "nan", "True", "null", "", " a", '"a"', "[1]", "[", "é\n"],
)
def test_a_value_s_text_tells_what_it_is(value):
    for one in (value, [value, [value]]):
        found = from_text(as_text(one))
        assert repr(found) == repr(one)


def test_means_have_the_digits_that_their_standard_error_leaves_them(capsys):
    show_table(pd.DataFrame({"best": [1e9 + 0.5, 1e9], "se": [0.1, math.nan]}))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["1000000000.5", "1e+09"]


def test_a_table_has_a_row_a_line_with_text_at_the_left_and_numbers_at_the_right(capsys):
    show_table(TABLE)
    head, rule, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["study", "setting", "mean", "se", "good"]
    assert set(rule) == {"─"}
    assert first.split() == ["digits", "3", "0.1235", "-", "true"]
    assert second.split() == ["a-long-name", "12", "1e-17", "inf", "false"]
    assert first.startswith("digits ")
    assert first.index("3") == second.index("12") + 1  # at the right
    assert first.index("true") == second.index("false")  # at the left


def test_a_table_is_cut_nowhere_where_it_is_read_by_a_program(capsys):
    show_table(pd.DataFrame([{f"column{number}": "x" * 20 for number in range(8)}]))
    assert [len(line.split()) for line in capsys.readouterr().out.splitlines()] == [8, 1, 8]


@pytest.mark.parametrize(
    ("width", "shown"), [(80, list(TABLE)), (40, ["study", "setting", "mean", "se"]), (21, ["study", "mean"])]
)
def test_a_narrow_table_loses_columns_and_says_which_but_no_digit(capsys, width, shown):
    show_table(TABLE, width)
    out, err = capsys.readouterr()
    head, _, *rows = out.splitlines()
    assert head.split() == shown
    assert [dict(zip(shown, row.split(), strict=True))["mean"] for row in rows] == ["0.1235", "1e-17"]
    assert all(len(line) <= width for line in out.splitlines())
    left = ", ".join(name for name in TABLE if name not in shown)
    said = f"left out, as a line has {width} characters: {left}; `--format json` has all of them.\n"
    assert err == (said if left else "")


def test_a_first_column_that_is_wider_than_a_line_is_shown_whole(capsys):
    show_table(pd.DataFrame({"study": ["x" * 30], "n": [1]}), 20)
    assert capsys.readouterr().out.split()[-1] == "x" * 30


def test_of_a_long_error_its_end_is_shown_in_a_few_lines_and_all_of_it_as_json(capsys):
    message = "Traceback\n" + "  File\n" * 9 + "ValueError: " + "size mismatch " * 50_000 + "\x1b[31mred\n"
    failed = pd.DataFrame({"setting": [3], "lr": [2.0], "message": [message]})
    show_failures(failed, "table")
    first, *lines = capsys.readouterr().out.splitlines()
    assert (first, len(lines), lines[0]) == ("setting 3, lr 2", 5, "      File")
    assert len(lines[-1]) < 320
    assert lines[-1].endswith("size mismatch \\x1b[31mred")
    show_failures(failed, "json")
    assert json.loads(capsys.readouterr().out) == [{"setting": 3, "lr": 2.0, "message": message}]
    show_failures(failed.head(0), "table")
    assert capsys.readouterr() == ("", "no setting failed\n")


def test_markup_in_a_value_is_shown_as_it_is(capsys):
    show_table(pd.DataFrame({"message": ["[red]no[/red] [1, 2]"]}))
    assert "[red]no[/red] [1, 2]" in capsys.readouterr().out


def test_an_empty_table_has_its_head(capsys):
    show_table(TABLE.head(0))
    assert capsys.readouterr().out.split()[:5] == list(TABLE.columns)


def test_rows_as_json_keep_every_digit_and_are_strict(capsys):
    show_rows(TABLE, "json")
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == [
        {"study": "digits", "setting": 3, "mean": 0.123456789, "se": None, "good": True},
        {"study": "a-long-name", "setting": 12, "mean": 1e-17, "se": "inf", "good": False},
    ]


def test_rows_as_yaml_hold_the_same(capsys):
    show_rows(TABLE, "json")
    as_json = json.loads(capsys.readouterr().out)
    show_rows(TABLE, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == as_json


def test_rows_as_a_table_are_the_table(capsys):
    show_table(TABLE)
    table = capsys.readouterr().out
    show_rows(TABLE, "table")
    assert capsys.readouterr().out == table


def test_no_rows_are_an_empty_list(capsys):
    show_rows(TABLE.head(0), "json")
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data_keeps_its_order(capsys, form, read):
    data = {"zeta": 1, "alpha": [1.5, "x", None], "mid": {"b": 1, "a": 2}}
    show_data(data, form)
    found = read(capsys.readouterr().out)
    assert found == data
    assert list(found) == list(data)
    assert list(found["mid"]) == ["b", "a"]


def test_data_that_strict_json_cannot_hold_is_an_error_and_no_output(capsys):
    with pytest.raises(ValueError, match="not JSON compliant"):
        show_data({"x": math.nan}, "json")
    assert capsys.readouterr().out == ""


def test_the_catalogue_names_every_task_with_its_hyperparameters_and_metrics(capsys):
    show_catalogue(catalogue())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits: handwritten digits")
    assert "    width         64       units in each hidden layer, at most 4,096" in lines
    assert "    average/val_accuracy, live/val_accuracy (max)" in lines
    assert "    average/excess_loss, live/excess_loss (min)" in lines


RODE = ["riders      20 beside each training that no average pulls"]


@pytest.mark.parametrize(("room", "packs", "riders"), [
    (Room(64), "up to 64 trainings side by side", RODE),
    (Room(1, "it is so"), "each setting with all its seeds, one after the other: it is so", []),
])  # fmt: skip
def test_the_plan_says_what_would_be_run(capsys, room, packs, riders):
    study = Study.of(parse_config(small(resources={"cpus": 2, "gpus": 0.5})))
    show_plan(study, plan(study), room)
    lines = capsys.readouterr().out.splitlines()
    *head, _, _, _, _ = lines
    assert head == [
        "study       small: quadratic, average/excess_loss",
        "settings    20: 16 of the space, 4 of plain EMA, by tpe",
        "runs        40: 2 seeds of each, 60 steps",
        *riders,
        f"packs       on 2 CPU and 0.5 GPU, {packs}",
    ]
    assert lines[-4:] == [
        "decay       log_gap [0.8, 0.99]",
        "damping     uniform [0.1, 1.0]",
        "coupling    uniform [0.0, 0.4]",
        "lr          log [0.05, 4.0]",
    ]


def test_the_plan_keeps_long_names_apart_from_their_values(capsys):
    study = Study.of(parse_config(small(space={"memory": 0.2, "damping_ratio": {"log": [0.5, 30]}, "lr": 0.1})))
    show_plan(study, plan(study), Room(64))
    lines = capsys.readouterr().out.splitlines()
    assert "damping_ratio log [0.5, 30.0]" in lines
    assert "lr            choice [0.1]" in lines


def test_the_plan_tells_the_step_and_the_conditions_of_a_parameter(capsys):
    space = {
        "decay": 0.9,
        "dimensions": {"integers": [4, 16], "step": 4},
        "lr": {"log": [0.1, 1], "when": {"dimensions": [4, 8]}},
    }
    task = {"name": "quadratic", "lr": 0.05}
    study = Study.of(parse_config(small(task=task, space=space, search={"settings": 8, "baseline": 0})))
    show_plan(study, plan(study), Room(64))
    lines = capsys.readouterr().out.splitlines()
    assert "dimensions  integers [4, 16], step 4" in lines
    assert "lr          log [0.1, 1.0], when dimensions is 4 or 8" in lines


@pytest.mark.parametrize("text", ["1e3", "1e-3", "-1.5E+7", "1.", ".5", "0x1", "yes", "null", "2020-01-01", "a: b", ""])
def test_text_that_looks_like_something_else_is_still_text_where_it_is_read_back(capsys, tmp_path, text):
    show_data({"tag": text, "small": 1e-05}, "yaml")
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert read_document(tmp_path / "shown.yaml") == {"tag": text, "small": 1e-05}


def test_whole_numbers_among_others_stay_at_the_right(capsys):
    show_table(pd.DataFrame({"power": pd.Series([1, 0.5], dtype=object)}))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[2:]] == ["    1", "  0.5"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_stdout_cannot_encode_are_printed_with_escapes(
    belay_study: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    (tmp_path / "table.csv").write_text("λ,seed,score\n1,0,0.5\n1,1,0.6\n2,0,0.4\n2,1,0.3\n")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    answer = belay_study("best", "--from", "table.csv", "--metric", "score", "--mode", "max", "--top", "2")
    sys.stdout.flush()
    assert (answer.code, answer.err) == (0, "")
    assert "\\u03bb" in written.getvalue().decode(encoding)


def test_what_a_setting_printed_is_shown_by_seeds_with_those_that_trained_together_and_acts_on_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut = "[of 9 bytes the first 2 are left out]\nlast"
    show_printed([Page([0, 1], [3], "first\rthen\x1b[31m\n\n"), Page([2], [3, 4], cut)])
    assert capsys.readouterr() == (
        f"--- seeds 0, 1\nfirst\nthen\\x1b[31m\n\n--- seed 2, settings 3, 4 together\n{cut}\n",
        "",
    )
    show_printed([])
    assert capsys.readouterr() == ("", "the setting printed nothing, or before that was kept\n")
