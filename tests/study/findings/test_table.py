"""Anybody's table of results: what is read, what is left out or refused in one line, and what is said of it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from belay import Oscillator
from study.answer import answer
from study.design.schema import FIGURES
from study.errors import BadInput, FailedWork
from study.findings.collect import Records
from study.findings.compare import against, best_by, comparisons, ranking, runner_up
from study.findings.recommend import as_data, recommend
from study.findings.table import read_table

Read = Callable[..., Records]
SEEDS = range(8)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes a table and reads its records."""

    def call(text: str | bytes, metric: str = "acc", mode: Any = "max", name: str = "t.csv") -> Records:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, metric, mode)

    return call


def table(
    *settings: Sequence[Any], head: str = "lr", spread: float = 0.001, seeds: Sequence[int] = SEEDS, draw: int = 0
) -> str:
    """CSV of settings, each its parameters and its mean: what a seed adds to all settings, and noise."""
    rng = np.random.default_rng(draw)
    shared = rng.normal(0, 0.05, len(seeds))
    lines = [
        ",".join(map(str, [*values, seed, mean + extra + rng.normal(0, spread)]))
        for *values, mean in settings
        for seed, extra in zip(seeds, shared, strict=True)
    ]
    return "\n".join([f"{head},seed,acc", *lines]) + "\n"


def without(text: str, *starts: str) -> str:
    """The CSV without the rows that begin so."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(starts))


def lines(records: Records) -> dict[str, str]:
    """The answer's lines by their heads; notes are joined."""
    found: dict[str, str] = {}
    for line in answer(recommend(records)).splitlines():
        head = line[:10].strip()
        found[head] = f"{found[head]}; {line[10:]}" if head in found else line[10:]
    return found


