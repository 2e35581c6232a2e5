"""The command line on real Optuna, MLflow and, where it matters, Ray: a small study and all that is asked of it."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from documents import blocks
from mlflow import MlflowClient
from processes import forked
from studies import Answer, CommandLine, copy_databases, environment_with, small, write

from belay import load_defaults
from study.design.schema import host_of
from study.errors import BadInput
from study.execute import tune
from study.execute.ledger import stored_config
from study.findings.collect import load

COMMANDS = [
    "run",
    "resume",
    "sync",
    "delete",
    "list",
    "status",
    "best",
    "regimes",
    "importance",
    "compare",
    "export",
    "report",
    "plot",
    "tasks",
    "init",
    "schema",
    "doctor",
]


OF_A_TABLE = {"finished": None}  # which does not say so
STARTING = "small: 20 settings x 2 seeds of 60 steps; starting MLflow"
STARTING_RAY = STARTING.replace("MLflow", "Ray and MLflow")


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress has its first line and, if the study is finished, its last, however long it takes."""
    monkeypatch.setattr("study.live.EVERY", math.inf)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory in which the small study is run once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def finished(
    home: Path, made_databases: Path, belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """The command line in a working directory where the small study is finished."""
    monkeypatch.chdir(home)
    if not (home / "small.yaml").exists():
        copy_databases(made_databases, home)
        answer = belay_study("run", write(home / "small.yaml"), "--inline")
        assert answer.code == 0, answer.err
        (home / "answer.txt").write_text(answer.out.replace(" --inline", ""))  # with which it advises to go on
        (home / "progress.txt").write_text(answer.err)
    return belay_study


def test_run_prints_the_answer_on_stdout_and_progress_on_stderr(finished: CommandLine, home: Path) -> None:
    answer, progress = (home / "answer.txt").read_text(), (home / "progress.txt").read_text()
    assert [line.split("  ")[0] for line in answer.splitlines()] == [
        "study", "best", "verdict", "measured", "regime", "rates", "how sure", "riders", "vs ema", "vs none", "",
        "next",
    ]  # fmt: skip
    assert "small: 20 of 20 settings x 2 seeds done" in answer
    assert_progress(progress, STARTING)


def assert_progress(printed: str, starting: str) -> None:
    """The lines of a small study that is trained, and nothing that Ray, Optuna or MLflow would say."""
    first, *between, last = printed.splitlines()
    assert first == starting
    best = r"best average/excess_loss [\d.e-]+ \((over|under)damped\)"
    assert re.fullmatch(rf"20/20 settings, {best}, [1-9]\d* diverged", last)
    for line in between:
        assert re.fullmatch(rf"\d+/20 settings, (training|({best}, )?(\d+ diverged, )?about \d+ s left)", line)


def test_running_a_finished_study_again_prints_the_same_answer_at_once(finished: CommandLine, home: Path) -> None:
    again = finished("run", home / "small.yaml")
    assert (again.code, again.out) == (0, (home / "answer.txt").read_text())


def test_a_finished_study_needs_no_ray_to_print_its_answer(finished: CommandLine, home: Path) -> None:
    with forked("run", "small.yaml", home=home, RAY_ADDRESS="127.0.0.1:1") as driver:
        done = driver.end()
    assert (done.code, done.out) == (0, (home / "answer.txt").read_text()), done.err


def test_every_setting_is_one_finished_child_of_the_study_s_run(finished: CommandLine, home: Path) -> None:
    client = MlflowClient(f"sqlite:///{home}/.belay-study/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.data.tags["belay.kind"] == "study")
    children = [run for run in runs if run is not parent]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(int(run.data.tags["belay.setting"]) for run in children) == list(range(20))
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    complete = next(run for run in children if run.data.tags["belay.outcome"] == "complete")
    for name in ("average/excess_loss", "average/excess_loss.se", "oscillator/lag"):
        assert name in complete.data.metrics
    history = client.get_metric_history(complete.info.run_id, "average/excess_loss")
    assert sorted(point.step for point in history) == [30, 60]
    assert {"config.json", "results.parquet"} == {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert json.loads(parent.data.tags["belay.versions"])["ray"]


def test_a_diverged_setting_has_no_mean_that_could_win(finished: CommandLine, home: Path) -> None:
    client = MlflowClient(f"sqlite:///{home}/.belay-study/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    diverged = client.search_runs([experiment.experiment_id], "tags.`belay.outcome` = 'diverged'")
    assert diverged
    for run in diverged:
        assert "average/excess_loss" not in run.data.metrics
        assert int(run.data.tags["belay.diverged_at"]) > 0


def test_best_says_the_same_as_table_json_and_yaml(finished: CommandLine, home: Path) -> None:
    data = json.loads(finished("best", "small", "--format", "json").out)
    assert yaml.safe_load(finished("best", "small", "--format", "yaml").out) == data
    assert finished("best", "small").out == (home / "answer.txt").read_text()
    assert f"average/excess_loss {data['mean']:.4g}" in finished("best", "small").out
    assert data["mode"] == "min"
    assert set(data["versus"]) >= {"ema", "none"}
    assert f"verdict   {data['verdict']}\n" in finished("best", "small").out
    assert data["finished"] is True


def test_best_lists_settings_best_first_and_by_parameter(finished: CommandLine) -> None:
    top = json.loads(finished("best", "small", "--top", 3, "--format", "json").out)
    assert [row["mean"] for row in top] == sorted(row["mean"] for row in top)
    by = json.loads(finished("best", "small", "--by", "damping", "--format", "json").out)
    assert min(row["best"] for row in by) == top[0]["mean"]
    refused = finished("best", "small", "--top", 3, "--by", "damping")
    assert_refused(refused, 2, "`--top` must come alone, as it prints another table, got `--by` too; leave one out.")
    refused = finished("best", "small", "--by", "dampin")
    assert_refused(refused, 2, "`--by` must be one of decay, damping, coupling", "'dampin'")


def test_regimes_and_compare_agree_with_best(finished: CommandLine) -> None:
    best = json.loads(finished("best", "small", "--format", "json").out)
    data = json.loads(finished("regimes", "small", "--format", "json").out)
    assert yaml.safe_load(finished("regimes", "small", "--format", "yaml").out) == data
    assert sum(data["region"]["regimes"].values()) == pytest.approx(1)
    assert set(data["explained"]) == {"settings", "logarithm", "unknown", "natural", "raw"}
    assert finished("regimes", "small").out.startswith("region ")
    first = data["settings"][0]
    assert first["regime"] == best["regime"]
    assert first["lag"] == pytest.approx(best["oscillator"]["lag"])
    (row,) = json.loads(finished("compare", "small", "--baseline", "none", "--format", "json").out)
    difference = best["versus"]["none"]["difference"]
    assert (row["difference"], row["needed"]) == pytest.approx((difference["mean"], difference["needed"]))
    few = "fewer than 6 seeds settle nothing; as many as `needed` do, four times in five\n"
    assert finished("compare", "small").err == few  # it has two
    refused = finished("compare", "small", "--baseline", "push")
    assert_refused(refused, 2, "`--baseline` must have been measured, got 'push'")


def test_importance_says_what_it_is_of_or_why_there_is_none(finished: CommandLine) -> None:
    data = json.loads(finished("importance", "small", "--format", "json").out)
    assert (data["predicted"] is None) == bool(data["unknown"])
    assert yaml.safe_load(finished("importance", "small", "--format", "yaml").out) == data
    assert f"over {data['settings']} settings" in finished("importance", "small").out


def test_export_writes_defaults_that_belay_loads(finished: CommandLine, home: Path) -> None:
    answer = finished("export", "small", "-o", home / "defaults.yaml")
    load = f'belay.load_defaults("{home}/defaults.yaml", steps=...)'
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == f"wrote {home}/defaults.yaml; load it with {load}\n"
    best = json.loads(finished("best", "small", "--format", "json").out)["setting"]
    oscillator = load_defaults(home / "defaults.yaml")
    assert asdict(oscillator) == {name: best[name] for name in ("decay", "damping", "coupling")}
    longer = load_defaults(home / "defaults.yaml", steps=600)
    assert longer.half_life == pytest.approx(10 * oscillator.half_life)
    assert finished("export", "small").out.startswith("# Recommended by the study small")
    assert_refused(finished("export", "small", "-o", home / "no" / "x.yaml"), 2, "`--output` must be a writable file")


def test_export_writes_an_optuna_study(finished: CommandLine, home: Path) -> None:
    url = f"sqlite:///{home}/optuna.db"
    answer = finished("export", "small", "--to", f"optuna:{url}")
    assert (answer.code, answer.out, answer.err) == (0, "", f"wrote small, small/ema to {url}\n")
    assert_refused(finished("export", "small", "--to", f"optuna:{url}"), 2, "without these studies", "name another")
    assert_refused(finished("export", "small", "--to", url), 2, "`--to` must be optuna: and a database's URL", url)
    assert_refused(finished("export", "nobody", "--to", f"optuna:{url}"), 2, "the study must exist", "'nobody'")


def test_export_writes_all_results_as_a_table_that_best_reads(finished: CommandLine, home: Path) -> None:
    answer = finished("export", "small", "--format", "parquet", "-o", home / "all.parquet")
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == f"wrote {home}/all.parquet; `belay-study best --from {home}/all.parquet ...` reads it\n"
    rows = pd.read_parquet(home / "all.parquet")
    assert set(rows["role"]) == {"search", "rider"}
    assert (rows["rider_of"].notna() == (rows["role"] == "rider")).all()
    best = json.loads(finished("best", "small", "--format", "json").out)
    asked = ("--metric", best["metric"], "--mode", best["mode"], "--format", "json")
    again = json.loads(finished("best", "--from", home / "all.parquet", *asked).out)
    assert again == best | OF_A_TABLE | {"study": "all.parquet", "verdict": best["verdict"].partition(": belay")[0]}
    assert_refused(finished("export", "small", "--format", "parquet"), 2, "`--output` must name a file", "add `-o")
    assert_refused(finished("export", "small", "--format", "csv", "--to", "optuna:sqlite:///x.db"), 2, "`--format`")


def test_a_confirmed_study_is_told_by_fresh_seeds_and_says_so_again_without_training(
    belay_study: CommandLine, databases: Path
) -> None:
    config = write(databases.parent / "small.yaml", confirm={"finalists": 3, "seeds": 5})
    ran = belay_study("run", config, "--inline")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("study     small: 20 of 20 settings x 2 seeds done")
    assert "on 5 fresh seeds, the best of 3 finalists" in ran.out
    assert "flatter" not in ran.out
    assert "3 of 3 finalists confirmed" in ran.err.splitlines()[-1]
    again = belay_study("run", config, "--inline")
    assert (again.code, again.out) == (0, ran.out)
    (status,) = json.loads(belay_study("status", "small", "--format", "json").out)
    assert (status["done"], status["finalists"], status["confirmed"]) == (20, 3, 3)
    best = json.loads(belay_study("best", "small", "--format", "json").out)
    assert best["fresh_seeds"] == 5
    exported = belay_study("export", "small", "--format", "csv")
    same = OF_A_TABLE | {"study": "all.csv", "verdict": best["verdict"].partition(": belay")[0]}
    (databases.parent / "all.csv").write_text(exported.out)
    asked = ("--from", "all.csv", "--metric", best["metric"], "--mode", best["mode"], "--format", "json")
    assert json.loads(belay_study("best", *asked).out) == best | same  # riders and fresh seeds are known again
    rows = json.loads(belay_study("compare", "small", "--format", "json").out)
    fresh = {row["baseline"]: row["seeds"] for row in rows if row["fresh"]}
    assert fresh["ema"] == fresh["none"] == 5
    client = MlflowClient(f"sqlite:///{databases}/mlflow.db")
    experiment = client.get_experiment_by_name("small").experiment_id
    confirmed = client.search_runs([experiment], "tags.`belay.confirmed` = 'complete'")
    assert len(confirmed) == 3
    (chosen,) = [run for run in confirmed if run.data.tags["belay.setting"] == str(best["number"])]
    assert chosen.data.metrics["confirmed/average/excess_loss"] == pytest.approx(best["mean"])
    assert chosen.data.metrics["confirmed/average/excess_loss.se"] == pytest.approx(best["standard_error"])


def test_extend_trains_what_is_missing_and_comes_to_what_a_study_asked_so_comes_to(
    belay_study: CommandLine, databases: Path
) -> None:
    search = {"sampler": "random", "settings": 4, "baseline": 1}
    config = write(databases.parent / "small.yaml", search=search)
    assert belay_study("run", config, "--inline").code == 0
    grown = belay_study("extend", "small", "--set", "seeds=3", "--set", "search.settings=6", "--inline")
    assert grown.code == 0, grown.err
    assert grown.out.startswith("study     small: 7 of 7 settings x 3 seeds done")
    rows = load("small", f"sqlite:///{databases}/mlflow.db").table
    write(config, name="other", seeds=3, search=search | {"settings": 6})
    assert belay_study("run", config, "--inline").code == 0
    asked_so = load("other", f"sqlite:///{databases}/mlflow.db").table
    key, columns = ["lr", "seed"], [name for name in rows if name not in ("setting", "message")]
    one, other = (table[columns].sort_values(key, ignore_index=True) for table in (rows, asked_so))
    pd.testing.assert_frame_equal(one, other)
    for change, said in (
        ("seeds=2", "`seeds` must not shrink, got 2 of 'small'"),
        ("steps=9", "or its config the same"),
    ):
        refused = belay_study("extend", "small", "--set", change, "--inline")
        assert refused.code == 2
        assert said in refused.err.splitlines()[-1]


def test_list_and_status_say_how_far_each_study_is(finished: CommandLine) -> None:
    (row,) = json.loads(finished("list", "--format", "json").out)
    assert (row["study"], row["done"], row["planned"], row["status"]) == ("small", 20, 20, "finished")
    (row,) = yaml.safe_load(finished("status", "small", "--format", "yaml").out)
    assert (row["planned"], row["done"], row["left"]) == (20, 20, 0)
    assert "small" in finished("list").out


@pytest.mark.parametrize("folder", ["made", "moved"])
def test_sync_writes_from_the_ledger_the_results_that_are_gone(
    folder: str, finished: CommandLine, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a folder that was moved, in which MLflow's tables name the old one."""
    place = home if folder == "made" else Path(shutil.copytree(home, tmp_path / "moved"))
    monkeypatch.chdir(place)
    (results,) = (place / ".belay-study").rglob("results.parquet")
    whole = results.read_bytes()
    results.unlink()
    missing = "the records of 'small' must have a whole results.parquet, got none; `belay-study sync small` writes"
    assert_refused(finished("best", "small"), 2, missing)
    answer = finished("sync", "small")
    assert (answer.code, answer.out, answer.err) == (0, "", "recorded 20 of 20 settings of small\n")
    assert results.read_bytes() == whole
    assert finished("best", "small").out == (home / "answer.txt").read_text()


def test_sync_writes_a_study_into_a_store_that_lacks_it(
    finished: CommandLine, home: Path, made_databases: Path
) -> None:
    other = f"sqlite:///{copy_databases(made_databases, home / 'other')}/mlflow.db"
    lacking = finished("best", "small", "--tracking", other)
    assert_refused(lacking, 2, "the study must exist", f"`belay-study sync small --tracking {other}` writes one")
    assert finished("sync", "small", "--tracking", other).code == 0
    assert finished("best", "small", "--top", 20, "--tracking", other).out == finished("best", "small", "--top", 20).out
    assert_refused(finished("sync", "smal"), 2, "the study must exist", "ledger.db", "'smal'")


def test_mlflow_s_own_search_finds_what_the_readme_says(finished: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("python search")
    for there, here in (("quickstart", "small"), ("val_accuracy", "excess_loss"), ("DESC", "ASC")):
        assert there in block
        block = block.replace(there, here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which the block sets, too
    found: dict[str, pd.DataFrame] = {}
    exec(block, found)
    mlflow.set_tracking_uri("")
    best, ringing, rows = (found[name] for name in ("best", "ringing", "rows"))
    ranked = json.loads(finished("best", "small", "--top", 999, "--format", "json").out)
    asked = [row for row in ranked if host_of(row["setting"]) is None]  # riders have no runs of their own
    assert list(best["tags.belay.setting"].astype(int)) == [row["setting"] for row in asked[:5]]
    assert set(ringing["tags.belay.regime"]) == {"underdamped"}
    assert list(ringing["metrics.average/excess_loss"].dropna()) == pytest.approx(
        [row["mean"] for row in asked if row["damping_ratio"] not in (None, "inf") and row["damping_ratio"] < 1]
    )
    searched = rows[rows["role"] == "search"]
    assert list(zip(searched["setting"], searched["seed"], strict=True)) == [(n, s) for n in range(20) for s in (0, 1)]
    assert set(rows["setting"][rows["role"] == "rider"]) == {row["setting"] for row in ranked} - {*range(20)}


def test_dry_run_says_what_would_be_run_and_leaves_nothing(belay_study: CommandLine, tmp_path: Path) -> None:
    answer = belay_study("run", write(tmp_path / "small.yaml"), "--dry-run", "--set", "seeds=3")
    assert answer.code == 0
    assert "20: 16 of the space, 4 of plain EMA, by tpe" in answer.out
    assert "60: 3 seeds of each, 60 steps" in answer.out
    assert "up to 64 trainings side by side" in answer.out
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_init_writes_a_config_that_runs_and_overwrites_nothing(belay_study: CommandLine, tmp_path: Path) -> None:
    made = belay_study("init")
    assert (made.code, made.out, made.err) == (0, "", "wrote study.yaml; belay-study run study.yaml\n")
    written = (tmp_path / "study.yaml").read_text()
    assert belay_study("run", "study.yaml", "--dry-run").code == 0
    assert_refused(belay_study("init"), 2, "the file must be new, got study.yaml")
    assert (tmp_path / "study.yaml").read_text() == written


def test_tasks_and_schema_print_data(belay_study: CommandLine) -> None:
    listed = json.loads(belay_study("tasks", "--format", "json").out)
    assert {task["name"] for task in listed} == {"digits", "quadratic"}
    assert "label_noise" in belay_study("tasks").out
    assert json.loads(belay_study("schema").out)["additionalProperties"] is False


def test_every_command_has_help(belay_study: CommandLine) -> None:
    shown = belay_study("--help").out
    for command in COMMANDS:
        assert f"  {command} " in shown
        assert "Usage" in belay_study(command, "--help").out


def assert_refused(answer: Answer, code: int, *parts: str, after: Sequence[str] = ()) -> None:
    """Nothing on stdout; on stderr the lines `after`, which tell what was begun, then one that is the error."""
    *begun, error = answer.err.splitlines()
    assert (answer.code, answer.out, begun) == (code, "", list(after)), answer
    assert error.startswith("belay-study: ")
    for part in parts:
        assert part in error


@pytest.mark.parametrize(("changes", "parts"), [
    ({"sampler": "tpe"}, ("`sampler`", "not a key")),
    ({"steps": "many"}, ("`steps`", "'many'")),
    ({"task": "digitz"}, ("`task.name` must be", "'digitz'", "belay-study tasks")),
    ({"objective": {"metric": "average/acc"}}, ("`objective.metric` must be one of", "'average/acc'")),
    ({"search": {"sampler": "best", "settings": 4}}, ("`search.sampler`", "'best'")),
    ({"space": {"decay": 1.0, "lr": 0.1}}, ("`space.decay`", "[0, 1)", "1.0")),
    ({"space": {"decay": 0.9, "damping": 2.5, "lr": 0.1}}, ("`space.damping`", "(0, 2)", "2.5")),
    ({"space": {"decay": 0.9, "mass_ratio": 1, "lr": 0.1}}, ("`space`", "decay and mass_ratio", "keep one system")),
    ({"space": {"decay": 0.9, "coupling": 1, "lr": 0.1}}, ("`space.coupling`", "below 1", "1.0")),
    ({"space": {"decay": {"choice": []}, "lr": 0.1}}, ("`space.decay", "choice")),
])  # fmt: skip
def test_a_config_that_is_wrong_is_refused_before_anything_is_started_or_made(
    belay_study: CommandLine, tmp_path: Path, changes: dict[str, object], parts: tuple[str, ...]
) -> None:
    assert_refused(belay_study("run", write(tmp_path / "bad.yaml", **changes)), 2, *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(("changes", "parts"), [
    ({"resources": {"cpus": 4096}}, ("`resources.cpus` must fit", "4096; the largest has 2")),
    ({"tracking": {"uri": "http://127.0.0.1:9"}}, ("`tracking.uri` must be", "http://127.0.0.1:9", "refused")),
])  # fmt: skip
def test_what_only_ray_and_mlflow_can_tell_is_refused_before_any_training(
    belay_study: CommandLine, databases: Path, ray_cluster: str, changes: dict[str, object], parts: tuple[str, ...]
) -> None:
    config = write(databases.parent / "bad.yaml", **changes)
    assert_refused(belay_study("run", config), 2, *parts, after=[STARTING_RAY])
    with pytest.raises(BadInput, match="the study must exist"):
        stored_config("small", f"sqlite:///{databases}/ledger.db")


def test_an_unwritable_folder_is_refused(belay_study: CommandLine, tmp_path: Path) -> None:
    (tmp_path / ".belay-study").write_text("in the way")
    refused = belay_study("run", write(tmp_path / "small.yaml"), "--inline")
    assert_refused(refused, 2, "must lie in a writable folder", ".belay-study", after=[STARTING])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RAY_TMPDIR", "{}/" + "x" * 90, "RAY_TMPDIR must be a short path, as Ray's sockets in it must have at most"),
        ("HOME", "/proc/none", "Ray must be able to write in HOME, for its token, and in RAY_TMPDIR, got [Errno 2]"),
    ],
    ids=["too long", "not writable"],
)
def test_a_local_ray_that_cannot_start_says_which_folder_to_change(
    databases: Path, variable: str, value: str, said: str
) -> None:
    write(databases.parent / "small.yaml")
    unset = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}
    with forked("run", "small.yaml", home=databases.parent, **unset | {variable: value.format(databases)}) as driver:
        ended = driver.end()
    assert (ended.code, ended.out) == (1, "")
    assert f"belay-study: {said}" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_a_ray_that_does_not_answer_is_failed_work_told_at_once(belay_study: CommandLine, databases: Path) -> None:
    """In a process of its own: in this one Ray may be running."""
    write(databases.parent / "small.yaml")
    with forked("run", "small.yaml", home=databases.parent, RAY_ADDRESS="127.0.0.1:1") as driver:
        done = driver.end()
    reason = "RAY_ADDRESS must answer, got 127.0.0.1:1: [Errno 111] Connection refused; start it or unset it."
    assert_refused(done, 1, reason, after=[STARTING_RAY])
    assert belay_study("run", "small.yaml", "--inline").code == 0


def test_what_does_not_exist_is_refused_by_name(finished: CommandLine) -> None:
    assert_refused(finished("best", "smal"), 2, "the study must exist", "'smal'", "belay-study list")
    assert_refused(finished("resume", "smal"), 2, "the study must exist", "'smal'")
    assert_refused(finished("status", "smal"), 2, "the study must exist", "'smal'")
    assert_refused(finished("run", "nowhere.yaml"), 2, "nowhere.yaml", "belay-study init")
    assert_refused(finished("sing"), 2, "sing")
    assert_refused(finished("best", "small", "--format", "xml"), 2, "xml")


def test_a_name_taken_by_another_config_is_refused(finished: CommandLine, home: Path) -> None:
    refused = finished("run", home / "small.yaml", "--set", "steps=61", "--inline")
    after = [STARTING.replace("60 steps", "61 steps")]
    assert_refused(refused, 2, "name must be new or its config the same", "'small'", "e.g. to small-2", after=after)


def test_as_a_command_ends_python_does_not_go_through_all_objects_once_more(tmp_path: Path) -> None:
    asked = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0))"  # what is first runs last
    line = [sys.executable, "-c", f"{asked}; from study.cli import main; main()", "tasks"]
    ended = subprocess.run(line, cwd=tmp_path, env=environment_with(), capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "True"


def test_before_any_study_list_and_best_say_so(belay_study: CommandLine) -> None:
    assert_refused(belay_study("list"), 2, "`--tracking` must lead to records")
    assert_refused(belay_study("best", "small"), 2, "`--tracking` must lead to records")


def test_a_train_function_of_one_s_own_is_searched_and_a_setting_that_raises_fails_alone(
    belay_study: CommandLine, tmp_path: Path, databases: Path
) -> None:
    config = write(
        tmp_path / "own.yaml",
        name="own",
        task={"name": "tasks_of_tests:breaks_above_one"},
        objective={"metric": "average/score", "mode": "max"},
        search={"sampler": "qmc", "settings": 12, "baseline": 0},
    )
    answer = belay_study("run", config, "--inline")
    assert answer.code == 0, answer.err
    (row,) = json.loads(belay_study("status", "own", "--format", "json").out)
    assert row["done"] == 12
    assert 0 < row["failed"] < 12
    listed = json.loads(belay_study("best", "own", "--failed", "--format", "json").out)
    assert len(listed) == row["failed"]
    assert all(each["lr"] > 1 and "no batch fits" in each["message"] for each in listed)
    shown = belay_study("best", "own", "--failed")
    assert (shown.code, shown.out.count("RuntimeError: no batch fits")) == (0, row["failed"])
    assert shown.out.startswith(f"setting {listed[0]['setting']}, decay ")
    client = MlflowClient(f"sqlite:///{tmp_path}/.belay-study/mlflow.db")
    experiment = client.get_experiment_by_name("own")
    assert experiment is not None
    failed = client.search_runs([experiment.experiment_id], "tags.`belay.outcome` = 'failed'")
    assert {run.info.status for run in failed} == {"FAILED"}
    assert {run.data.tags["belay.message"] for run in failed} == {"RuntimeError: no batch fits here"}


def test_a_study_of_few_settings_ends_when_all_of_them_are_tried_and_says_so(
    belay_study: CommandLine, tmp_path: Path, databases: Path
) -> None:
    space = {"decay": {"choice": [0.8, 0.9]}, "lr": 0.1}
    answer = belay_study("run", write(tmp_path / "few.yaml", steps=5, evaluations=1, space=space), "--inline")
    assert "the space holds 2 settings, fewer than the 16 of `search.settings`: each is tried once\n" in answer.err
    assert answer.out.startswith("study     small: 2 of 2 settings x 2 seeds done")


def test_a_metric_that_is_never_reported_ends_the_study_with_its_name(
    belay_study: CommandLine, tmp_path: Path, databases: Path, seldom: None
) -> None:
    config = write(
        tmp_path / "mute.yaml",
        name="mute",
        task={"name": "tasks_of_tests:says_something_else"},
        objective={"metric": "average/score", "mode": "max"},
        search={"sampler": "random", "settings": 100, "baseline": 0},
    )
    answer = belay_study("run", config, "--inline")
    reason = "objective.metric must be reported, got average/loss: no 'average/score'"
    started = "mute: 100 settings x 2 seeds of 60 steps; starting MLflow"
    assert_refused(answer, 1, "every setting failed", reason, after=[started])
    (row,) = json.loads(belay_study("status", "mute", "--format", "json").out)
    assert 8 <= row["done"] < 100  # given up early
    assert belay_study("sync", "mute").err == f"recorded {row['done']} of 100 settings of mute\n"
    (listed,) = json.loads(belay_study("list", "--format", "json").out)
    assert (listed["done"], listed["status"]) == (row["done"], "stopped")


@pytest.mark.parametrize(("task", "objective", "retries"), [
    pytest.param(
        "tasks_of_tests:dies_above_one", {"metric": "average/score", "mode": "max"}, tune.RETRIES,
        marks=pytest.mark.faults,  # more deaths of the same kind
    ),
    pytest.param(
        "execute.train.stackable_tasks:Deadly", {"metric": "average/val_loss"}, 0,  # its packs are split at once
        marks=pytest.mark.slow,
    ),
], ids=["alone", "side-by-side"])  # fmt: skip
@pytest.mark.usefixtures("databases", "ray_cluster")
def test_a_worker_that_dies_fails_its_setting_and_not_the_study(
    belay_study: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    task: str, objective: dict[str, str], retries: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(tune, "RETRIES", retries)
    space = small()["space"] | {"lr": {"choice": [0.2, 1.5, 0.1]}, "decay": 0.9, "damping": 0.5, "coupling": 0.1}
    config = write(
        tmp_path / "dying.yaml",
        name="dying",
        task={"name": task},
        objective=objective,
        space={name: {"choice": [value]} if isinstance(value, float) else value for name, value in space.items()},
        search={"sampler": "grid", "baseline": 0},
    )
    (tmp_path / "optuna.py").write_text("raise ImportError('the wrong Optuna')")
    refused = belay_study("run", config)
    assert refused.code == 2
    assert f"a file must not be named like a module that the study imports, got {tmp_path}/optuna.py and" in refused.err
    (tmp_path / "optuna.py").unlink()
    answer = belay_study("run", config)
    assert answer.code == 0, answer.err
    assert "3 of 3 settings x 2 seeds done, 1 failed" in answer.out
