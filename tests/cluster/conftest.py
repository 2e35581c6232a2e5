"""The services of docker-compose.yml for the tests of this folder, and a study on them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from compose import ROOT
from quickstart import READ, SMALLER, WRONG, Inline, Studied, readme
from stack import Stack, obstacle, wait_until

VARIABLES = {"BELAY_WORKER_CPUS": "1", "BELAY_MLFLOW_WORKERS": "1"}  # for a machine of two cores


@pytest.fixture(scope="session")
def able() -> None:
    """Skips where the services cannot be run, or fails if BELAY_REQUIRE_CLUSTER is set."""
    if reason := obstacle():
        message = f"the services need a machine that can run them, got {reason}"
        if os.environ.get("BELAY_REQUIRE_CLUSTER"):
            pytest.fail(f"{message}; BELAY_REQUIRE_CLUSTER is set.")
        pytest.skip(message)


@pytest.fixture(scope="session")
def inline(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inline]:
    """Begins to train it; the services start meanwhile."""
    folder = tmp_path_factory.mktemp("inline")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BELAY_", "MLFLOW_", "RAY_"))}
    environment = kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    config = ROOT / "configs/quickstart.yaml"
    line = [sys.executable, "-m", "study", "run", str(config), "--inline", *(f"--set={part}" for part in SMALLER)]
    with (folder / "answer").open("w") as out, (folder / "log").open("w") as log:
        process = subprocess.Popen(line, cwd=folder, env=environment, text=True, stdout=out, stderr=log)
    yield Inline(folder, environment, process)
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def cluster(inline: Inline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services with two workers, healthy."""
    stack = Stack(tmp_path_factory.mktemp("cluster"), **VARIABLES)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def done(cluster: Stack) -> int:
    """How many settings PostgreSQL has results of."""
    query = "select count(distinct setting) from belay_results"
    asked = cluster.execute("postgres", "psql", "-U", "postgres", "-d", "ledger", "-At", "-c", query)
    return int(asked.stdout) if asked.returncode == 0 else 0  # no table is made yet


@pytest.fixture(scope="session")
def strangers(cluster: Stack) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes on a worker that ask to be let in by Ray's own protocol, which takes its time to refuse."""
    code = 'import ray; ray.init("ray-head:6379", log_to_driver=False); print("in", len(ray.nodes()))'
    nothing = ["-u", "RAY_AUTH_TOKEN_PATH"]
    shown = {"no token": [*nothing, "RAY_AUTH_MODE=disabled"], "a wrong one": [*nothing, f"RAY_AUTH_TOKEN={WRONG}"]}
    line = [*cluster.inside("ray-worker-1"), "timeout", "500", "env"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    asked = {
        name: subprocess.Popen([*line, *token, "python", "-c", code], **pipes)  # type: ignore[call-overload]
        for name, token in (shown | {"the token": []}).items()
    }
    yield asked
    for process in asked.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def studied(cluster: Stack, strangers: object) -> Studied:
    """The third command of the cluster's README, the study smaller; one of the two workers is killed in the middle."""
    program = "docker compose run --rm study "
    (line,) = [line for line in readme("bash cluster") if line.startswith(program)]
    name, host = cluster.begin(*shlex.split(line.removeprefix(program)), *(f"--set={part}" for part in SMALLER))
    wait_until(
        lambda: done(cluster) >= 2 or host.process.poll() is not None,
        lambda: cluster.log(f"{name}.err"),
    )
    before = done(cluster)
    cluster.kill("ray-worker-2")
    return Studied(cluster.finish(name), before)


@pytest.fixture(scope="session")
def on_record(cluster: Stack, studied: Studied) -> dict[str, Any]:
    """What PostgreSQL and MLflow have of it."""
    read = cluster.execute("ray-head", "belay-entrypoint", "python", "-c", READ)
    assert read.returncode == 0, read.stderr
    return dict(json.loads(read.stdout.splitlines()[-1]))