def refusal(read: Read, text: str | bytes, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        read(text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


THREE = table((0.1, 0.9), (0.2, 0.88), (0.3, 0.7))
FOUR = table((0.1, 0.9), (0.2, 0.88), (0.3, 0.7), (0.4, 0.6))
LEVEL = table((0.1, 0.905), (0.2, 0.9), (0.3, 0.7), spread=0.01, draw=1)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_best_is_told_from_all_others_beyond_chance_or_not(read):
    clear, level = read(THREE), read(LEVEL)
    assert recommend(clear).settled
    assert lines(clear)["verdict"].startswith("better than 2 other complete settings, beyond chance: +0.01")
    assert lines(clear)["verdict"].endswith(" over lr 0.2")
    assert not recommend(level).settled
    assert recommend(level).rivals
    assert " beyond chance; about " in lines(level)["verdict"]
    assert " seeds would tell +0.00" in lines(level)["verdict"]


def test_the_lead_s_lower_end_is_above_0_just_where_the_best_is_told_from_the_runner_up(read):
    told = set()
    for draw, others in ((0, 0), (1, 1), (2, 1), (3, 0), (4, 0)):  # the fourth would be told one-sided
        records = read(table((1, 0.9), (2, 0.91), *[(3, 0.8)] * others, spread=0.01, draw=draw))
        found = recommend(records)
        _, lead = runner_up(records, found.setting, found.rivals) or pytest.fail("there is a runner-up")
        assert found.settled == (lead.low > 0) == (not found.rivals)
        told.add(found.settled)
    assert told == {True, False}


def test_no_line_is_about_oscillators_or_studies_and_no_command_is_advised(read):
    assert [*lines(read(LEVEL))] == ["table", "best", "verdict", "measured", "how sure"]
    assert "belay-study" not in answer(recommend(read(LEVEL)))
    assert lines(read(LEVEL))["table"] == "t.csv: 3 settings x 8 seeds"


def test_the_data_has_the_keys_of_a_study_s_with_null_for_what_a_table_cannot_say(read):
    data = as_data(recommend(read(THREE)))
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert [data[name] for name in ("regime", "oscillator", "rider_of")] == [None, None, None]
    assert (data["study"], data["setting"], data["settled"], data["versus"]) == ("t.csv", {"lr": 0.1}, True, {})
    assert comparisons(read(THREE), 0).empty


def test_smaller_is_better_where_the_mode_says_so(read):
    assert recommend(read(THREE, mode="min")).parameters == {"lr": 0.3}


def test_a_constant_metric_tells_nothing_apart(read):
    records = read("lr,seed,acc\n" + "".join(f"{lr},{seed},0.5\n" for lr in (1, 2, 3) for seed in SEEDS))
    assert lines(records)["verdict"] == "not better than lr 2, which measured the same"
    assert (recommend(records).rivals, recommend(records).settled) == ([1, 2], False)


def test_one_seed_gives_the_best_and_no_certainty(read):
    records = read("lr,seed,acc\n0.1,0,0.9\n0.2,0,0.8\n")
    assert lines(records)["table"] == "t.csv: 2 settings x 1 seed"
    assert (
        lines(records)["verdict"]
        == "not better than lr 0.2 beyond chance; one seed settles nothing, it takes at least 6 seeds"
    )
    assert lines(records)["how sure"] == "unknown with one seed; add rows of other seeds"
    assert as_data(recommend(records))["standard_error"] is None
    assert not recommend(records).settled


@pytest.mark.parametrize(
    ("text", "best"), [("lr,seed,acc\n3,0,1\n3,1,2\n", "lr 3"), ("seed,acc\n0,1\n1,2\n", "the only setting")]
)
def test_one_setting_has_nothing_to_be_compared_with(read, text, best):
    said = lines(read(text))
    assert (said["best"], said["verdict"]) == (best, "no other setting to compare it with")
    assert said["how sure"] == "no other setting was completed"
    assert not recommend(read(text)).settled


def test_fewer_than_six_seeds_settle_nothing(read):
    records = read(table((0.1, 0.9), (0.2, 0.5), seeds=range(5)))
    assert not recommend(records).settled
    assert lines(records)["verdict"] == ("ahead of lr 0.2, but 5 seeds settle nothing, about 6 seeds would tell +0.4")


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "inf", "-inf", "NA", "null", "1e200", "1e999"])
def test_a_setting_without_a_finite_metric_has_diverged_and_cannot_be_the_best(read, cell):
    found = recommend(read(THREE + f"0.1,8,{cell}\n"))
    assert (found.parameters, found.diverged, found.tried, found.unfinished) == ({"lr": 0.2}, 1, 2, 0)
    assert lines(found.records)["table"].endswith(", 1 diverged")


def test_where_all_diverged_nothing_is_recommended(read):
    with pytest.raises(FailedWork, match=r"none of 't.csv' \(2 diverged, 0 failed\)"):
        recommend(read("lr,seed,acc\n1,0,\n2,0,inf\n2,1,0.3\n"))


def test_a_setting_that_lacks_a_seed_is_unfinished_named_and_cannot_be_the_best(read):
    found = recommend(read(without(THREE, "0.1,7,")))
    assert (found.parameters, found.unfinished, found.tried) == ({"lr": 0.2}, 1, 2)
    assert lines(found.records)["table"] == "t.csv: 3 settings x 8 seeds, 1 unfinished"
    assert lines(found.records)["note"] == (
        "1 setting cannot be the best, without a row of each seed that at least half of the settings have: {'lr': 0.1}"
        ", though it measured better than the best on the seeds that both have"
    )
    assert as_data(found)["notes"] == [*found.records.notes]


