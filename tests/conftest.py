"""What all tests share: one Ray for the session, and the command line as its user calls it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import Answer, CommandLine

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The session's Ray, two CPUs; its address."""
    import ray

    import study.execute.sweep  # noqa: F401 # sets Ray's environment before it starts

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def belay_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Calls ``belay-study`` in this process, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: object) -> Answer:
        from study.cli import main

        monkeypatch.setattr(sys, "argv", ["belay-study", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return call
