"""`belay-study init --task`: a task and a study of it that run, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from studies import CommandLine, environment_with


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_init_writes_a_task_and_a_study_of_it_whose_average_is_better_than_the_model(
    belay_study: CommandLine, databases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = belay_study("init", "--task", "task_begun.py")
    said = "wrote task_begun.py and study.yaml; belay-study run study.yaml\n"
    assert (made.code, made.out, made.err) == (0, "", said)
    one_each = ("search.settings=1", "search.baseline=1", "space.memory=0.1", "space.damping_ratio=2")
    fixed = (*one_each, "search.riders=none", "space.mass_ratio=0", "space.lr=0.02", "seeds=8", "confirm=null")
    answer = belay_study("run", "study.yaml", "--inline", *(part for one in fixed for part in ("--set", one)))
    assert answer.code == 0, answer.err
    assert "task_begun: 2 of 2 settings x 8 seeds done" in answer.out
    found = json.loads(belay_study("best", "task_begun", "--format", "json").out)
    assert (found["metric"], found["mode"]) == ("average/val_loss", "min")
    assert found["versus"]["none"]["difference"]["low"] > 0  # of the interval of the difference in favour of the best


def test_a_study_that_init_wrote_elsewhere_is_checked_from_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    home = tmp_path / "a 'b' #1 %4 ü:x"
    (home / "my studies").mkdir(parents=True)
    program, environment = [sys.executable, "-m", "study"], environment_with(PYTHONIOENCODING="utf-8")

    def call(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *line], cwd=home, env=environment, capture_output=True, text=True)

    made = call("init", "my studies/first.yaml", "--task", "my_task.py")
    assert made.stderr.endswith("; belay-study run 'my studies/first.yaml'\n")
    checked = call("run", "my studies/first.yaml", "--dry-run")
    assert checked.returncode == 0, checked.stderr
    assert "my_task:MyTask, average/val_loss" in checked.stdout


@pytest.mark.parametrize(
    "name", ["begun", "begun.txt", "no/begun.py", "my-task.py", "class.py", "1a.py", "_a.py", "ä.py", ".py", ""]
)
def test_init_refuses_a_task_that_no_study_could_name(belay_study: CommandLine, tmp_path: Path, name: str) -> None:
    answer = belay_study("init", "--task", name)
    said = (
        "belay-study: `--task` must be NAME.py in the working directory, of letters, digits and `_`, a letter first, "
    )
    assert answer.err == f"{said}and no keyword of Python, got {name or '.'}; write e.g. my_task.py.\n"
    assert (answer.code, answer.out, listing(tmp_path)) == (2, "", [])


@pytest.mark.parametrize("name", ["torch", "optuna", "study", "belay", "json", "sys", "own_folder"])
def test_init_refuses_a_task_with_the_name_of_another_module(
    belay_study: CommandLine, tmp_path: Path, name: str
) -> None:
    (tmp_path / "own_folder").mkdir()
    answer = belay_study("init", "--task", f"{name}.py")
    said = "belay-study: `--task` must not have the name of a module or folder that Python may find instead"
    assert answer.err == f"{said}, got {name}.py; name another, e.g. my_{name}.py.\n"
    assert (answer.code, answer.out, listing(tmp_path)) == (2, "", ["own_folder"])


def test_init_keeps_a_task_that_exists(
    belay_study: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m study` has it: the task can be imported, but is not another
    (tmp_path / "begun.py").write_text("mine")
    answer = belay_study("init", "--task", "begun.py")
    assert answer.err == "belay-study: the file must be new, got begun.py, which exists; name another.\n"
    assert (answer.code, listing(tmp_path), (tmp_path / "begun.py").read_text()) == (2, ["begun.py"], "mine")


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ("old.yaml", "the file must be new, got old.yaml, which exists"),
        ("no/study.yaml", "the file must be writable, got no/study.yaml: No such file or directory"),
        ("old.yaml/study.yaml", "the file must be writable, got old.yaml/study.yaml: Not a directory"),
        ("./begun.py", "the study must be another file than its task, got begun.py twice"),
    ],
)
def test_init_leaves_no_task_without_its_study(
    belay_study: CommandLine, tmp_path: Path, config: str, rule: str
) -> None:
    (tmp_path / "old.yaml").touch()
    answer = belay_study("init", config, "--task", "begun.py")
    assert (answer.code, answer.err) == (2, f"belay-study: {rule}; name another.\n")
    assert (listing(tmp_path), (tmp_path / "old.yaml").read_text()) == (["old.yaml"], "")


def test_init_says_why_a_folder_takes_no_files_and_writes_neither(
    belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc/self")  # which takes no files, whoever asks
    answer = belay_study("init", "--task", "begun.py")
    said = "the file must be writable, got begun.py: No such file or directory; name another."
    assert (answer.code, answer.err) == (2, f"belay-study: {said}\n")
