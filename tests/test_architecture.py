"""The structure that the packages promise: who imports whom, and what loads what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("belay/**/*.py"), *ROOT.glob("study/**/*.py")])

# Which files may import a package; {package: files or folders}.
CONFINED = {
    "ray": [
        "study/execute/connection.py",
        "study/execute/tune.py",
        "study/execute/worker.py",
        "study/remote/client.py",
    ],
    "aiohttp": ["study/remote/client.py"],
    "optuna": [
        "study/execute/search.py",
        "study/execute/export.py",
        "study/design/dimension.py",
        "study/design/space.py",
        "study/findings/importance.py",
    ],
    "mlflow": ["study/execute/record.py", "study/findings/collect.py", "study/results.py", "study/tracking.py"],
    "typer": ["study/cli"],
    "study": ["study"],
}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file) for file in FILES}


def imports(file: Path, at_load: bool = False) -> Iterator[str]:
    """Modules that a file names in imports; with `at_load` only those run when it is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if at_load else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from found
            if not MODULES.issuperset(found):  # `from package import module` is about the module
                yield node.module


@pytest.mark.parametrize("package", CONFINED)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    allowed = CONFINED[package]
    for file in FILES:
        name = file.relative_to(ROOT).as_posix()
        if any(found.split(".")[0] == package for found in imports(file)):
            assert any(name == place or name.startswith(f"{place}/") for place in allowed), name


def test_findings_and_execution_do_not_know_each_other() -> None:
    for file in FILES:
        for here, there in (("findings", "study.execute"), ("execute", "study.findings"), ("design", "study.execute")):
            if file.is_relative_to(ROOT / "study" / here):
                assert not any(found.startswith(there) for found in imports(file)), file


def test_only_the_command_line_knows_its_options_and_prints() -> None:
    def module(name: str) -> str:
        return name if name in MODULES else name.rpartition(".")[0]

    for file in FILES:
        if any(file.is_relative_to(ROOT / "study" / room) for room in ("design", "execute", "findings")):
            assert "`--" not in file.read_text(encoding="utf-8"), file
            assert not {"study.show", "study.answer", "study.options"} & set(map(module, imports(file))), file


def test_imports_go_in_no_circle() -> None:
    graph = {module_of(file): MODULES.intersection(imports(file, at_load=True)) for file in FILES}
    order = list(TopologicalSorter({name: found - {name} for name, found in graph.items()}).static_order())
    assert set(order) == MODULES  # a circle would have raised CycleError


def test_the_top_level_holds_what_it_should() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    assert top <= {"pyproject.toml", "README.md", "LICENSE", "study", "belay", "tests", "configs", "docker-compose.yml"}


def test_the_command_line_loads_nothing_heavy_before_it_is_needed() -> None:
    heavy = "{'torch', 'ray', 'aiohttp', 'mlflow', 'optuna', 'pandas', 'numpy', 'scipy', 'rich'}"
    code = f"import sys, study.cli; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
