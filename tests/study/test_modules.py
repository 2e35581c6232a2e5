"""A user's file named like a package, in the folder in which ``python -m`` is called."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from studies import environment_with, write

from study.remote.order import Order, python_version

LATER = ("mlflow", "numpy", "optuna", "pandas", "ray", "sqlalchemy", "torch")  # what a command imports as it needs it
FIRST = ("json", "pydantic", "typer", "yaml")  # what the command line imports before


@pytest.fixture
def folder(databases: Path) -> Path:
    """A working directory with files named like packages, and a task."""
    here = databases.parent
    name_like(here, LATER)
    (here / "beside.py").write_text("def train(setting, seed, report): report(60, {'average/score': setting['lr']})\n")
    return here


def name_like(folder: Path, packages: Sequence[str]) -> None:
    for name in packages:
        (folder / f"{name}.py").write_text(f"raise ImportError('the wrong {name}')")


def called(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in environment_with().items() if key != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", *line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_files_named_like_packages_do_not_hide_them_from_python_m_and_a_task_beside_them_is_found(folder: Path) -> None:
    name_like(folder, FIRST)
    config = write(
        folder / "small.yaml",
        task={"name": "beside:train"},
        objective={"metric": "average/score", "mode": "max"},
        search={"settings": 2, "baseline": 0},
    )
    ended = called(folder, "study", "run", config.name, "--inline")
    assert ended.returncode == 0, ended.stderr
    assert "2 of 2 settings x 2 seeds done" in ended.stdout


def test_files_named_like_packages_do_not_hide_them_from_a_job(folder: Path) -> None:
    order = Order(("list", "--format", "json"), (), "http://head:8265", python_version())
    ended = called(folder, "study.remote.job", json.dumps(asdict(order)))
    assert ended.returncode == 0, ended.stderr
