"""A Ray that goes away in mid-study."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE

import pytest
from studies import CommandLine, environment_with, started, write

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


@pytest.mark.slow
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