@pytest.mark.parametrize(("text", "mode", "told"), [
    (without(THREE, "0.3,7,"), "max", ": {'lr': 0.3}"),
    (without(THREE, "0.1,7,"), "min", ": {'lr': 0.1}"),
    (without(THREE, "0.3,7,"), "min", ": {'lr': 0.3}, though it measured better than the best on the seeds that both "
                                      "have"),
    (without(FOUR, "0.1,7,", "0.3,6,"), "max", ": {'lr': 0.1}, {'lr': 0.3}, though {'lr': 0.1} measured better than "
                                               "the best on the seeds that both have"),
    ("lr,seed,acc\n1,0,0.9\n1,1,0.1\n2,0,0.8\n3,1,0.1\n4,0,0.95\n4,1,\n", "max", ": {'lr': 2}, {'lr': 3}"),
])  # fmt: skip
def test_of_unfinished_settings_it_is_said_which_measured_better_than_the_best(read, text, mode, told):
    assert read(text, mode=mode).notes[0].endswith(f"half of the settings have{told}")


def test_seeds_that_few_settings_have_are_left_out_and_named(read):
    found = recommend(read(THREE + "0.3,8,99\n"))
    assert (found.parameters, found.seeds, found.unfinished) == ({"lr": 0.1}, 8, 0)
    assert lines(found.records)["note"] == "left out as seeds that less than half of the settings have: 8 (1 setting)"


def test_settings_that_diverged_on_their_first_seed_do_not_take_the_others_seeds_from_them(read):
    diverged = "".join(f"{lr},0,nan\n" for lr in range(1, 9))
    found = recommend(read(THREE + diverged))
    assert (found.seeds, found.diverged, found.unfinished, found.settled) == (8, 8, 0, True)


def test_settings_that_share_no_seeds_are_refused(read):
    said = refusal(read, "lr,loss,seed,acc\n" + "".join(f"1,{seed}.5,{seed},0.5\n" for seed in SEEDS))
    assert said == (
        "`table` must have settings that share their seeds, got 8 settings in 8 rows; add the missing rows, or remove "
        "columns that are no parameters, as 'loss' with its 8 values may be."
    )
    few = "".join(f"{lr},{seed},1\n" for lr, seeds in enumerate(["01", "12", "34", "56", "78"]) for seed in seeds)
    assert "share their seeds, got 5 settings in 10 rows; add the missing" in refusal(read, f"lr,seed,acc\n{few}")
    apart = "".join(f"{lr},{100 * lr + seed},0.5\n" for lr in range(4) for seed in SEEDS)  # no seed is half of them's
    assert refusal(read, f"lr,seed,acc\n{apart}") == (
        "`table` must have settings that share their seeds, got 4 settings in 32 rows; number the seeds of each "
        "setting alike."
    )


def test_a_table_with_an_empty_cell_in_each_setting_says_what_to_do_about_them(read):
    rows = "".join(f"{lr},{seed},{'' if seed == lr else 0.5}\n" for lr in range(4) for seed in SEEDS)
    with pytest.raises(FailedWork) as failed:
        recommend(read(f"lr,seed,acc\n{rows}"))
    assert str(failed.value).endswith(
        "(4 diverged, 0 failed); a cell that is empty, nan, inf or beyond 1e100 has diverged: fill it, or remove its "
        "seed's rows."
    )


def test_a_mean_has_the_digits_that_its_standard_error_leaves_it(read):
    rows = "".join(f"{lr},{seed},{12345.6 + lr + seed / 10}\n" for lr in (1, 2, 3, 4) for seed in SEEDS)
    measured = lines(read(f"lr,seed,acc\n{rows}"))["measured"]
    assert measured.startswith("acc 12349.95 (standard error 0.087), about 12349.9")


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_have_the_types_that_they_are_written_in(read):
    cells = ["007", "7", "0.5", "1e-3", "True", "false", "", "nan", "adam", "1_000", "-.5", "9" * 400]
    cells += ['"""7"""', '"""null"""', '"[64, ""a""]"', "[64", "[NaN]"]
    records = read("x,seed,acc\n" + "".join(f"{cell},0,{place}\n" for place, cell in enumerate(cells)))
    written = ["007", 7, 0.5, 0.001, True, False, None, "nan", "adam", "1_000", -0.5, "9" * 400]
    written += ["7", "null", [64, "a"], "[64", "[NaN]"]
    best = ranking(records, "acc")["x"].tolist()[::-1]
    assert list(zip(map(type, best), best, strict=True)) == list(zip(map(type, written), written, strict=True))


