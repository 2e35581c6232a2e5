"""Where packs are trained: in this process or on Ray, and what either leaves as it found it."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from processes import forked, without_ray
from studies import CommandLine, environment_with, small, write

from study.design.config import parse_config
from study.design.places import Connections
from study.design.schema import Outcome, host_of
from study.design.study import Study
from study.errors import BadInput, FailedWork
from study.execute import cluster, inline
from study.execute.packs import BackEnd, Packs, Progress
from study.execute.sweep import run
from study.findings.collect import load
from study.findings.compare import ranking

STUDY = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path: Path, databases: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The small study, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Study.of(parse_config(small(search={"sampler": "random", "settings": 4, "baseline": 0})))


def done(study: Study, back_end: BackEnd) -> Progress:
    """Runs the study in its working directory."""
    return run(study, Connections.of(), back_end, watch=lambda progress: None, say=lambda line: None)


@pytest.mark.usefixtures("databases")
def test_inline_imports_no_ray(tmp_path: Path) -> None:
    write(tmp_path / "small.yaml", search={"sampler": "tpe", "settings": 2, "baseline": 1})
    with forked("run", "small.yaml", "--inline", home=tmp_path, first=without_ray) as process:
        ended = process.end()
    assert ended.code == 0, ended.err


def test_debug_shows_what_the_first_seed_of_the_first_setting_measured_and_keeps_nothing(
    belay_study: CommandLine, tmp_path: Path
) -> None:
    answer = belay_study("run", write(tmp_path / "small.yaml"), "--debug")
    assert (answer.code, answer.err) == (0, "")
    assert [line.split("  ")[0] for line in answer.out.splitlines()] == [
        "setting",
        "seed",
        "step 30",
        "step 60",
        "state",
    ]
    assert "average/excess_loss" in answer.out
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_debug_lets_the_task_s_exception_through(tmp_path: Path) -> None:
    write(
        tmp_path / "own.yaml",
        task={"name": "tasks_of_tests:breaks_above_one"},
        objective={"metric": "average/score", "mode": "max"},
        space={"decay": 0.9, "lr": 2.0},
    )
    command = [sys.executable, "-m", "study", "run", "own.yaml", "--debug"]
    environment = environment_with()
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1
    assert 'raise RuntimeError("no batch fits' in ended.stderr
    assert ended.stderr.endswith("RuntimeError: no batch fits\nhere\n")


def test_debug_fails_where_the_objective_is_never_reported(belay_study: CommandLine, tmp_path: Path) -> None:
    config = write(
        tmp_path / "mute.yaml",
        task={"name": "tasks_of_tests:says_something_else"},
        objective={"metric": "average/score", "mode": "max"},
    )
    answer = belay_study("run", config, "--debug")
    assert answer.code == 1
    assert "failed: objective.metric must be reported, got average/loss" in answer.out


def test_inline_trains_with_the_threads_of_a_worker_and_gives_them_back(study: Study) -> None:
    config = study.config.model_copy(update={"resources": study.config.resources.model_copy(update={"cpus": 1.5})})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with inline.back_end(config):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("back_end", [inline.back_end, cluster.back_end], ids=["inline", "ray"])
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_inside_another_program_leaves_its_signals_and_environment_alone(study: Study, back_end: BackEnd) -> None:
    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    environment = without_torch_s_own(os.environ)
    try:
        assert done(study, back_end).done == 4
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert without_torch_s_own(os.environ) == environment


def test_a_program_that_runs_a_study_has_its_garbage_collected_as_before() -> None:
    """What a driver imports, in a process that has imported none of it; workers collect less often."""
    asking = (
        "import gc; before = gc.get_threshold(); import study.execute.cluster, study.execute.tune, study.notebook; "
    )
    found = subprocess.run(
        [sys.executable, "-c", asking + "print(gc.get_threshold() == before)"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert found.stdout == "True\n"


def without_torch_s_own(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what torch sets as it compiles."""
    return {name: value for name, value in environment.items() if not name.startswith("TORCH")}


