"""``pytest tests/benchmarks`` measures and prints one table.

By default each is a glance, which shows that it still runs; BELAY_BENCHMARK_SIZE=full measures.

A bound that is missed is printed as MISSED and fails nothing: machines are noisy, and the figure is what is wanted.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import pytest
from questions import Measured, measured

FULL = os.environ.get("BELAY_BENCHMARK_SIZE") == "full"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measurement and what was asked of it: at most `asked`."""

    what: str
    against: str
    measured: float
    asked: float
    unit: str

    def row(self) -> tuple[str, ...]:
        held = "held" if self.measured <= self.asked else "MISSED"
        return self.what, self.against, f"{self.measured:.3g} {self.unit}", f"<= {self.asked:g} {self.unit}", held


FIGURES: list[Figure] = []


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Measures one thing at a time, in this process, whatever tests do."""
    config.option.numprocesses, config.option.dist = 0, "no"


@pytest.fixture(scope="session")
def figure() -> Callable[..., None]:
    """Adds a row to the table: ``figure(what, against, measured, asked, unit="x")``."""

    def add(what: str, against: str, measured: float, asked: float, unit: str = "x") -> None:
        FIGURES.append(Figure(what, against, measured, asked, unit))

    return add


@pytest.fixture(scope="session")
def medians() -> Callable[..., dict[str, float]]:
    """Median seconds of each function by name, taken in turns, so that what slows the machine slows all of them.

    Each is measured once where the size is not full.
    """

    def measure(functions: Mapping[str, Callable[[], object]], repetitions: int = 15) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in functions}
        for function in functions.values():  # imports, compiles and allocates
            function()
        for _ in range(repetitions if FULL else 1):
            for name, function in functions.items():
                began = time.perf_counter()
                function()
                taken[name].append(time.perf_counter() - began)
        return {name: statistics.median(seconds) for name, seconds in taken.items()}

    return measure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table and what it was measured on."""
    rows = [("what", "against", "measured", "asked", ""), *(figure.row() for figure in FIGURES)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("figures")
    load, version = os.getloadavg()[0], platform.python_version()
    terminalreporter.line(f"{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f}, Python {version}")
    for row in rows:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@pytest.fixture(scope="session")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Settings of the quickstart's question with many seeds."""
    return measured(f"sqlite:///{tmp_path_factory.mktemp('question')}/ledger.db")
