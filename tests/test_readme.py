"""The README against the code: its commands, its configuration reference and its examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from belay import Oscillator
from study.cli import app
from study.design.config import StudyConfig, load_config
from study.design.schema import FIGURES
from study.design.study import Study
from study.design.tasks import BUILT_IN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_it_has_the_two_commands_and_nothing_else_to_set_up() -> None:
    commands = "".join(blocks("bash main")).splitlines()
    assert commands == [
        "pip install -e . && belay-study run configs/quickstart.yaml",
        "pip install -e '.[test]' && pytest",
    ]


def test_every_command_is_documented() -> None:
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        assert f"belay-study {name}" in README, name


def test_every_key_of_the_config_is_documented() -> None:
    for name, field in StudyConfig.model_fields.items():
        assert f"`{name}" in README, name
        nested = getattr(field.annotation, "model_fields", {})
        for inner in nested:
            assert f"`{name}.{inner}`" in README, inner


def test_every_figure_and_task_is_documented() -> None:
    for name in [*(figure for figure in FIGURES if figure != "memory_share"), *BUILT_IN]:
        assert f"`{name}`" in README, name


@pytest.mark.parametrize("block", blocks("python"))
def test_its_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_its_study_is_a_valid_one(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "study.yaml").write_text(text)
    assert Study.of(load_config(tmp_path / "study.yaml")).config.name == "digits-damping"


def test_its_table_of_oscillators_is_what_the_library_computes() -> None:
    rows = re.findall(
        r"^\| (0\.\d+) \| ([\d.]+) \| (\w+) \| ([\d.]+) \| ([\d.]+) \| (\S+) \| (\d+) \|$", README, re.MULTILINE
    )
    assert len(rows) >= 4
    for decay, damping, regime, lag, half_life, ratio, settling in rows:
        oscillator = Oscillator(float(decay), float(damping))
        assert oscillator.regime == regime
        assert f"{oscillator.lag:.1f}" == lag
        assert f"{oscillator.half_life:.1f}" == half_life
        assert f"{oscillator.damping_ratio:.2f}" == ratio
        assert str(oscillator.settling_time) == settling
