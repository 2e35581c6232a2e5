"""The shape of docker-compose.yml and of the image's files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compose import FILE, ROOT, MissingVariable, document, in_order, mounts
from quickstart import readme

DOCKER = ROOT / "configs/docker"
COMPOSE = document({"BELAY_SECRETS": "/secrets", "BELAY_USER": "1000:1000"})
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"mlflow-user": "on-failure", "study": "no"}  # their restart policies
PINNED = re.compile(r"[a-z-]+:\d+\.\d+(\.\d+)?(-[a-z]+)*")
REFUSAL = "run configs/docker/make-secrets first"


def test_the_file_is_as_the_compose_specification_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def docker_compose(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    environment = {"PATH": "/usr/bin:/bin"} | variables
    command = [program, "--file", str(FILE), "--project-directory", str(folder), "config"]  # no .env is there
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_readmes_three_commands_are_those_that_the_tests_carry_out() -> None:
    assert readme("bash cluster") == [
        "configs/docker/make-secrets",
        "docker compose --profile cpu up -d --build",
        "docker compose run --rm study run configs/quickstart.yaml",
    ]


def test_docker_compose_reads_the_file(tmp_path: Path) -> None:
    read = docker_compose(tmp_path, BELAY_SECRETS="/secrets", BELAY_USER="1000:1000")
    assert read.returncode == 0, read.stderr
    assert "file: /secrets/ray_token" in read.stdout


def test_docker_compose_refuses_in_a_line_that_names_the_script_where_there_are_no_secrets(tmp_path: Path) -> None:
    refused = docker_compose(tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.strip().count("\n") == 0
    assert REFUSAL in refused.stderr


@pytest.mark.parametrize("given", [{}, {"BELAY_USER": "1000:1000"}, {"BELAY_SECRETS": "/secrets"}])
def test_the_file_cannot_be_read_without_both_variables_that_make_secrets_sets(given: dict[str, str]) -> None:
    with pytest.raises(MissingVariable, match=REFUSAL):
        document(given)


def test_the_services_are_those_of_a_teams_cluster() -> None:
    assert [*SERVICES] == ["postgres", "mlflow", "mlflow-user", "ray-head", "ray-worker", "ray-worker-gpu", "study"]
    assert in_order(COMPOSE, "study") == ["postgres", "mlflow", "mlflow-user", "ray-head", "study"]
    profiles = {name: entry["profiles"] for name, entry in SERVICES.items() if "profiles" in entry}
    assert profiles == {"ray-worker": ["cpu"], "ray-worker-gpu": ["gpu"], "study": ["study"]}
    assert not any("container_name" in entry for entry in SERVICES.values())  # else nothing could be scaled


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_limited_and_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert PINNED.fullmatch(service["image"]), service["image"]
    assert service["user"] == "1000:1000"  # whoever made the secrets
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["read_only"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "env_file"} & set(service)
    assert service["restart"] == ONE_SHOT.get(name, "unless-stopped")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert all(service[limit] for limit in ("mem_limit", "cpus", "pids_limit", "stop_grace_period"))
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}


def test_all_services_share_one_private_network_and_publish_two_ports_on_loopback() -> None:
    assert [*COMPOSE["networks"]] == ["belay"]
    assert all(service["networks"] == ["belay"] for service in SERVICES.values())
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"], "ray-head": ["127.0.0.1:8265:8265"]}


def test_gpu_workers_differ_from_the_others_by_their_gpus_alone() -> None:
    cpu, gpu = SERVICES["ray-worker"], SERVICES["ray-worker-gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "1", "capabilities": ["gpu"]}
    own = {"profiles", "deploy"}
    assert {key: cpu[key] for key in set(cpu) - own} == {key: gpu[key] for key in set(gpu) - own}


def test_every_secret_is_a_file_and_only_those_who_need_it_have_it() -> None:
    assert all([*secret] == ["file"] for secret in COMPOSE["secrets"].values())
    assert {name: service["secrets"] for name, service in SERVICES.items()} == {
        "postgres": ["postgres_password", "postgres_pgpass", "mlflow_pgpass", "belay_pgpass"],
        "mlflow": ["mlflow_pgpass", "mlflow_admin_password", "mlflow_secret_key"],
        "mlflow-user": ["mlflow_admin_password", "mlflow_user_password"],
        "ray-head": ["ray_token", "belay_pgpass", "mlflow_user_password"],
        "ray-worker": ["ray_token"],
        "ray-worker-gpu": ["ray_token"],
        "study": ["ray_token"],
    }
    for service in SERVICES.values():
        given = {f"/run/secrets/{name}" for name in service["secrets"]}
        for key, value in service["environment"].items():
            if re.search("PASS|SECRET|TOKEN", key):  # such a variable names a file, never a value
                assert value in given, key


def test_no_literal_in_the_file_is_a_password() -> None:
    logins = re.findall(r"\w+://([^/\s]*)@", FILE.read_text(encoding="utf-8"))
    assert sorted(logins) == ["belay", "mlflow"]


def test_rays_nodes_and_clients_show_its_token_and_drivers_are_no_admins() -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu", "study"):
        environment = SERVICES[name]["environment"]
        assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN_PATH"]) == ("token", "/run/secrets/ray_token")
    assert SERVICES["ray-head"]["environment"]["MLFLOW_TRACKING_USERNAME"] == "belay"


def test_the_image_is_pinned_by_the_versions_that_the_tests_run_with() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE)
    assert PINNED.fullmatch(base)
    assert base.startswith("python:3.11.")
    assert "COPY tests/constraints.txt /etc/belay/constraints.txt" in dockerfile
    assert "pip install -c /etc/belay/constraints.txt '.[cluster]'" in dockerfile
    pins = (ROOT / "tests/constraints.txt").read_text().splitlines()
    assert sum(line.startswith("torch==") for line in pins) == 1
    users = re.findall(r"^USER (\d+):", dockerfile, re.MULTILINE)
    assert users
    assert all(int(user) > 0 for user in users)


def test_what_the_image_copies_passes_the_ignore_file_and_nothing_else_does() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for sources in re.findall(r"^COPY (.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE):
        copied |= {source.rstrip("/") for source in sources.split()}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert all((ROOT / source).exists() for name in SERVICES for source, _, _ in mounts(COMPOSE, name) if "/" in source
               and not source.startswith("/secrets"))  # fmt: skip


def make_secrets(top: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = top / "configs/docker/make-secrets"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_bytes((DOCKER / "make-secrets").read_bytes())
    return subprocess.run(["sh", str(script), *arguments], cwd=top, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("version", "good"),
    [("1.29.2", False), ("2.3.4", False), ("2.23.3", False), ("v2.24.0", True), ("2.30.1", True), ("5.0.0", True)],
)
def test_make_secrets_refuses_a_docker_compose_that_is_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, good: bool
) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\n[ \"$*\" = 'compose version --short' ] && echo {version}\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    made = make_secrets(tmp_path)
    if good:
        assert made.returncode == 0, made.stderr
    else:
        rule = f"make-secrets: Docker Compose must be 2.24 or newer, got {version}; upgrade it.\n"
        assert (made.returncode, made.stderr) == (2, rule)
        assert not (tmp_path / ".secrets").exists()


def test_make_secrets_makes_every_secret_at_random_for_its_owner_alone(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        made = make_secrets(tmp_path / name)
        assert (made.returncode, made.stdout) == (0, ""), made.stderr
        folder = tmp_path / name / ".secrets"
        settings = (tmp_path / name / ".env").read_text().splitlines()
        user = settings.pop().removeprefix("BELAY_USER=")
        assert settings == ["COMPOSE_PROJECT_NAME=belay", f"BELAY_SECRETS={folder}"]
        assert not user.startswith("0:")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in folder.iterdir()} == set(COMPOSE["secrets"])
        for path in folder.iterdir():  # whoever the services run as can read them, and nobody else
            assert path.stat().st_mode & 0o777 == 0o600
            assert f"{path.stat().st_uid}:{path.stat().st_gid}" == user
        values = {path.name: path.read_text().strip() for path in folder.iterdir()}
        assert values.pop("postgres_pgpass") == f"*:*:*:postgres:{values['postgres_password']}"
        assert all(re.fullmatch(r"(\*:\*:\*:(mlflow|belay):)?[0-9a-f]{64}", value) for value in values.values())
        found += values.values()
    assert len(set(found)) == len(found)


def test_make_secrets_writes_over_nothing(tmp_path: Path) -> None:
    assert make_secrets(tmp_path).returncode == 0
    before = {path.name: path.read_text() for path in (tmp_path / ".secrets").iterdir()}
    again = make_secrets(tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "must not name secrets or their user yet" in again.stderr
    (tmp_path / ".env").unlink()
    again = make_secrets(tmp_path)
    assert again.returncode == 2
    assert "the folder must be new" in again.stderr
    assert not (tmp_path / ".env").exists()
    assert before == {path.name: path.read_text() for path in (tmp_path / ".secrets").iterdir()}
    bad = make_secrets(tmp_path, "with a space")
    assert bad.returncode == 2
    assert "must be of letters, digits" in bad.stderr


def entrypoint(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(DOCKER / "bin/belay-entrypoint"), "sh", "-c", 'echo "$MLFLOW_TRACKING_PASSWORD,$PGPASSFILE"']
    variables = {"PATH": "/usr/bin:/bin"} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def test_the_entrypoint_hands_secrets_over_as_their_readers_want_them(tmp_path: Path) -> None:
    for name in ("password", "pgpass"):
        (tmp_path / name).write_text(f"the {name}\n")
    files = {"MLFLOW_TRACKING_PASSWORD_FILE": str(tmp_path / "password"), "PGPASSFILE": str(tmp_path / "pgpass")}
    ran = entrypoint(**files)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"the password,{tmp_path}/pgpass\n", "")


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_PASSWORD_FILE", "PGPASSFILE", "RAY_AUTH_TOKEN_PATH"])
@pytest.mark.parametrize("empty", [True, False])
def test_the_entrypoint_starts_nothing_without_a_secret(tmp_path: Path, variable: str, empty: bool) -> None:
    if empty:
        (tmp_path / "secret").touch()
    ran = entrypoint(**{variable: str(tmp_path / "secret")})
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert f"`{variable}` must name" in ran.stderr
    assert "configs/docker/make-secrets" in ran.stderr


def test_the_probe_says_in_one_line_what_does_not_answer() -> None:
    probe = [sys.executable, str(DOCKER / "bin/belay-healthy"), "http://127.0.0.1:9/api/healthz"]
    ran = subprocess.run(probe, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert "http://127.0.0.1:9/api/healthz must answer, got" in ran.stderr
