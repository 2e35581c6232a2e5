"""What `--address` takes, and what is refused in one line before anything is sent."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import run

import pytest
import ray
from clusters import ROOT, clean
from studies import CommandLine, write

from study.remote import client
from study.remote.commands import options_of
from study.remote.job import carry_out
from study.remote.order import Order, python_version

NOBODY = "http://127.0.0.1:9"  # no dashboard


@contextmanager
def answering(status: int, text: str) -> Iterator[str]:
    """An HTTP server that says the same of every path; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def refused(belay_study: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Calls belay-study, which must refuse with exit code 2 and one line; that line."""
    monkeypatch.delenv("BELAY_ADDRESS", raising=False)

    def call(*command: object) -> str:
        answer = belay_study(*command)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer
        return answer.err

    return call


@pytest.mark.parametrize(("address", "parts"), [
    ("ray://127.0.0.1:10001", ("`--address` must be http://HOST:PORT", "ray://127.0.0.1:10001")),
    ("127.0.0.1:8265", ("`--address` must be http://HOST:PORT",)),
    ("http://:8265", ("`--address` must be http://HOST:PORT",)),
    ("http://head:x", ("`--address` must be http://HOST:PORT",)),
    ("http://[::1", ("`--address` must be http://HOST:PORT",)),
    (NOBODY, ("must be the dashboard of a Ray cluster", "refused")),
    ("http://me:hush@127.0.0.1:8265", ("must hold no login", "me:***@")),
])  # fmt: skip
def test_an_address_that_is_no_dashboard_is_refused(
    address: str, parts: tuple[str, ...], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused("list", "--address", address)
    assert all(part in said for part in parts), said
    assert "hush" not in said
    monkeypatch.setenv("BELAY_ADDRESS", address)
    assert refused("list") == said


def test_a_server_that_is_no_ray_is_refused(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of another cluster: it must not be asked instead
    with answering(404, "\x1b[2Jnothing") as address:
        said = refused("list", "--address", address)
    assert "must be the dashboard of a Ray cluster" in said
    assert "404" in said
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


def test_a_server_that_accepts_and_says_nothing_is_given_up(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "KNOCK", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = refused("list", "--address", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "must be the dashboard of a Ray cluster" in said
    assert "timed out" in said


def test_a_cluster_of_another_ray_is_refused_with_both_versions(refused: Callable[..., str]) -> None:
    with answering(200, json.dumps({"version": "4", "ray_version": "2.9.3", "ray_commit": ""})) as address:
        said = refused("list", "--address", address)
    assert f"must have this machine's Ray {ray.__version__}, got 2.9.3 at {address}" in said


def test_a_cluster_of_another_python_carries_out_nothing_and_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out(Order(["tasks"], [], NOBODY, "2.7")) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"must have the client's Python 2.7, got {python_version()}" in err


def test_a_cluster_that_says_of_no_place_for_studies_carries_out_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BELAY_STORAGE_URL", raising=False)
    assert carry_out(Order(["status", "small"], ["BELAY_STORAGE_URL"], NOBODY, python_version())) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "got no BELAY_STORAGE_URL in its environment; set it where Ray is started" in err


def test_a_job_advises_commands_with_the_client_s_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BELAY_STORAGE_URL", raising=False)
    assert carry_out(Order(["status", "none"], [], "http://head:8265", python_version())) == 2
    assert "`belay-study list --address http://head:8265` shows what does." in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--inline", "--debug"])
def test_what_runs_in_this_process_does_not_run_on_a_cluster(
    option: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    said = refused("run", write(tmp_path / "small.yaml"), option, "--address", NOBODY)
    assert f"`{option}` must come without a cluster, got the address {NOBODY}" in said


@pytest.mark.parametrize("url", ["sqlite:///here.db", "sqlite://", "file:///tmp/here", "mlruns", "./here.db"])
def test_a_file_of_this_machine_s_is_no_place_for_a_cluster_s_studies(
    url: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert f"`--tracking` must be a server's URL where a cluster runs the study, got {url}" in refused(
        "best", "small", "--tracking", url, "--address", NOBODY
    )
    assert f"`--storage` must be a server's URL where a cluster runs the study, got {url}" in refused(
        "status", "small", "--storage", url, "--address", NOBODY
    )
    config = write(tmp_path / "small.yaml", storage={"url": url})
    assert f"`storage.url` must be a server's URL where a cluster runs the study, got {url}" in refused(
        "run", config, "--address", NOBODY
    )


def test_a_password_in_a_config_does_not_leave_the_machine(refused: Callable[..., str], tmp_path: Path) -> None:
    config = write(tmp_path / "small.yaml", tracking={"uri": "https://me:hush@mlflow.example"})
    said = refused("run", config, "--address", NOBODY)
    assert "`tracking.uri` must hold no password where a cluster runs the study, got https://me:***@mlflow" in said


def test_options_go_to_a_cluster_as_they_were_given_and_those_left_out_do_not() -> None:
    given = {"study": "s", "top": 3, "by": None, "failed": True, "form": "json", "follow": False, "address": "http://h"}
    assert list(options_of(given)) == ["--top=3", "--failed", "--format=json"]


def test_a_dry_run_needs_no_cluster(belay_study: CommandLine, tmp_path: Path) -> None:
    answer = belay_study("run", write(tmp_path / "small.yaml"), "--dry-run", "--address", NOBODY)
    assert (answer.code, answer.err) == (0, "")
    assert "settings    20" in answer.out


def test_commands_that_need_a_cluster_say_so_without_one(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "`stop` must have the `--address` of a cluster, got none; Ctrl-C stops" in refused("stop", "small")
    assert "`logs` must have a SETTING or the `--address` of a cluster, got neither" in refused("logs", "small")
    assert "`--follow` must come without a SETTING, got 7" in refused("logs", "small", 7, "--follow")
    config = write(tmp_path / "small.yaml")
    assert "`--detach` must have the `--address` of a cluster, got none" in refused("run", config, "--detach")


def test_without_ray_s_client_for_jobs_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ImportError('no aiohttp')")
    code = "import sys; from study.cli import main; sys.argv = ['belay-study', 'list', '--address', 'http://x']; main()"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    ended = run([sys.executable, "-c", code], cwd=tmp_path, env=clean(PYTHONPATH=path), capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended
    assert "must have Ray's client for jobs, got no aiohttp; `pip install -e '.[cluster]'`" in ended.stderr
