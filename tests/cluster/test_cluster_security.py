"""What the services refuse, and that no secret turns up where somebody could read it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from quickstart import WRONG
from stack import WORKERS, Stack

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(1800)]

JOB = json.dumps({"entrypoint": "true", "submission_id": "a-strangers"}).encode()


def ask(url: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and body of a request."""
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"} | headers, data=data)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def dashboard(cluster: Stack, path: str, token: str | None, data: bytes | None = None) -> tuple[int, str]:
    """What Ray's dashboard answers to who shows that token."""
    shown = {} if token is None else {"Authorization": f"Bearer {token}"}
    return ask(f"http://{cluster.address('ray-head')}:8265{path}", data, **shown)


def mlflow(cluster: Stack, path: str, user: str, password: str | None, data: bytes | None = None) -> tuple[int, str]:
    """What MLflow answers to that user with that password, or to nobody."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    shown = {} if password is None else {"Authorization": f"Basic {login}"}
    return ask(f"http://{cluster.address('mlflow')}:5000{path}", data, Host="mlflow:5000", **shown)


@pytest.mark.parametrize("path", ["/api/version", "/api/jobs/", "/nodes?view=summary", "/api/v0/actors", "/logs"])
def test_rays_dashboard_and_jobs_refuse_no_token_and_a_wrong_one(cluster: Stack, path: str) -> None:
    assert dashboard(cluster, path, None)[0] == 401
    assert dashboard(cluster, path, WRONG)[0] == 403
    assert dashboard(cluster, path, cluster.secret("ray_token"))[0] not in (401, 403)


def test_rays_jobs_take_no_job_from_a_stranger(cluster: Stack) -> None:
    assert dashboard(cluster, "/api/jobs/", None, JOB)[0] == 401
    assert dashboard(cluster, "/api/jobs/", WRONG, JOB)[0] == 403
    for name in ("ray-head", *WORKERS[:1]):  # every node has an agent that takes jobs
        assert ask(f"http://{cluster.address(name)}:52365/api/job_agent/jobs/", JOB)[0] == 401
    assert "a-strangers" not in dashboard(cluster, "/api/jobs/", cluster.secret("ray_token"))[1]


@pytest.mark.parametrize(("shown", "lets_in"), [("no token", False), ("a wrong one", False), ("the token", True)])
def test_rays_own_protocol_lets_in_who_has_the_token(
    strangers: dict[str, subprocess.Popen[str]], shown: str, lets_in: bool
) -> None:
    out, err = strangers[shown].communicate()
    assert strangers[shown].returncode != 124, "it must be refused, not left to wait"
    assert (strangers[shown].returncode == 0, out.startswith("in")) == (lets_in, lets_in), err[-2000:]


@pytest.mark.parametrize(
    "path",
    ["/", "/signup", "/graphql", "/api/2.0/mlflow/experiments/search?max_results=1", "/ajax-api/2.0/mlflow/users/list"],
)
def test_mlflow_refuses_no_login_and_a_wrong_one(cluster: Stack, path: str) -> None:
    for user in ("admin", "belay"):
        for password in (None, WRONG, "", "password1234"):
            assert mlflow(cluster, path, user, password)[0] == 401, (user, password)
    assert mlflow(cluster, path, "admin", cluster.secret("mlflow_admin_password"))[0] not in (401, 403)


def test_mlflow_refuses_hosts_that_it_was_not_told_of(cluster: Stack) -> None:
    for host, expected in (("evil.example", 403), ("mlflow:5001", 403), ("mlflow:5000", 200)):
        status, body = ask(
            f"http://{cluster.address('mlflow')}:5000/api/2.0/mlflow/experiments/search?max_results=1",
            Host=host,
            **as_admin(cluster),
        )
        assert status == expected, host
        assert ("Invalid Host header" in body) == (expected == 403)


def as_admin(cluster: Stack) -> dict[str, str]:
    login = f"admin:{cluster.secret('mlflow_admin_password')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


@pytest.mark.usefixtures("studied")
def test_another_user_of_mlflow_sees_no_study_of_the_drivers_who_are_no_admins(cluster: Stack) -> None:
    made = json.dumps({"username": "another", "password": "correct horse battery"}).encode()
    create, read = "/api/2.0/mlflow/users/create", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=quickstart"
    driver, before = ("belay", cluster.secret("mlflow_user_password")), ("another", "correct horse battery")
    assert mlflow(cluster, create, *driver, made)[0] == 403
    assert mlflow(cluster, create, "admin", cluster.secret("mlflow_admin_password"), made)[0] in (200, 201)
    assert mlflow(cluster, read, *before)[0] == 403
    assert mlflow(cluster, read, *driver)[0] == 200
    # What makes `belay` gives a user who is there the password that the secret has now.
    name = "mlflow-user:again"
    cluster.start(name, "belay-mlflow-user", "another", "/run/secrets/mlflow_user_password")
    cluster.wait(name)
    assert mlflow(cluster, read, *before)[0] == 401
    assert mlflow(cluster, read, "another", cluster.secret("mlflow_user_password"))[0] == 403


def spellings(cluster: Stack) -> dict[bytes, str]:
    """Each secret as it is, as a URL has it and as base64 has it whatever stands before it, with its name."""
    found = {}
    for name in cluster.compose["secrets"]:
        value = cluster.secret(name)
        assert re.fullmatch("[0-9a-f]{64}", value)
        found |= {value.encode(): name, quote(value, safe="").encode(): name}
        for before in range(3):
            coded = base64.b64encode(b" " * before + value.encode())
            found[coded[4:76]] = f"{name} in base64"  # what does not depend on the bytes around it
    return found


def files(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


@pytest.mark.usefixtures("studied")
def test_no_secret_is_in_command_lines_logs_rays_files_databases_or_rays_dashboard(cluster: Stack) -> None:
    known = spellings(cluster)

    def search(what: object, text: bytes) -> None:
        assert not (found := [name for spelling, name in known.items() if spelling in text]), (what, found)

    assert_finds(cluster, search)
    lines = [line.read_bytes() for line in running("cmdline")]
    for program in (b"gcs_server", b"raylet", b"mlflow", b"postgres"):
        assert any(program in line for line in lines), program
    for line in lines:
        search("a command line", line)
    for file in cluster.view(WORKERS[0], "/proc").glob("[0-9]*/environ"):
        search("a worker's environment", file.read_bytes())
    assert [path.name for path in cluster.view(WORKERS[0], "/run/secrets").iterdir()] == ["ray_token"]
    session = [cluster.view(name, "/tmp/ray") for name in ("ray-head", WORKERS[0])]
    count = 0
    for path, text in files(cluster.folder / "logs", *session, cluster.folder / "volumes/mlflow"):
        search(path, text)
        count += 1
    assert count > 30
    for database in ("mlflow", "mlflow_auth", "ledger"):
        dump = cluster.execute("postgres", "pg_dump", "-U", "postgres", "--inserts", database)
        assert "INSERT INTO" in dump.stdout, dump.stderr
        search(database, dump.stdout.encode())
    roles = cluster.execute("postgres", "pg_dumpall", "-U", "postgres", "--globals-only")
    assert "SCRAM-SHA-256" in roles.stdout
    search("the roles", roles.stdout.encode())
    for page in ("/api/jobs/", "/nodes?view=summary", "/api/v0/actors?detail=1", "/api/v0/workers?detail=1"):
        status, body = dashboard(cluster, page, cluster.secret("ray_token"))
        assert status == 200
        search(page, body.encode())
        assert page != "/api/jobs/" or "belay-quickstart-" in body


def assert_finds(cluster: Stack, search: Callable[[object, bytes], None]) -> None:
    """The search finds secrets where there are some: in the environment of the driver's host, and in base64."""
    token = cluster.secret("ray_token").encode()
    kept = b"".join(file.read_bytes() for file in cluster.view("ray-head", "/proc").glob("[0-9]*/environ"))
    for text in (kept, b"--token=" + token, *(base64.b64encode(b"x" * length + token) for length in range(6))):
        with pytest.raises(AssertionError):
            search("planted", text)


def running(what: str) -> Iterator[Path]:
    """That file of each process of the machine."""
    for path in Path("/proc").glob(f"[0-9]*/{what}"):
        try:
            path.read_bytes()
        except OSError:  # it has just ended
            continue
        yield path
