"""A Ray cluster for tests: a head of its own processes, with a token, and clients that are no part of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from studies import postgresql_databases

ROOT = Path(__file__).parents[3]
TOKEN = "t0ken" * 8
Ended = subprocess.CompletedProcess[str]


@dataclass
class Cluster:
    """A cluster whose studies are kept in PostgreSQL."""

    folder: Path
    address: str
    tracking: str

    def client(self, *command: object, home: Path, **more: str) -> tuple[list[str], dict[str, Any]]:
        """The command line and the keywords for a client's process."""
        line = [sys.executable, "-m", "study", *map(str, command), "--address", self.address]
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        environment = clean(HOME=str(self.folder), PYTHONPATH=str(ROOT)) | token | more
        return line, {"cwd": home, "env": environment, "stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}

    def run(self, *command: object, home: Path, **more: str) -> Ended:
        """Calls belay-study as a client does, to its end."""
        line, how = self.client(*command, home=home, **more)
        return subprocess.run(line, **how, text=True, timeout=300)

    def ask(self, path: str) -> Any:
        """What the dashboard's HTTP interface says."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def jobs(self, study: str) -> list[dict[str, Any]]:
        """The jobs of a study."""
        return [job for job in self.ask("/api/jobs/") if (job["submission_id"] or "").startswith(f"belay-{study}-")]


def clean(**more: str) -> dict[str, str]:
    """This environment without what names a cluster or a place for studies."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BELAY_", "MLFLOW_", "RAY_"))}
    return kept | more


@contextmanager
def with_cluster(folder: Path) -> Iterator[Cluster]:
    """A head node with two CPUs and token authentication, as processes of their own."""
    (folder / "token").write_text(TOKEN)
    temporary = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: there are sockets in it
    gcs, dashboard, agent, client = _free_ports(4)
    with postgresql_databases() as make:
        storage, tracking = (make().replace("postgresql:", "postgresql+psycopg:") for _ in range(2))
        environment = clean(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN_PATH=str(folder / "token"),
            RAY_USAGE_STATS_ENABLED="0",
            BELAY_STORAGE_URL=storage,
            MLFLOW_TRACKING_URI=tracking,
            BELAY_ADDRESS="http://127.0.0.1:9",  # a job must not send itself away
        )
        line = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
            *("--num-cpus=2", "--include-dashboard=true", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"),
            *(f"--temp-dir={temporary}", f"--port={gcs}", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        ]
        found = Cluster(folder, f"http://127.0.0.1:{dashboard}", tracking)
        with (
            (folder / "ray.log").open("w") as log,
            subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True) as head,
        ):
            try:
                wait_until(lambda: _answers(found), 300, lambda: (folder / "ray.log").read_text())
                yield found
            finally:
                head.terminate()
                with suppress(subprocess.TimeoutExpired):
                    head.wait(60)
                with suppress(ProcessLookupError):
                    os.killpg(head.pid, signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)


def wait_until(true: Callable[[], bool], seconds: float, say: Callable[[], object] = lambda: "") -> None:
    """Waits for a condition."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise TimeoutError(say())
        time.sleep(0.1)


def assert_refused(ended: Ended, code: int, *parts: str) -> None:
    """One line on stderr, nothing on stdout, no traceback."""
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (code, "", 1), ended
    for part in parts:
        assert part in ended.stderr


def _answers(cluster: Cluster) -> bool:
    try:
        return isinstance(cluster.ask("/api/jobs/"), list)
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
