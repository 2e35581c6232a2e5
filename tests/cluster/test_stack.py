"""The services of docker-compose.yml together: they come up, run a study, and give it back from a backup."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from quickstart import READ, SETTINGS, Inline, Studied, findings, readme
from stack import PATIENCE, Stack, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(1800)]


def test_a_study_ends_with_its_answer_although_a_worker_is_killed_in_the_middle(
    cluster: Stack, studied: Studied
) -> None:
    assert 2 <= studied.done_before < SETTINGS
    assert studied.client.returncode == 0, studied.client.stderr
    assert f"quickstart: {SETTINGS} of {SETTINGS} settings x 2 seeds done" in studied.client.stdout
    wait_until(lambda: states(cluster) == ["ALIVE", "ALIVE", "DEAD"], lambda: states(cluster))


def states(cluster: Stack) -> list[str]:
    """Of Ray's nodes."""
    request = urllib.request.Request(f"http://{cluster.address('ray-head')}:8265/nodes?view=summary")
    request.add_header("Authorization", f"Bearer {cluster.secret('ray_token')}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return sorted(node["raylet"]["state"] for node in json.load(answer)["data"]["summary"])


def test_postgresql_and_mlflow_hold_the_table_of_an_undisturbed_run_without_a_cluster(
    inline: Inline, on_record: dict[str, Any]
) -> None:
    assert inline.process.wait(PATIENCE) == 0, (inline.folder / "log").read_text()
    read = inline.call("-c", READ)
    assert read.returncode == 0, read.stderr
    expected = json.loads(read.stdout.splitlines()[-1])
    assert {str(number) for number in range(SETTINGS)} < set(expected["table"]["setting"])  # riders beside them
    assert len(expected["ledger"]) == SETTINGS
    assert on_record == expected


def test_the_client_is_given_the_answer_of_an_undisturbed_run(inline: Inline, studied: Studied) -> None:
    assert inline.process.wait(PATIENCE) == 0
    expected = findings((inline.folder / "answer").read_text())
    assert len(expected) >= 8
    assert findings(studied.client.stdout) == expected


def test_what_the_readme_backs_up_is_restored_on_a_fresh_machine_with_the_same_answer(
    cluster: Stack, inline: Inline, studied: Studied, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    in_shell(readme("bash backup"), tmp_path, cluster, "postgres", "mlflow")
    wait, databases, artifacts = readme("bash restore")
    assert wait == "docker compose up -d --wait postgres"
    fresh = Stack(tmp_path_factory.mktemp("fresh"), BELAY_MLFLOW_WORKERS="1", BELAY_MLFLOW_HOSTS="*")
    try:
        fresh.start("postgres")
        fresh.wait("postgres")
        in_shell([databases], tmp_path, fresh, "postgres")
        fresh.start("mlflow")
        fresh.wait("mlflow")
        in_shell([artifacts], tmp_path, fresh, "mlflow")
        login = {"MLFLOW_TRACKING_USERNAME": "belay", "belay_password": fresh.secret("belay_pgpass")}
        login["MLFLOW_TRACKING_PASSWORD"] = cluster.secret("mlflow_user_password")
        there = Inline(tmp_path, inline.environment | login, inline.process)
        best = there.call("-m", "study", "best", "quickstart", f"--tracking=http://{fresh.address('mlflow')}:5000")
        assert best.returncode == 0, best.stderr
        assert findings(best.stdout) == findings(studied.client.stdout)
        storage = f"postgresql+psycopg://belay:${{belay_password}}@{fresh.address('postgres')}:5432/ledger"
        status = there.call("-m", "study", "status", "quickstart", "--format=json", f"--storage={storage}")
        assert status.returncode == 0, status.stderr
        assert [(row["done"], row["planned"]) for row in json.loads(status.stdout)] == [(SETTINGS, SETTINGS)]
    finally:
        fresh.down()


DOCKER = """#!/bin/sh
case "$*" in
"compose exec -T "*) shift 3 ;;
"compose run --rm -T --no-deps "*) shift 5 ;;
*) exit 64 ;;
esac
name=$1
shift
case "$name" in
{cases}
*) exit 64 ;;
esac
"""


def in_shell(lines: list[str], folder: Path, stack: Stack, *services: str) -> None:
    """Runs lines of the cluster's README with a `docker` of its own.

    Of that, ``docker compose exec -T SERVICE`` enters the service, and so does ``docker compose run --rm -T --no-deps
    SERVICE``, whose new container would have the same volumes.
    """
    cases = [f'{name}) exec {shlex.join(stack.inside(name))} "$@" ;;' for name in services]
    docker = folder / "bin/docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(DOCKER.format(cases="\n".join(cases)))
    docker.chmod(0o755)
    environment = os.environ | {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")


KILLED = """
import os, signal, sys
from pathlib import Path
from stack import Stack
stack = Stack(Path(sys.argv[1]))
stack.start("postgres")
stack.wait("postgres")
print(stack._cable, *(host.pid for host in stack._hosts.values()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("able")
def test_nothing_is_left_of_the_services_of_a_process_that_was_killed(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    line = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    cable, *pids = killed.stdout.split()
    assert len(pids) == 2
    left = [Path("/sys/class/net", cable), *(Path("/proc", pid) for pid in pids)]
    wait_until(lambda: not any(path.exists() for path in left), lambda: left)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


@pytest.mark.usefixtures("able")
def test_nothing_is_left_of_the_services_after_a_test_that_failed(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    cable = Path("/sys/class/net", stack._cable)
    assert cable.exists()
    try:
        stack.start("mlflow", "false")
        with pytest.raises(AssertionError, match="must become healthy; its log ends"):
            stack.wait("mlflow")
    finally:
        stack.down()
    wait_until(lambda: not cable.exists(), lambda: cable)