def test_equal_numbers_are_one_value_and_an_empty_cell_is_another(read):
    rows = ["1,0,0.1", "1.0,1,0.2", ",0,0.3", "null,1,0.4", "True,0,0.5", "true,1,0.6"]
    records = read("x,seed,acc\n" + "\n".join(rows))
    assert ranking(records)["x"].tolist() == [True, None, 1]
    assert lines(records)["best"] == "x true"
    assert best_by(records, "x")["settings"].tolist() == [1, 1, 1]


def test_parameters_of_any_type_are_ranked_and_grouped(read):
    records = read(table(("007", 1, "true", 0.9), ("a", "", "x", 0.8), ("a", 0.5, "false", 0.7), head="tag,clip,flag"))
    best = {name: best_by(records, name)[name].tolist() for name in records.parameters}
    assert {name: len(values) for name, values in best.items()} == {"tag": 2, "clip": 3, "flag": 3}
    assert recommend(records).parameters == {"tag": "007", "clip": 1, "flag": True}
    with pytest.raises(BadInput, match="`parameter` must be one of tag, clip, flag, got 'memory'"):
        best_by(records, "memory")


def test_a_parameter_that_is_here_missing_and_there_one_value_is_named(read):
    assert lines(read(table(("", 0.9), (3, 0.8), head="clip")))["best"] == "clip null"


def test_names_that_mean_something_else_here_get_an_underscore_and_a_note(read):
    head = "setting,mean,mean_,state,se,message,best,from,family,memory,seeds"
    records = read(table(*[(*[place] * 11, 0.9 - place / 10) for place in range(2)], head=head))
    names = ["setting_", "mean__", "mean_", "state_", "se_", "message_", "best_", "from_", "family", "memory", "seeds_"]
    assert records.parameters == names
    assert "the column 'mean' is called 'mean__' here, where mean means something else" in records.notes
    assert as_data(recommend(records))["setting"] == dict.fromkeys(names, 0)
    for name in names:
        assert best_by(records, name)["settings"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "called"), [("mean", "mean"), ("state", "state_"), ("setting", "setting_"), ("decay", "decay")]
)
def test_a_metric_may_have_any_name(read, name, called):
    data = as_data(recommend(read(THREE.replace("acc", name), metric=name)))
    assert (data["metric"], data["setting"]) == (called, {"lr": 0.1})


def test_seeds_may_be_words(read):
    words = THREE.replace(",7,", ",seven,")
    assert recommend(read(words)).mean == pytest.approx(recommend(read(THREE)).mean)


def test_repetitions_are_left_out_and_said_and_contradictions_refused(read):
    first = THREE.splitlines()[1]
    found = recommend(read(f"{THREE}{first}\n"))
    assert lines(found.records)["note"] == "left out as repetitions: 1 row"
    assert found.mean == recommend(read(THREE)).mean
    assert refusal(read, THREE + "0.1,0,0.25\n").startswith("`table` must have one value for a setting and seed, got [")
    assert "0.25] in rows 1, 25 for {'lr': 0.1}; " in refusal(read, THREE + "0.1,0,0.25\n")
    assert refusal(read, "lr,seed,acc\n1,0,0.5\n1,0,\n").endswith(
        " got [0.5, nan] in rows 1, 2; remove one, or number the seeds."
    )


