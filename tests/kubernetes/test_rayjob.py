"""The file for Kubernetes: what KubeRay would refuse, and what must hold of its pods, as far as the file says it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILE = ROOT / "configs" / "kubernetes" / "rayjob.yaml"
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY|CREDENTIAL")

Document = dict[str, Any]


@pytest.fixture(scope="module")
def schema() -> Document:
    schema = yaml.safe_load((HERE / "rayjob.schema.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.fixture
def rayjob() -> Document:
    """The file's one document, a copy that a test may change: YAML's aliases share their mappings."""
    (document,) = yaml.safe_load_all(FILE.read_text())
    return copy.deepcopy(document)


def templates(rayjob: Document) -> dict[str, Document]:
    """The pods' templates by their role."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {
        "head": cluster["headGroupSpec"]["template"],
        "submitter": rayjob["spec"]["submitterPodTemplate"],
        **workers,
    }


def containers(rayjob: Document) -> Iterator[Document]:
    for template in templates(rayjob).values():
        yield from template["spec"]["containers"]


def test_kuberay_knows_every_key_and_value(rayjob: Document, schema: Document) -> None:
    jsonschema.validate(rayjob, schema)


@pytest.mark.parametrize(
    ("misspell", "said"),
    [
        (lambda job: job["spec"].update(entryPoint="x"), "'entryPoint' was unexpected"),
        (lambda job: job["spec"].pop("entrypoint"), "'entrypoint' is a required property"),
        (lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda job: next(containers(job)).update(volumeMount=[]), "'volumeMount' was unexpected"),
        (lambda job: next(containers(job))["env"][0].update(value=5432), "5432 is not of type 'string'"),
        (lambda job: next(containers(job))["resources"]["limits"].update(memory="4 GB"), "'4 GB' does not match"),
    ],
)
def test_a_key_or_value_that_is_wrong_is_found(
    misspell: Callable[[Document], object], said: str, rayjob: Document, schema: Document
) -> None:
    misspell(rayjob)
    with pytest.raises(jsonschema.ValidationError, match=re.escape(said)):
        jsonschema.validate(rayjob, schema)


def test_passwords_and_tokens_are_references_to_secrets(rayjob: Document) -> None:
    variables = [variable for container in containers(rayjob) for variable in container.get("env", ())]
    secret = [variable for variable in variables if SECRET.search(variable["name"])]
    assert {variable["name"] for variable in secret} == {"PGPASSWORD", "MLFLOW_TRACKING_PASSWORD"}
    for variable in secret:
        assert variable.keys() == {"name", "valueFrom"}
        assert variable["valueFrom"]["secretKeyRef"].keys() == {"name", "key"}


def test_no_url_has_a_password_and_no_secret_is_in_the_file(rayjob: Document) -> None:
    text = FILE.read_text()
    assert re.findall(r"://[^@\s]*:[^@\s]*@", text) == []
    assert not re.search(r"kind: *Secret\b|stringData", text)


def test_ray_asks_for_a_token(rayjob: Document) -> None:
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_every_pod_runs_one_image_that_is_pinned_to_this_version(rayjob: Document) -> None:
    images = {container["image"] for container in containers(rayjob)}
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert images == {f"registry.example/belay-study:{version}"}


def test_ray_s_version_is_the_one_that_is_pinned(rayjob: Document) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "tests" / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_every_container_has_limits_of_cpu_and_memory_that_it_does_not_exceed_when_it_starts(rayjob: Document) -> None:
    for container in containers(rayjob):
        assert container["resources"].keys() == {"requests", "limits"}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_no_container_is_root_or_may_become_it(rayjob: Document) -> None:
    for name, template in templates(rayjob).items():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert template["spec"]["automountServiceAccountToken"] is False, name
    for container in containers(rayjob):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_every_volume_that_a_container_mounts_is_there_and_the_study_lies_where_its_command_looks(
    rayjob: Document,
) -> None:
    for template in templates(rayjob).values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} == volumes.keys()
    program, command, path = rayjob["spec"]["entrypoint"].split()
    assert (program, command, path) == ("belay-study", "run", "/etc/belay/study.yaml")
    head = templates(rayjob)["head"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["volumeMounts"]}
    assert str(Path(path).parent) == mounts["study"]
    assert "--from-file=study.yaml=" in FILE.read_text()


def test_every_node_finds_both_stores_by_a_url_that_the_project_reads(
    rayjob: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.design.places import Connections

    for role, template in templates(rayjob).items():
        given = {entry["name"]: entry.get("value") for entry in template["spec"]["containers"][0].get("env", ())}
        assert bool(given) == (role != "submitter")
        for name in given.keys() & {"BELAY_STORAGE_URL", "MLFLOW_TRACKING_URI"}:
            monkeypatch.setenv(name, given[name])
    found = Connections.of()
    assert found.storage == "postgresql+psycopg://belay@postgres:5432/ledger"
    assert found.tracking == "http://mlflow:5000"
