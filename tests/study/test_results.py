"""The table of a study's results as a file: what is written is read, the same rows are the same bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from study import results
from study.design.schema import CONFIRMATION, RESULTS_ARTIFACT, Outcome, SeedResult, Setting

METRIC, LIVE = "average/val_loss", "live/val_loss"


@pytest.fixture
def folder(tmp_path: Path) -> LocalArtifactRepository:
    return LocalArtifactRepository(str(tmp_path))


def rows(number: int, *values: float, state: Any = "complete", first: int = 0, **ending: Any) -> list[dict[str, Any]]:
    setting = Setting(number, {"decay": 0.9, "damping": 1.0, "coupling": 0.0, "truth": True, "steps": 10})
    seeds = [
        SeedResult(
            seed,
            [(5, {METRIC: 9.0, "live/early": 9.0}), (10, {METRIC: value, LIVE: 9.0})],
            state,
            seconds=0.5,
            **ending,
        )
        for seed, value in enumerate(values, first)
    ]
    return list(results.rows(setting, Outcome(number, seeds), f"run-{number}"))


def test_a_row_holds_what_the_seed_measured_at_its_end_and_what_the_setting_is():
    (row,) = rows(3, 0.25)
    assert row == {
        **{"setting": 3, "seed": 0, "role": "search", "family": "ema", "state": "complete", "message": ""},
        **{"memory": pytest.approx(1.0), "damping_ratio": math.inf, "mass_ratio": 0.0, "seconds": 0.5, "run": "run-3"},
        **{"diverged_at": pytest.approx(math.nan, nan_ok=True), LIVE: 9.0, METRIC: 0.25},
        "parameters": '{"decay": 0.9, "damping": 1.0, "coupling": 0.0, "truth": true, "steps": 10}',
    }


def test_a_seed_that_diverged_has_its_step_and_no_values():
    (row,) = rows(0, 0.25, state="diverged", diverged_at=7)
    assert (row["state"], row["diverged_at"], METRIC in row) == ("diverged", 7, False)


def test_a_seed_that_takes_no_part_in_choosing_is_a_confirmation():
    assert [row["role"] for row in rows(0, 0.1, 0.2, first=CONFIRMATION - 1)] == ["search", "confirmation"]


def test_rows_are_in_the_order_of_settings_and_seeds_and_new_ones_replace_old_ones():
    old = results.table(rows(2, 0.1, 0.2))
    whole = results.table([*rows(1, 0.5), *rows(2, 0.3, 0.4, 0.6)], old)
    assert list(zip(whole["setting"], whole["seed"], whole[METRIC], strict=True)) == [
        (1, 0, 0.5), (2, 0, 0.3), (2, 1, 0.4), (2, 2, 0.6),
    ]  # fmt: skip
    assert list(whole.columns) == [*results.COLUMNS, METRIC, LIVE]


def test_what_is_written_is_read_and_the_same_rows_are_the_same_bytes(folder):
    ended_badly = rows(1, 0.0, state="failed", message='two\nlines, "so" \u00e9')
    table = results.table([*rows(0, 0.1 + 0.2, 1e-300), *ended_badly])
    results.write(folder, table)
    written = (Path(folder.artifact_dir) / RESULTS_ARTIFACT).read_bytes()
    assert results.read(folder).equals(table)
    results.write(folder, results.table(rows(0, 0.1 + 0.2, 1e-300), results.table(ended_badly)))
    assert (Path(folder.artifact_dir) / RESULTS_ARTIFACT).read_bytes() == written


def test_a_table_without_rows_is_read_as_one(folder):
    results.write(folder, results.table())
    assert results.read(folder).empty


def test_a_table_that_is_not_there_is_none(folder):
    with pytest.raises(results.Unreadable, match=r"^none$"):
        results.read(folder)


@pytest.mark.parametrize("damage", ["cut off", "empty", "one bit", "other columns"])
def test_a_damaged_table_is_none(folder, damage):
    file = Path(folder.artifact_dir) / RESULTS_ARTIFACT
    table = results.table(rows(0, *[n / 7 for n in range(500)]))
    results.write(folder, table)
    whole = bytearray(file.read_bytes())
    if damage == "one bit":
        whole[len(whole) // 10] ^= 1
    if damage == "other columns":
        table.drop(columns="role").to_parquet(file)
    else:
        file.write_bytes({"cut off": whole[:-100], "empty": b"", "one bit": whole}[damage])
    with pytest.raises(results.Unreadable, match=r"^a damaged one \(.+\)$"):
        results.read(folder)


def test_a_table_that_is_replaced_while_it_is_read_is_read_again(folder, monkeypatch):
    file, table = Path(folder.artifact_dir) / RESULTS_ARTIFACT, results.table(rows(0, 0.1, 0.2))
    results.write(folder, table)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    monkeypatch.setattr(results.time, "sleep", lambda _: file.write_bytes(whole))
    assert results.read(folder).equals(table)
