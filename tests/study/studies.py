"""Small studies that the tests run, and what a call of the command line returns."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml


@dataclass
class Answer:
    """Exit code and output of a call of the command line."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Answer]


def small(**changes: Any) -> dict[str, Any]:
    """A quadratic study of 12 + 4 settings x 2 seeds in which some settings diverge; a second of training."""
    config: dict[str, Any] = {
        "name": "small",
        "task": {"name": "quadratic", "dimensions": 4},
        "steps": 60,
        "seeds": 2,
        "evaluations": 2,
        "objective": {"metric": "average/excess_loss"},
        "space": {
            "decay": {"log_gap": [0.8, 0.99]},
            "damping": {"uniform": [0.1, 1.0]},
            "coupling": {"uniform": [0.0, 0.4]},
            "lr": {"log": [0.05, 4.0]},
        },
        "search": {"sampler": "tpe", "settings": 16, "baseline": 4, "in_flight": 4},
    }
    return config | changes


def write(path: Path, **changes: Any) -> Path:
    """Writes `small` with changes as a config file."""
    path.write_text(yaml.safe_dump(small(**changes), sort_keys=False))
    return path


def environment_with(**changes: str) -> dict[str, str]:
    """The environment of a process of its own that finds this checkout and the tests' tasks, with changes."""
    tests = Path(__file__).parent
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parents[1]), str(tests)])} | changes


@contextmanager
def started(line: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, whose pipes hold text; it is killed at the end of the block, also where a test fails."""
    with subprocess.Popen(line, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def start_ray() -> str:
    """Starts a Ray of two CPUs, whatever Ray runs on the machine; its address."""
    import ray

    for tries_left in (2, 1, 0):
        try:
            ray.init(
                "local", num_cpus=2, object_store_memory=100 * 2**20,
                include_dashboard=False, log_to_driver=False, logging_level="CRITICAL",
            )  # fmt: skip
            break
        except Exception:  # a bare one, where the node needs more than the 30 s that Ray gives it
            if not tries_left:
                raise
            ray.shutdown()
    return ray.get_runtime_context().gcs_address


def copy_databases(made: Path, home: Path) -> Path:
    """Copies MLflow's empty database (the fixture `made_databases`) to where a study in `home` has its own."""
    return Path(shutil.copytree(made, home / ".belay-study"))


@contextmanager
def postgresql_databases() -> Iterator[Callable[[], str]]:
    """Makes PostgreSQL databases, on a server that trusts its callers, and gives their URLs; drops them at the end.

    Where no server answers the test is skipped, unless BELAY_REQUIRE_POSTGRESQL is set.
    """
    import psycopg

    server = "postgresql://postgres@127.0.0.1:5432"
    try:
        connection = psycopg.connect(f"{server}/postgres", autocommit=True, connect_timeout=300)
    except psycopg.OperationalError as error:
        if os.environ.get("BELAY_REQUIRE_POSTGRESQL"):
            raise
        pytest.skip(f"PostgreSQL must answer at {server}: {error}")
    made: list[str] = []

    def make() -> str:
        made.append(f"belay_{uuid.uuid4().hex}")
        connection.execute(f"create database {made[-1]} template template0")  # template1 may be in use
        return f"{server}/{made[-1]}"

    with connection:
        yield make
        for name in made:
            connection.execute(f"drop database {name} with (force)")