def test_the_order_of_rows_and_a_second_look_change_nothing(read):
    head, *rows = (LEVEL + ",0,nan\n1,0,0.5\n1.0,1,0.5\n").splitlines()
    first = read("\n".join([head, *rows]))
    for seed in range(2):
        again = random.Random(seed).sample(rows, len(rows))
        found = recommend(read("\n".join([head, *again])))
        assert (as_data(found), answer(found)) == (as_data(recommend(first)), answer(recommend(first)))


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_same_table_is_read_from_every_kind_of_file(read, tmp_path):
    expected = as_data(recommend(read(THREE)))
    frame = pd.read_csv(tmp_path / "t.csv")
    frame.to_csv(tmp_path / "indexed.csv")
    frame.set_index("seed").to_parquet(tmp_path / "indexed.parquet")
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.TSV").write_text(THREE.replace(",", "\t"))
    (tmp_path / "spaced.csv").write_bytes(
        b"\xef\xbb\xbf" + THREE.replace(",", " , ").replace("\n", "\r\n\r\n").encode()
    )
    for name in ("indexed.csv", "indexed.parquet", "t.parquet", "t.TSV", "spaced.csv"):
        assert as_data(recommend(read_table(tmp_path / name, "acc", "max"))) == expected | {"study": name}


def test_values_of_a_parquet_file_are_plain_data_and_those_that_json_lacks_texts_and_null(tmp_path):
    columns = {
        "layers": [[64, 64], [64, 64], [32], [32]],
        "when": pd.to_datetime(["2020-01-01"] * 4),
        "k": [1, 1, None, None],
    }
    frame = pd.DataFrame(
        {**columns, "gap": [math.inf] * 2 + [math.nan] * 2, "seed": [0, 1] * 2, "acc": [0.1, 0.2, 0.3, 0.4]}
    )
    frame.astype({"k": "Int64"}).to_parquet(tmp_path / "t.parquet")
    records = read_table(tmp_path / "t.parquet", "acc", "min")
    data = as_data(recommend(records))
    assert json.loads(json.dumps(data, allow_nan=False))["setting"] == {
        "layers": [64, 64],
        "when": "2020-01-01 00:00:00",
        "k": 1,
        "gap": "inf",
    }
    assert as_data(recommend(read_table(tmp_path / "t.parquet", "acc", "max")))["setting"]["k"] is None


@pytest.mark.parametrize(("text", "rule"), [
    ("", "must have a line of names and a row for each setting and seed, got none in "),
    ("lr,seed,acc\n", "must have a line of names and a row for each setting and seed, got none in "),
    (bytes(range(256)), "must be a .csv file, got "),
    ("lr,seed,acc\n1,0\n", "t.csv: row 1 has 2 cells where there are 3 names; write it anew."),
    ('lr,seed,acc\n1,0,"2', "must be a .csv file, got "),
    ("lr,acc\n1,0.5\n", "must have a column 'seed', by which settings are compared, got ['lr', 'acc']; add it."),
    ("lr,seed,acc\n1,,0.5\n", "must have a seed in every row, got none in row 1; add it."),
    ("lr,lr,seed,acc\n1,2,0,0.5\n", "must name each column once, got 'lr' twice; rename one."),
    ("decay,seed,acc\n1.5,0,0.5\n", "must have averages where it has a column 'decay', got "),
    ("decay,damping,seed,acc\n0.5,,0,0.5\n", "'damping': None"),
    ("decay,seed,acc\ncosine,0,0.5\n", "; mend it, or rename the column if it is another decay."),
])  # fmt: skip
def test_what_is_no_table_of_results_is_refused_in_one_line(read, text, rule):
    said = refusal(read, text)
    assert said.startswith("`table` must ")
    assert rule in said


@pytest.mark.parametrize(("metric", "text", "rule"), [
    ("loss", "lr,seed,acc\n1,0,0.5\n", "must be one of the table's columns ['lr', 'acc'], got 'loss'; change it."),
    ("seed", "lr,seed,acc\n1,0,0.5\n", "must be one of the table's columns ['lr', 'acc'], got 'seed'; change it."),
    ("acc", "lr,seed,acc\n1,0,0.5\n1,1,good\n", "must be a column of numbers, got 'good' in row 2 of 'acc'; mend it, "),
    ("acc", "lr,seed,acc\n1,0,1e-200\n", "must have values above 1e-100 in size, got none in 'acc'; rescale it."),
])  # fmt: skip
def test_a_metric_that_is_none_is_refused_in_one_line(read, metric, text, rule):
    assert refusal(read, text, metric=metric).startswith(f"`metric` {rule}")


