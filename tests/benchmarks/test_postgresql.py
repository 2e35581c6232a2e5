"""What the records of a setting cost on PostgreSQL over loopback beside SQLite files."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import small

from study.design.config import parse_config
from study.design.places import Connections
from study.design.study import Study
from study.execute import inline
from study.execute.sweep import run

SETTINGS, REPETITIONS = (24, 5) if os.environ.get("BELAY_BENCHMARK_SIZE") == "full" else (4, 1)
NUMBER = itertools.count()


def overhead(connections: Connections) -> float:
    """Seconds a setting from the first setting to the last record of a new study that trains next to nothing."""
    search = {"sampler": "random", "settings": SETTINGS, "baseline": 0}
    document = small(name=f"overhead-{next(NUMBER)}", steps=5, seeds=1, evaluations=1, search=search)
    times: list[float] = []
    study = Study.of(parse_config(document))
    run(study, connections, inline.back_end, lambda _: times.append(time.perf_counter()), lambda _: None)
    return (time.perf_counter() - times[0]) / SETTINGS


def test_overhead_of_a_setting(
    figure: Callable[..., None],
    new_postgresql: Callable[[], str],
    databases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts whose records are in a database
    servers = (url.replace("postgresql:", "postgresql+psycopg:") for url in (new_postgresql(), new_postgresql()))
    places = {
        "PostgreSQL": Connections.of(*servers),
        "SQLite": Connections.of(f"sqlite:///{databases}/ledger.db", f"sqlite:///{databases}/mlflow.db"),
    }
    for connections in places.values():  # imports, makes the tables
        overhead(connections)
    taken: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(REPETITIONS):  # in turns, so that what slows the machine slows both
        for name, connections in places.items():
            taken[name].append(overhead(connections))
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    figure("records of a setting, PostgreSQL", "SQLite", seconds["PostgreSQL"] / seconds["SQLite"], 1.5)
