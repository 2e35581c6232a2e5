"""A Ray that goes away in mid-study."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest
import ray
from ray._private.utils import check_version_info
from studies import CommandLine, environment_with, started, write

from study.execute import connection

RAY = """
import sys
from studies import start_ray
print(start_ray(), flush=True)
sys.stdin.read()
"""


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and those that they started."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from descendants(child)


@pytest.mark.faults
def test_a_ray_that_goes_away_ends_the_study_with_one_line_and_resume_goes_on(
    belay_study: CommandLine, databases: Path
) -> None:
    home = databases.parent
    task = {"name": "tasks_of_tests:waits_at_a_gate", "gate": str(home)}
    write(home / "small.yaml", task=task, objective={"metric": "average/score", "mode": "max"})
    environment = environment_with(RAY_AUTH_MODE="disabled")  # the study's process does not know this Ray's token
    environment.pop("RAY_ADDRESS", None)
    with started([sys.executable, "-c", RAY], env=environment, stdin=PIPE, stdout=PIPE) as ray:
        assert ray.stdout is not None
        address = ray.stdout.readline().strip()
        assert address
        line = [sys.executable, "-m", "study", "run", "small.yaml"]
        there = environment | {"RAY_ADDRESS": address}
        with started(line, cwd=home, env=there, stdout=PIPE, stderr=PIPE) as study:
            while len(list(home.glob("waiting-*"))) < 2:
                assert study.poll() is None, study.communicate()
                time.sleep(0.05)
            for pid in [ray.pid, *descendants(ray.pid)]:
                with suppress(ProcessLookupError):  # once one is killed others may end by themselves
                    os.kill(pid, signal.SIGKILL)
            out, err = study.communicate(timeout=600)
    assert (study.returncode, out) == (1, ""), err
    assert err.splitlines()[-1] == (
        "belay-study: this process was killed or lost its Ray; `belay-study resume small` goes on."
    )
    assert "Traceback" not in err
    (home / "open").touch()
    resumed = belay_study("resume", "small", "--inline")
    assert resumed.code == 0, resumed.err
    assert "small: 20 of 20 settings x 2 seeds done" in resumed.out


ONLY_HERE = """
import os
from tasks_of_tests import parabola as train
if "BELAY_TEST_DRIVER" not in os.environ:
    raise ImportError("no images here")
"""


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_lack_the_task_end_the_study_with_one_line_and_nothing_is_recorded_as_failed(
    belay_study: CommandLine, databases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = databases.parent
    (home / "only_here.py").write_text(ONLY_HERE)
    monkeypatch.syspath_prepend(home)
    monkeypatch.setenv("BELAY_TEST_DRIVER", "1")  # Ray's workers, whose Ray runs already, do not have it
    write(home / "small.yaml", task="only_here:train", objective={"metric": "average/score", "mode": "max"})
    ended = belay_study("run", "small.yaml")
    assert (ended.code, ended.out) == (1, ""), ended.err
    line = ended.err.splitlines()[-1]
    assert line.startswith(
        "belay-study: the workers must be able to import the task, got `task.name` must be importable"
    )
    assert line.endswith("ImportError: no images here; mend it; install it on every node, and `belay-study resume "
                         "small` goes on.")  # fmt: skip
    counted = belay_study("status", "small", "--format", "json")
    assert '"done": 0' in counted.out
    assert '"failed": 0' in counted.out


def test_a_cluster_of_another_ray_or_python_is_refused_with_both_versions() -> None:
    there = {"ray_version": "2.9.3", "python_version": "3.10.1"}
    with pytest.raises(RuntimeError) as mismatch:
        check_version_info(there, "127.0.0.1")
    here = platform.python_version()
    assert connection._why_not("head:6379", mismatch.value) == (
        f"RAY_ADDRESS must have this machine's Ray {ray.__version__} and Python {here}, got Ray 2.9.3 and Python "
        "3.10.1 at head:6379; install the same on both."
    )
