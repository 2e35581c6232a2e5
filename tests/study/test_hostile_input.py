"""Hostile input: names, values, YAML and records that would run, reach elsewhere or act on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from mlflow import MlflowClient
from studies import Answer, CommandLine, small, write

from study.design.config import parse_config
from study.design.places import storage_url, tracking_uri
from study.design.schema import METRIC
from study.design.study import Study
from study.errors import BadInput, FailedWork

HOSTILE = {
    "path": "../../../tmp/escaped",
    "sql": "a'; drop table runs; --\"`",
    "newline": "a\nb",
    "html": "<script>alert(1)</script>",
    "control": "a\x07b\x00c",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "c1": "a\x9b31mb",
    "bidi": "a\u202eb",
    "surrogate": "a\udcffb",
    "long": "n" * 10_000,
}
MENTIONED = 2100  # characters that a message may have, however long what it is about
FUNCTION = {"name": "tasks_of_tests:parabola"}
SCORE = {"metric": "average/score", "mode": "max"}

hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


def refused(document: Mapping[str, Any]) -> None:
    """Asserts that a config is refused in one line that does nothing to a terminal."""
    with pytest.raises(BadInput) as caught:
        Study.of(parse_config(document))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < MENTIONED


def harmless(answer: Answer) -> None:
    """Asserts that neither output has a character that acts on a terminal, or a traceback."""
    for line in (answer.out + answer.err).split("\n"):
        assert line.isprintable(), line
    assert "Traceback" not in answer.err


# --- names ------------------------------------------------------------------------------------------------------------


@hostile
@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"name": text},
        lambda text: {"task": {"name": text}},
        lambda text: {"task": {"name": f"{text}:train"}},
        lambda text: {"task": {"name": f"os:{text}"}},
        lambda text: {"task": {"name": "quadratic", text: 1}},
        lambda text: {"task": {"name": "quadratic", "lr": text}},
        lambda text: {"space": {"decay": 0.9, text: 1.0}},
        lambda text: {"space": {"decay": {text: [1, 2]}}},
        lambda text: {"objective": {"metric": text}},
        lambda text: {"objective": {"metric": f"average/{text}"}},
        lambda text: {"search": {"sampler": text}},
        lambda text: {"storage": {text: text}},
        lambda text: {text: 1},
        lambda text: {"task": {**FUNCTION, text: 1}, "objective": SCORE} if not text.isidentifier() else {"x": 1},
        lambda text: {"task": FUNCTION, "objective": SCORE | {"metric": f"average/{text}"}},
    ],
)
def test_a_name_that_is_none_is_refused_in_one_harmless_line(text: str, place: Any) -> None:
    refused(small(**place(text)))


@pytest.mark.parametrize("text", [HOSTILE[name] for name in ("control", "escape", "c1", "bidi", "surrogate")])
def test_values_with_control_characters_are_refused_which_postgresql_could_not_keep(text: str) -> None:
    refused(small(task=FUNCTION, objective=SCORE, space={"decay": 0.9, "kind": {"choice": [text, "b"]}}))
    refused(small(task=FUNCTION | {"nested": [{"deep": text}]}, objective=SCORE))
    refused(small(task=FUNCTION | {"nested": {text: 1}}, objective=SCORE))
    for resolve in (storage_url, tracking_uri):
        with pytest.raises(BadInput, match="must have no control characters") as caught:
            resolve(f"sqlite:///{text}.db")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "average/../live",
        "average/./x",
        "average//x",
        "average/x/",
        "average/..",
        f"average/{'n' * 250}",
        "average/x.se",
        "x",
    ],
)
def test_a_metric_whose_name_mlflow_or_the_records_take_for_another_is_none(name: str) -> None:
    assert not METRIC.fullmatch(name)


def test_a_metric_s_name_may_have_parts_and_dots() -> None:
    for name in ("average/val_loss", "live/top.5/per class", "average/..x", "average/é-1"):
        assert METRIC.fullmatch(name)


# --- values that are allowed, all the way to the terminal -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
def test_quotes_paths_markup_line_breaks_and_long_texts_come_back_as_values_and_do_nothing(
    server: str, belay_study: CommandLine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = []
    if server == "postgresql":
        make = request.getfixturevalue("new_postgresql")
        places = [f"--storage={make()}", f"--tracking={make()}"]
    kinds = [HOSTILE[name] for name in ("path", "sql", "newline", "html", "long")] + ["[red]rich[/red]", "${HOME}"]
    config = write(
        tmp_path / "small.yaml",
        task=FUNCTION | {"lr": 0.1},
        objective=SCORE,
        space={"decay": 0.9, "kind": {"choice": kinds}},
        search={"sampler": "grid"},
        steps=5,
    )
    before = {path.name for path in tmp_path.parent.iterdir()}
    ran = belay_study("run", config, "--inline", *places)
    assert ran.code == 0, ran.err
    harmless(ran)
    data = json.loads(belay_study("best", "small", "--top", 9, "--format", "json", *places[1:]).out)
    assert sorted(row["kind"] for row in data) == sorted(kinds)
    for command in (["best", "small", "--top", 9], ["best", "small", "--by", "kind"], ["regimes", "small"], ["list"]):
        harmless(belay_study(*command, *places[1:]))
    exported = belay_study("export", "small", *places[1:])
    assert (exported.code, yaml.safe_load(exported.out)["format"]) == (0, "belay-defaults/1")
    assert {path.name for path in tmp_path.parent.iterdir()} == before
    if server == "postgresql":
        with psycopg.connect(places[1].partition("=")[2]) as connection:
            assert connection.execute("select count(*) from runs").fetchone() == (8,)


def test_what_a_task_raises_and_reports_does_nothing_to_the_terminal_or_the_records(
    belay_study: CommandLine, databases: Path, tmp_path: Path
) -> None:
    for name in ("raises_escapes", "reports_escapes"):
        config = write(
            tmp_path / f"{name}.yaml",
            name=name,
            task={"name": f"tasks_of_tests:{name}"},
            objective=SCORE,
            space={"decay": {"choice": [0.8, 0.9]}},
            search={"sampler": "grid"},
            steps=5,
        )
        ran = belay_study("run", config, "--inline")
        assert (ran.code, ran.out) == (1, "")
        harmless(ran)
        assert "\\x1b[31m" in ran.err
        assert len(ran.err) < 2 * MENTIONED
    client = MlflowClient(f"sqlite:///{databases}/mlflow.db")
    experiment = client.get_experiment_by_name("raises_escapes")
    messages = [run.data.tags.get("belay.message", "") for run in client.search_runs([experiment.experiment_id])]
    assert any("\\x00" in message for message in messages)
    assert all(message.isprintable() for message in messages)


def test_records_that_somebody_else_wrote_do_nothing_to_the_terminal(
    belay_study: CommandLine, databases: Path, tmp_path: Path
) -> None:
    config = write(tmp_path / "small.yaml", search={"sampler": "random", "settings": 2, "baseline": 0})
    assert belay_study("run", config, "--inline").code == 0
    client = MlflowClient(f"sqlite:///{databases}/mlflow.db")
    experiment = client.get_experiment_by_name("small").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`belay.kind` = 'study'")
    client.set_tag(parent.info.run_id, "belay.metric", "average/\x1b[2Jexcess\x7f_loss")
    client.rename_experiment(experiment, "sm\x1b[31mall")
    for form in ("table", "json", "yaml"):
        listed = belay_study("list", "--format", form)
        assert listed.code == 0, listed.err
        harmless(listed)
        assert "x1b[31m" in listed.out or "u001b[31m" in listed.out or "e[31m" in listed.out
    for command in (["best", "sm\x1b[31mall"], ["best", "other\x1b[31m"], ["status", "x\x1b[31m"], ["resume", "\x1b"]):
        answer = belay_study(*command)
        assert answer.code in (1, 2)
        harmless(answer)


# --- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch {mark}']",
        "!!python/object/apply:os.system ['touch {mark}']",
        "name: !!python/object/new:pathlib.PosixPath ['{mark}']",
        "name: !!python/name:os.system",
        "name: !!python/module:os",
        "? !!python/object/apply:os.system ['touch {mark}']\n: 1",
    ],
)
def test_yaml_makes_no_objects_in_a_config_or_an_override(text: str, belay_study: CommandLine, tmp_path: Path) -> None:
    mark, config = tmp_path / "executed", tmp_path / "bad.yaml"
    config.write_text(text.format(mark=mark))
    override = text.format(mark=mark).removeprefix("name: ").replace("\n", " ")
    for arguments in ([config], [write(tmp_path / "small.yaml"), "--set", f"name={override}"]):
        answer = belay_study("run", *arguments, "--dry-run")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer
        harmless(answer)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]"] + [f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]" for p, n in zip("abcdefghi", "bcdefghij", strict=True)]),  # noqa: E501
        "a: &a {b: *a}",
        "[" * 20_000,
        "a: " + "{a: " * 20_000,
        "seeds: " + "9" * 100_000,
        "name: \x1b[31m",
        "name: 2001-99-99",
        "name: \x00",
    ],
    ids=["bomb", "itself", "deep lists", "deep mappings", "digits", "escape", "date", "nul"],
)  # fmt: skip
def test_yaml_that_would_fill_the_memory_or_the_stack_is_refused_soon(
    text: str, belay_study: CommandLine, tmp_path: Path
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    began = time.monotonic()
    answer = belay_study("run", config, "--dry-run")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1), answer
    harmless(answer)
    assert len(answer.err) < MENTIONED
    assert time.monotonic() - began < 60


def test_a_message_is_one_printable_line_however_it_came_about() -> None:
    for kind in (BadInput, FailedWork):
        text = str(kind("".join(HOSTILE.values()) + "; the end"))
        assert text.isprintable()
        assert len(text) < MENTIONED
        assert text.endswith("; the end")
