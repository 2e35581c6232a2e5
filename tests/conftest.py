"""What all tests share: one Ray and two empty databases for the session, and the command line as its user calls it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from studies import Answer, CommandLine, copy_databases, postgresql_databases, start_ray

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # as for a study: no trial would use these workers
os.environ.setdefault("RAY_worker_niceness", "0")  # else workers would get a thirtieth of a core that other tests want
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
for name in ("rpc_server_connect_timeout_s", "rpc_server_reconnect_timeout_s", "server_request_timeout_seconds"):
    os.environ.setdefault(
        f"RAY_gcs_{name}", "60"
    )  # a cluster that answers late is good; a knock would wait for seconds
os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "60")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps all tests on Ray in one worker of pytest-xdist, so that there is one Ray."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if "ray_cluster" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's folder, the same for all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own  # each worker's own lies in the session's


@pytest.fixture(scope="session")
def made_databases(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Path:
    """A folder with an empty `mlflow.db`: seconds to make, nothing to copy.

    It is made once, also where pytest-xdist runs several workers.
    """
    made = shared_folder / "made-databases"
    with FileLock(shared_folder / "made-databases.lock"):
        if not made.exists():
            make_databases(tmp_path_factory.mktemp("databases")).rename(made)
    return made


def make_databases(folder: Path) -> Path:
    """Has MLflow make its tables."""
    from study.tracking import connect

    connect(f"sqlite:///{folder}/mlflow.db", "tracking", "see the traceback")
    return folder


@pytest.fixture
def databases(tmp_path: Path, made_databases: Path) -> Path:
    """The folder `.belay-study` of the test's working directory with MLflow's database, empty."""
    return copy_databases(made_databases, tmp_path)


@pytest.fixture(scope="session")
def ray_cluster(shared_folder: Path) -> Iterator[str]:
    """The session's Ray, two CPUs; its address."""
    import ray

    (shared_folder / "the one Ray").touch(exist_ok=False)  # a second worker of pytest-xdist that wants Ray fails here
    yield start_ray()
    ray.shutdown()


@pytest.fixture
def new_postgresql() -> Iterator[Callable[[], str]]:
    """Makes PostgreSQL databases and gives their URLs; drops them at the end."""
    with postgresql_databases() as make:
        yield make


@pytest.fixture
def postgresql(new_postgresql: Callable[[], str]) -> str:
    """The URL of a PostgreSQL database of the test's own."""
    return new_postgresql().replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def belay_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Calls ``belay-study`` in this process, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    for variable in ("MLFLOW_TRACKING_URI", "BELAY_STORAGE_URL"):
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: object) -> Answer:
        from study.cli import main

        monkeypatch.setattr(sys, "argv", ["belay-study", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return call
