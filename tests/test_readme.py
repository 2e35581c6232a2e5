"""The READMEs against the code: their commands, links, configuration reference and examples."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml
from documents import ALL, LIBRARY, README, ROOT, STUDY, anchors, blocks, links, spans, table, text
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from belay import Oscillator, methods
from study.answer import answer
from study.cli import app
from study.design.config import StudyConfig, load_config, parse_config
from study.design.schema import FIGURES
from study.design.study import Study
from study.design.tasks import BUILT_IN
from study.findings.recommend import recommend
from study.findings.table import read_table


def test_it_has_the_two_commands_and_nothing_else_to_set_up() -> None:
    commands = "".join(blocks("bash main", README)).splitlines()
    assert commands == [
        "pip install -e . -c tests/constraints.txt && belay-study run configs/quickstart.yaml",
        "pip install -e '.[test]' -c tests/constraints.txt && pytest",
    ]


def options(command: typer.core.TyperCommand) -> Iterator[list[str]]:
    """Every option's names."""
    for parameter in command.params:
        if parameter.param_type_name == "option":
            yield parameter.opts


def test_every_command_is_documented_once_with_its_arguments_and_every_option() -> None:
    documented: dict[str, list[str]] = {}
    for usage, _ in table("command", "what it does"):
        for span in spans(usage):
            program, name, *words = re.sub(r"[\[\]]", "", span).split()
            assert (program, name in documented) == ("belay-study", False), span
            documented[name] = words
    for option, of, _ in table("option", "of", "meaning"):
        for name in spans(of):
            documented[name] += spans(option)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group
    assert set(documented) == set(commands)
    for name, command in commands.items():
        words = documented[name]
        arguments = sum(parameter.param_type_name == "argument" for parameter in command.params)
        assert sum(word.isupper() for word in words) == arguments, name
        named = [next((names[0] for names in options(command) if word in names), f"no {word}") for word in words
                 if word.startswith("-")]  # fmt: skip
        assert sorted(named) == sorted(names[0] for names in options(command)), name


def keys(entry: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every key of a config that holds no further keys, or is described as a whole, by its dotted name."""
    found: dict[str, FieldInfo] = {}
    for name, field in entry.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_entry(kind)]
        if inner and not field.description:
            found |= keys(inner[0], f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def _is_entry(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_every_key_of_the_config_is_documented_once_with_its_default_and_no_other() -> None:
    defaults: dict[str, str] = {}
    for key, _, default in table("key", "meaning", "default"):
        named = spans(key)
        shared = [default] if len(named) == 1 else default.split(", ")
        for name, one in zip(named, shared, strict=True):
            assert name not in defaults
            defaults[name] = one.strip("`")
    expected = keys(StudyConfig)
    assert set(defaults) == set(expected)
    for name, field in expected.items():
        if isinstance(field.default, int | float | str):
            assert yaml.safe_load(defaults[name]) == field.default, name


def test_every_figure_is_documented_once_and_no_other() -> None:
    named = [name for figure, _, _ in table("figure", "formula", "meaning") for name in spans(figure)]
    assert sorted(set(named)) == sorted(named)
    assert set(named) >= set(FIGURES)
    for name in set(named) - set(FIGURES):
        assert isinstance(getattr(Oscillator, name), property), name


def test_every_built_in_task_is_documented_and_no_other() -> None:
    (meaning,) = [meaning for key, meaning, _ in table("key", "meaning", "default") if spans(key) == ["task.name"]]
    assert sorted(span for span in spans(meaning) if span.isidentifier()) == sorted(BUILT_IN)


def texts(node: ast.AST) -> Iterator[str]:
    """Every text in a piece of code; a value in it is written as `...`."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr):
            yield "".join(str(value.value) if isinstance(value, ast.Constant) else "..." for value in part.values)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def test_every_message_that_it_explains_is_one_of_the_code() -> None:
    said = [part for file in ROOT.glob("study/**/*.py") for part in texts(ast.parse(text(file)))]
    rows = table("message", "what it means")
    assert len(rows) == 10
    for message, _ in rows:
        (quoted,) = spans(message)
        assert any(quoted.removesuffix("...") in part for part in said), quoted


@pytest.mark.parametrize("document", ALL, ids=lambda document: str(document.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    assert links(document)
    for file, heading in links(document):
        assert file.exists(), file
        assert not heading or heading in anchors(file), (file, heading)


@pytest.mark.parametrize("block", blocks("python"))
def test_its_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_what_it_prints_of_a_table_is_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks("python") if 'to_csv("table.csv")' in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    said = answer(recommend(read_table(Path("table.csv"), "accuracy", "max")))
    assert textwrap.indent(said, "    ") + "\n\n" in text(STUDY)


def test_every_method_is_in_its_table_as_it_is_called() -> None:
    named = []
    for _, code, _, _ in table("you use", "here it is", "it returns", "source"):
        call = spans(code)[0]
        made = eval(call, {"methods": methods, "Oscillator": Oscillator})
        assert isinstance(made, Oscillator | methods.Method | methods.ScheduleFree), call
        named.append(call.split("(")[0])
    offered = [f"methods.{name}" for name in methods.__all__ if name.islower()]
    assert sorted(named) == sorted(["Oscillator.ema", *offered])


def test_its_study_is_a_valid_one(tmp_path: Path) -> None:
    (block,) = blocks("yaml", README)
    (tmp_path / "study.yaml").write_text(block)
    assert Study.of(load_config(tmp_path / "study.yaml")).config.name == "digits-damping"


def test_its_space_with_conditions_is_a_valid_one() -> None:
    (block,) = blocks("yaml space", STUDY)
    config = {"name": "conditions", "task": "tasks_of_tests:parabola", "steps": 60, "search": {"settings": 8}}
    config |= {"objective": {"metric": "average/score", "mode": "max"}} | yaml.safe_load(block)
    space = Study.of(parse_config(config)).spaces["main"]
    assert space["beta2"].words == "choice [0.99, 0.999], when optimizer is 'adam' or 'adamw'"


def test_its_table_of_stability_limits_is_what_the_library_computes() -> None:
    rows = table("coupling", "largest stable lr x curvature", "its immediate step", "slow modes")
    assert len(rows) >= 4
    for coupling, largest, immediate, slow in rows:
        pulled = Oscillator(0.999, coupling=float(coupling))
        assert f"{pulled.max_stable_step:.3f}" == largest
        assert f"{pulled.immediate_lr_factor * pulled.max_stable_step:.3f}" == immediate
        assert f"{pulled.slow_mode_lr_factor:.5f} lr" == slow


def test_its_table_of_oscillators_is_what_the_library_computes() -> None:
    rows = re.findall(
        r"^\| (0\.\d+) \| ([\d.]+) \| (\w+) \| ([\d.]+) \| ([\d.]+) \| (\S+) \| (\d+) \|$", text(LIBRARY), re.MULTILINE
    )
    assert len(rows) >= 4
    for decay, damping, regime, lag, half_life, ratio, settling in rows:
        oscillator = Oscillator(float(decay), float(damping))
        assert oscillator.regime == regime
        assert f"{oscillator.lag:.1f}" == lag
        assert f"{oscillator.half_life:.1f}" == half_life
        assert f"{oscillator.damping_ratio:.2f}" == ratio
        assert str(oscillator.settling_time) == settling