def test_a_file_that_cannot_be_read_or_is_of_another_kind_is_refused(read, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, why in (("folder.csv", "Is a directory"), ("gone.csv", "No such file or directory")):
        with pytest.raises(BadInput, match=f"must be a readable file, got .*{name}: {why}"):
            read_table(tmp_path / name, "acc", "max")
    assert "must be a .csv, .tsv or .parquet file, got " in refusal(read, THREE, name="t.xlsx")
    assert "must be a .parquet file, got " in refusal(read, THREE, name="t.parquet")


# --- averages ---------------------------------------------------------------------------------------------------------

AVERAGES = [(0.9, 1, 0, 100, 0.80), (0.95, 1, 0, 100, 0.82), (0.95, 0.5, 0, 100, 0.83), (0.95, 1, 0.2, 100, 0.90)]
HEAD = "decay,damping,coupling,steps"


def test_a_table_of_averages_has_regimes_families_and_the_best_ema(read):
    records = read(table(*AVERAGES, head=HEAD))
    found, data = recommend(records), as_data(recommend(records))
    assert found.oscillator == Oscillator(0.95, 1.0, 0.2)
    assert (data["regime"], data["oscillator"].keys()) == ("overdamped", FIGURES.keys())
    assert data["oscillator"]["memory"] == pytest.approx(20 / 100)
    assert ranking(records)["family"].tolist() == ["belay", "damped", "ema", "ema"]
    assert data["versus"]["ema"]["setting"] == found.versus[0].setting
    said = lines(records)
    assert said["verdict"] == "better than the best EMA, beyond chance"
    assert said["vs ema"].endswith(" over the best EMA (decay 0.95)")
    assert said["regime"].endswith(" (lag 19 of 100 steps)")
    assert not {"next", "vs none"} & said.keys()
    assert best_by(records, "mass_ratio")["settings"].tolist() == [3, 1]


def test_no_command_is_advised_where_an_average_is_not_told_from_ema(read):
    records = read(table((0.9, 0, 0.9), (0.95, 0.2, 0.9001), head="decay,coupling", spread=0.01, draw=1))
    assert lines(records)["verdict"].startswith("no setting is better than EMA beyond chance; ")
    assert "belay-study" not in answer(recommend(records))


def test_damping_coupling_and_steps_may_be_left_out(read):
    records = read(table((0.9, 0.80), (0.95, 0.9), head="decay"))
    data = as_data(recommend(records))
    assert data["setting"] == {"decay": 0.95, "damping": 1.0, "coupling": 0.0}
    assert (data["oscillator"]["memory"], data["oscillator"]["lag"]) == (None, pytest.approx(19))
    assert lines(records)["regime"] == "overdamped: damping_ratio inf, mass_ratio 0 (lag 19 steps)"
    assert lines(records)["verdict"].startswith("better than 1 other complete setting, beyond chance: ")


def test_steps_that_differ_are_a_parameter_and_no_length_of_the_run(read):
    records = read(table((0.9, 100, 0.80), (0.9, 200, 0.9), head="decay,steps"))
    assert records.steps == 0
    assert "steps 200" in lines(records)["best"]


def test_without_a_decay_no_baseline_is_looked_for(read):
    records = read(table((1, 0.2, 0.9), (0.5, 0.1, 0.8), head="damping,coupling"))
    assert against(records, 0, "ema") is None
    assert recommend(records).oscillator is None
    assert recommend(records).parameters == {"damping": 1, "coupling": 0.2}