def test_the_command_line_gives_sigterm_back(belay_study: CommandLine, tmp_path: Path, databases: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert belay_study("run", write(tmp_path / "small.yaml"), "--inline").code == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("ray_cluster")
def test_what_fails_while_ray_asks_is_what_the_user_reads(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise FailedWork("`storage.url` must take what is asked, got no space; mend it.")

    monkeypatch.setattr(Packs, "finish", full)
    with pytest.raises(FailedWork, match=r"^`storage.url` must take what is asked, got no space; mend it\.$"):
        done(study, cluster.back_end)


@pytest.mark.usefixtures("ray_cluster")
def test_a_storage_that_fails_once_on_ray_ends_the_study_and_has_nothing_trained_twice(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, given = Packs.finish, []

    def fail_once(packs: Packs, outcomes: Sequence[Outcome]) -> None:
        given.append([outcome.setting for outcome in outcomes])
        if len(given) == 1:
            raise FailedWork("`storage.url` must take what is told, got a lock; mend it.")
        real(packs, outcomes)

    monkeypatch.setattr(Packs, "finish", fail_once)
    with pytest.raises(FailedWork, match=r"^`storage.url` must take what is told, got a lock; mend it\.$"):
        done(study, cluster.back_end)
    settings = list(itertools.chain(*given))
    assert len(settings) == len(set(settings))


@pytest.mark.usefixtures("databases")
def test_packs_that_are_not_trained_as_planned_are_told_of_once_as_they_come_and_counted_at_the_end(
    belay_study: CommandLine, tmp_path: Path
) -> None:
    config = write(
        tmp_path / "small.yaml",
        task={"name": "execute.train.stackable_tasks:Large"},
        objective={"metric": "average/val_loss"},
        space={"decay": 0.9, "damping": 0.5, "coupling": 0.1, "lr": {"choice": [0.05, 0.1, 0.2]}},
        search={"sampler": "grid", "baseline": 0},
    )
    answer = belay_study("run", config, "--inline")
    assert answer.code == 0, answer.err
    what, why = "runs do not fit into memory side by side", "of 6 OutOfMemoryError: Tried to allocate 12 GiB"
    said = [line for line in answer.err.splitlines() if line.startswith(what)]
    assert len(said) == 2
    assert re.fullmatch(rf"{what}: {why}, .* free; first of setting 0, see `belay-study logs small 0`", said[0])
    assert said[1] == f"{what}: 3 settings in all"
    assert f"[{what}: {why}" in belay_study("logs", "small", 2).out


@pytest.mark.usefixtures("databases", "ray_cluster")
def test_a_worker_that_has_to_wait_for_another_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = Study.of(parse_config(small(
        task={"name": "tasks_of_tests:begins_two_by_two", "folder": str(tmp_path)},
        objective={"metric": "average/score", "mode": "max"},
        seeds=1,
        search={"sampler": "tpe", "settings": 4, "baseline": 0, "in_flight": 2},  # 2 is asked when 0 is told, 3 when 1
    )))  # fmt: skip

    def watch(progress: Progress) -> None:
        if progress.done == 1:
            (tmp_path / "told").touch()

    run(study, Connections.of(), cluster.back_end, watch, say=lambda line: None)
    workers = [(tmp_path / f"begun-{number}").read_text() for number in range(4)]
    assert len({*workers[:2]}) == 2
    assert {*workers[2:]} == {*workers[:2]}


@pytest.mark.parametrize("back_end", ["inline", pytest.param("ray", marks=pytest.mark.xdist_group("ray"))])
@pytest.mark.usefixtures("databases")
def test_a_task_that_prints_or_ends_its_program_disturbs_neither_the_answer_nor_the_study(
    back_end: str, belay_study: CommandLine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if back_end == "ray":
        request.getfixturevalue("ray_cluster")
    config = write(
        tmp_path / "small.yaml",
        task={"name": "tasks_of_tests:exits_above_one"},
        objective={"metric": "average/score", "mode": "max"},
        space={"decay": 0.9, "lr": {"choice": [0.2, 0.5, 1.5]}},
        search={"sampler": "grid", "baseline": 0},
    )
    answer = belay_study("run", config, *(["--inline"] if back_end == "inline" else []))
    assert answer.code == 0, answer.err
    assert answer.out.startswith("study     small: 3 of 3 settings x 2 seeds done, 1 failed\n")
    assert "hello" not in answer.out + answer.err
    settings = load("small", Connections.of().tracking).settings
    assert sorted(settings["message"]) == ["", "", "SystemExit: no such data"]
    for number, lr in settings["lr"].items():
        printed = belay_study("logs", "small", number)
        assert (printed.code, printed.err) == (0, "")
        said = [line for line in printed.out.splitlines() if line.startswith(("---", "hello"))]
        assert said == ["--- seeds 0, 1", *(f"hello from lr {lr} and seed {seed}" for seed in (0, 1))]


@pytest.mark.parametrize("back_end", [
    pytest.param("inline", marks=pytest.mark.slow),
    pytest.param("ray", marks=[pytest.mark.faults, pytest.mark.xdist_group("ray")]),
])  # fmt: skip
@pytest.mark.usefixtures("databases")
def test_a_setting_that_hangs_or_kills_its_process_fails_and_the_study_goes_on(
    back_end: str, belay_study: CommandLine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if back_end == "ray":
        request.getfixturevalue("ray_cluster")
    config = write(
        tmp_path / "small.yaml",
        task={"name": "tasks_of_tests:hangs_above_one", "folder": str(tmp_path)},
        objective={"metric": "average/score", "mode": "max"},
        space={"decay": 0.9, "lr": {"choice": [0.2, 1.5, 2.5, 0.5]}},
        search={"sampler": "grid", "baseline": 0},
        limits={"setting_seconds": 20},  # from where a setting begins to train; the others take a moment, and a pause
    )
    answer = belay_study("run", config, *(["--inline"] if back_end == "inline" else []))
    assert answer.code == 0, answer.err
    assert answer.out.startswith("study     small: 4 of 4 settings x 2 seeds done, 2 failed\n")
    settings = load("small", Connections.of().tracking).settings
    messages = dict(zip(settings["lr"], settings["message"], strict=True))
    (hung,) = settings.index[settings["lr"] == 1.5]
    assert belay_study("logs", "small", hung).out == "--- seeds 0, 1\nhello from the task\n"
    assert messages[2.5] == "the process that trained it ended with exit code -9."
    assert re.fullmatch(
        r"a setting must train within `limits.setting_seconds`, got no end after 20 s in .*wait < "
        r"tasks_of_tests.py:\d+ hangs_above_one < plain.py:\d+ train; mend the task or give it more time.",
        messages[1.5],
    )
    (started,) = tmp_path.glob("started-*")
    program = int(started.name.removeprefix("started-"))
    while is_running(program):  # it was killed; whoever takes up its processes does so in a moment
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("ray_cluster")
def test_a_pack_that_fits_on_no_node_is_refused_before_anything_is_written(study: Study) -> None:
    config = study.config.model_copy(update={"resources": study.config.resources.model_copy(update={"gpus": 7.0})})
    with pytest.raises(
        BadInput, match=r"`resources.gpus` must fit on a node of the cluster, got 7; the largest has 0\."
    ):
        done(Study.of(config), cluster.back_end)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("cpus", "workers"), [(0.5, 4), (0.75, 2), (1, 2), (2, 1)])
def test_so_many_packs_train_at_once_as_the_nodes_hold(study: Study, cpus: float, workers: int) -> None:
    resources = study.config.resources.model_copy(update={"cpus": cpus})
    with cluster.back_end(study.config.model_copy(update={"resources": resources})) as trainer:
        assert trainer.workers == workers
    with inline.back_end(study.config) as trainer:
        assert trainer.workers == 1


def test_the_best_so_far_may_be_a_rider(study: Study) -> None:
    """What ranks first in the answer is shown as the best on the way to it."""
    study = Study.of(parse_config(small(search={"sampler": "random", "settings": 2, "baseline": 4})))
    progress = done(study, inline.back_end)
    ranked = ranking(load(study.config.name, Connections.of().tracking))
    assert progress.best is not None
    setting, value = progress.best
    assert (setting.number, value) == (ranked.index[0], ranked["mean"].iloc[0])
    assert host_of(setting.number) is not None
