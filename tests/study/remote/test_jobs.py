"""Studies on a real Ray cluster with a token, from clients that are no part of it; see `clusters`."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pandas as pd
import pytest
import yaml
from clusters import Cluster, assert_refused, wait_until, with_cluster
from studies import CommandLine, started, write

from study.errors import BadInput
from study.findings.collect import load

pytestmark = pytest.mark.xdist_group("jobs")  # one process, for there to be one cluster
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The module's one cluster."""
    with with_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


def own(home: Path, gate: Path, **changes: Any) -> Path:
    """A config with a task of its own beside it: eight settings, of which five wait at a gate."""
    home.mkdir(exist_ok=True)
    shutil.copy(HERE / "own_task.py", home)
    (home / "helper_beside.py").write_text("def score(lr, seed):\n    return -abs(lr - 0.5) - 0.01 * seed\n")
    (home / ".env").write_text("canary")
    asked = {
        "name": "own",
        "task": {"name": "own_task:train", "gate": str(gate)},
        "objective": {"metric": "average/score", "mode": "max"},
        "search": {"sampler": "random", "settings": 8, "baseline": 0},
    }
    return write(home / "own.yaml", **(asked | changes))


def ended(client: Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a client."""
    out, err = client.communicate(timeout=300)
    return client.returncode, out, err


@pytest.mark.cluster
def test_a_study_is_started_once_and_goes_on_without_its_client_until_it_is_stopped_and_resumed(
    cluster: Cluster, tmp_path: Path, databases: Path, belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, home = tmp_path / "gate", tmp_path / "elsewhere"
    gate.mkdir()
    home.mkdir()
    config = own(tmp_path / "project", gate)
    monkeypatch.syspath_prepend(config.parent)  # for the same study here
    lines = [cluster.client("run", config, home=home) for _ in range(2)]
    with started(lines[0][0], **lines[0][1]) as one, started(lines[1][0], **lines[1][1]) as two:
        wait_until(lambda: len(list(gate.glob("waiting-*"))) == 2 or one.poll() is not None, 300)
        assert_leaves(cluster, one)
        other = cluster.run("run", config, "--set", "steps=61", home=home)
        assert_refused(other, 2, "got 'own' with another config running", "to own-2")
        line = assert_stops(cluster, home)
        code, out, err = ended(two)
        assert (code, out, err.splitlines()[-1]) == (130, "", line)
        assert "own takes 3 files" in err or "own runs already at" in err
    (gate / "open").touch()
    assert_resumes(cluster, config, home, belay_study)
    assert_grows(cluster, config, belay_study)
    there = load("own", cluster.tracking).table
    pd.testing.assert_frame_equal(there, load("own", f"sqlite:///{databases}/mlflow.db").table)
    assert_reads(cluster, home, belay_study)
    assert_deletes(cluster, home)
    assert not cluster.jobs("ask")  # questions leave no job behind


def assert_leaves(cluster: Cluster, client: Popen[str]) -> None:
    """Ctrl-C ends a client, and the one job of both goes on."""
    client.send_signal(signal.SIGINT)
    code, out, err = ended(client)
    where = f"own --address {cluster.address}"
    assert (code, out) == (130, ""), err
    assert err.splitlines()[-1] == (
        f"belay-study: own goes on at {cluster.address}; `belay-study logs {where} --follow` shows it again, "
        f"`belay-study stop {where}` ends it."
    )
    (job,) = cluster.jobs("own")
    assert job["status"] == "RUNNING"
    assert set(job["runtime_env"]["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}


def assert_stops(cluster: Cluster, home: Path) -> str:
    """`stop` ends the job, which says how far it is; that line."""
    stopped = cluster.run("stop", "own", home=home)
    line = (
        "belay-study: interrupted with 3 of 8 settings done, all kept; `belay-study resume own --address "
        f"{cluster.address}` does the rest."
    )
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", f"{line}\n")
    logged = cluster.run("logs", "own", home=home)
    assert (logged.returncode, logged.stderr) == (0, "")
    assert "own: 8 settings x 2 seeds of 60 steps" in logged.stdout
    assert logged.stdout.splitlines()[-1] == line
    assert_refused(cluster.run("stop", "own", home=home), 2, "must be running", "'own'")
    return line


def assert_resumes(cluster: Cluster, config: Path, home: Path, belay_study: CommandLine) -> None:
    """`resume` goes on, a second client follows, and the answer is that of a run here."""
    resumed = cluster.run("resume", "own", "--detach", home=config.parent)  # where its task is
    assert (resumed.returncode, resumed.stdout) == (0, ""), resumed.stderr
    assert f"own goes on at {cluster.address}" in resumed.stderr.splitlines()[-1]
    line, how = cluster.client("run", config, home=home)
    with started(line, **how) as following:
        here = belay_study("run", config, "--inline")
        code, out, err = ended(following)
    assert (code, here.code) == (0, 0), err + here.err
    assert out == said_there(here.out, cluster)
    assert len(cluster.jobs("own")) in (2, 3)  # a third where the second had ended before it could be followed


def assert_grows(cluster: Cluster, config: Path, belay_study: CommandLine) -> None:
    """`extend` trains the seeds that are missing, there as here."""
    more = "extend", "own", "--set", "seeds=3"
    (line, how), here = cluster.client(*more, home=config.parent), belay_study(*more, "--inline")
    with started(line, **how) as there:
        code, out, err = ended(there)
    assert (code, here.code) == (0, 0), err + here.err
    assert "own: 8 of 8 settings x 3 seeds done" in out
    assert out == said_there(here.out, cluster)


def said_there(said: str, cluster: Cluster) -> str:
    """What a cluster's client says of a study, by what is said where it ran in this process."""
    for command, there in (("export own", "export own"), ("extend own --inline", "extend own")):
        said = said.replace(command, f"{there} --address {cluster.address}")
    return said


def assert_reads(cluster: Cluster, home: Path, belay_study: CommandLine) -> None:
    """What is read on the cluster is what is read here."""
    questions = [("best", "own", "--format", "json"), ("logs", "own", "3"), ("export", "own", "-o", "defaults.yaml")]
    (one, how), (two, _), (three, _) = (cluster.client(*question, home=home) for question in questions)
    with started(one, **how) as best, started(two, **how) as logs, started(three, **how) as export:
        assert ended(best) == (0, belay_study(*questions[0]).out, "")
        assert ended(logs) == (0, belay_study(*questions[1]).out, "")
        code, out, err = ended(export)
    assert (code, out, err.partition(";")[0]) == (0, "", "wrote defaults.yaml")
    files = [belay_study("export", "own").out, (home / "defaults.yaml").read_text()]
    mine, theirs = ({**yaml.safe_load(text), "origin": None} for text in files)  # which differ in the run and the time
    assert mine == theirs


def assert_deletes(cluster: Cluster, home: Path) -> None:
    """`delete` asks here, or has to be told, and deletes there."""
    refused = cluster.run("delete", "own", home=home)
    assert_refused(refused, 2, "`--yes` where there is no terminal", f"to delete at {cluster.address} own: 8 settings")
    deleted = cluster.run("delete", "own", "--yes", home=home)
    assert (deleted.returncode, deleted.stdout) == (0, ""), deleted.stderr
    assert deleted.stderr.startswith("deleted own: 8 settings with 24 results in the ledger postgresql")
    with pytest.raises(BadInput, match="the study must exist"):
        load("own", cluster.tracking)


@pytest.mark.slow
def test_the_answer_of_a_job_is_that_of_a_study_run_here_and_reads_the_same(
    cluster: Cluster, tmp_path: Path, databases: Path, belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, home = tmp_path / "gate", tmp_path / "elsewhere"
    gate.mkdir()
    home.mkdir()
    (gate / "open").touch()
    config = own(tmp_path / "project", gate)
    monkeypatch.syspath_prepend(config.parent)
    line, how = cluster.client("run", config, home=home)
    with started(line, **how) as there:
        here = belay_study("run", config, "--inline")
        code, out, err = ended(there)
    assert (code, here.code) == (0, 0), err + here.err
    assert out == said_there(here.out, cluster)
    assert_reads(cluster, home, belay_study)


@pytest.mark.slow
def test_a_token_that_is_wrong_or_missing_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wr0ng")
    wrong = cluster.run("list", home=tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "wrong"))
    assert_refused(wrong, 2, "must accept Ray's token", "RAY_AUTH_TOKEN_PATH")
    nowhere = cluster.run("list", home=tmp_path, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert_refused(nowhere, 2, "must accept Ray's token")
    missing = cluster.run("list", home=tmp_path, RAY_AUTH_MODE="disabled")
    assert_refused(missing, 2, "must accept Ray's token", "RAY_AUTH_MODE=token")
