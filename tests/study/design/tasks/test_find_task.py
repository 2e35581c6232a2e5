"""Tasks by name: the built-in ones, one's own by import path, and everything that can be wrong with those."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest
import yaml

from study.design.tasks import BUILT_IN, catalogue, find_task, imported, make_task
from study.design.tasks.base import Task
from study.design.tasks.digits import Digits
from study.design.tasks.quadratic import Quadratic
from study.errors import BadInput


@pytest.fixture(autouse=True)
def _own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def refusal(name: str) -> str:
    with pytest.raises(BadInput) as caught:
        find_task(name)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(("name", "task"), [("digits", Digits), ("quadratic", Quadratic)])
def test_a_built_in_task_is_found_by_its_name(name, task):
    assert find_task(name) is task
    assert find_task(BUILT_IN[name]) is task


def test_a_built_in_task_does_not_make_python_look_into_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    find_task("digits")
    assert sys.path == before


def test_a_task_of_one_s_own_is_found_by_its_import_path():
    found = find_task("own_tasks:Whole")
    assert issubclass(found, Task)
    assert make_task("own_tasks:Whole", {"lr": 0.5}, {}).lr == 0.5


@pytest.mark.parametrize("name", ["train", "more_with_defaults"])
def test_a_train_function_is_found_by_its_import_path(name):
    found = find_task(f"own_tasks:{name}")
    assert found.__name__ == name
    assert make_task(f"own_tasks:{name}", {"anything": 1}, {}).function is found


def test_a_module_beside_the_config_is_found(tmp_path, monkeypatch):
    (tmp_path / "beside_config.py").write_text("def train(setting, seed, report): ...\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert find_task("beside_config:train").__module__ == "beside_config"
    assert sys.path[-1] == str(tmp_path)  # behind the packages, which a file beside the config must not hide
    assert sys.path.count(str(tmp_path)) == 1
    find_task("beside_config:train")
    assert sys.path.count(str(tmp_path)) == 1


def test_what_the_search_draws_stands_in_for_hyperparameters_without_a_default_alone():
    task = make_task("own_tasks:Whole", {"sizes": [1]}, {"lr": 0.25, "width": 3, "unknown": 9})
    assert (task.lr, task.width, task.sizes) == (0.25, 8, (1,))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (
            "nope",
            r"`task\.name` must be one of digits, quadratic, or `package\.module:Task`, got 'nope'; see `belay-study",
        ),
        ("", r"`task\.name` must be one of .*, got ''; see"),
        (
            "no_such_module:Task",
            r"must be importable from /.*, got 'no_such_module:Task': ModuleNotFoundError: No module .*; mend",
        ),
        (
            "own_tasks:nothing",
            r"must be importable .*: AttributeError: module 'own_tasks' has no attribute 'nothing'; mend it",
        ),
        ("own_tasks:", r"must be importable from .*, got 'own_tasks:': AttributeError"),
        (":train", r"must be importable from .*, got ':train': ValueError: Empty module name; mend it"),
        ("..tasks:train", r"must be importable from .*, got '\.\.tasks:train': TypeError: .* relative import"),
        (
            "own_tasks:number",
            r"must be a subclass of study\.design\.tasks\.base\.Task or a function, got .*: 3; name another",
        ),
        ("own_tasks:Path", r"must be importable"),
        (
            "pathlib:Path",
            r"must be a subclass of .*Task or a function, got 'pathlib:Path': <class 'pathlib\.Path'>; name another",
        ),
        ("own_tasks:Task", r"must be a whole Task, got 'own_tasks:Task' without batches, build_model, .*; define them"),
        (
            "own_tasks:HalfDone",
            r"must be a whole Task, got 'own_tasks:HalfDone' without batches, data_digest, describe_optimizer, .*loss;",
        ),
        (
            "own_tasks:NoMetrics",
            r"`metrics` of own_tasks:NoMetrics must map each metric to max or min, got \{\}; mend the class",
        ),
        (
            "own_tasks:BadDirection",
            r"must map each metric to max or min, got \{'val_loss': 'minimise'\}; mend the class",
        ),
        (
            "own_tasks:BadMetric",
            r"`metrics` of own_tasks:BadMetric must be named by letters, .*, got 'error %'; rename it",
        ),
        (
            "own_tasks:OwnDecay",
            r"must not have a name of the study's own, got 'decay' of own_tasks:OwnDecay; rename it",
        ),
        ("own_tasks:OwnSeed", r"must not have a name of the study's own, got 'seed' of own_tasks:OwnSeed; rename it"),
        (
            "own_tasks:NamedLikeAPart",
            r"must not be named like a part of Task, got 'values' of own_tasks:NamedLikeAPart; rename it",
        ),
        (
            "own_tasks:StacksNothing",
            r"`stackable` of own_tasks:StacksNothing must name hyperparameters, got 'lrr'; mend the class",
        ),
        (
            "own_tasks:StacksAList",
            r"`stackable` of own_tasks:StacksAList must be a set of names, got \['lr'\]; mend the class",
        ),
        (
            "own_tasks:too_few",
            r"must be a function of \(setting, seed, report\), got 'own_tasks:too_few': too many positional",
        ),
    ],
)
def test_what_is_no_task_is_refused(name, pattern):
    assert re.search(pattern, refusal(name))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def train(:\n", "SyntaxError: invalid syntax"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)\n", "SystemExit: 0"),
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_with_its_own_words(tmp_path, monkeypatch, text, reason):
    (tmp_path / "broken_task.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reason in refusal("broken_task:train")
    sys.modules.pop("broken_task", None)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"lr": 0.5, "width": 65}, r"`task\.width` must be at most 64, got 65; change it\."),
        ({"lr": float("nan")}, r"`task\.lr` must be finite, got nan; change it\."),
        (
            {"lr": 0.5, "widht": 3},
            r"`task\.widht` is not a key here \(did you mean `width`\?\), got 3; remove or rename it\.",
        ),
        ({}, r"`task\.lr` must be given, got nothing; add it\."),
        ({"lr": 9, "width": 8}, r"`task`: lr times width must stay below 64; change it\."),
        ({"lr": 0.5, "sizes": [1, "a"]}, r"`task\.sizes\.1` must be a whole number, got 'a'; change it\."),
        ({"lr": 0.5, "sizes": [1, 2, [3]]}, r"`task\.sizes\.2` must be a whole number, got \[3\]; change it\."),
        ({"lr": 0.5, "sizes": {1: 2}}, r"`task\.sizes` must be a list, got \{1: 2\}; change it\."),
    ],
)
def test_hyperparameters_that_a_task_refuses_are_refused_with_their_names(options, pattern):
    with pytest.raises(BadInput, match=pattern):
        make_task("own_tasks:Whole", options, {})


def test_a_key_of_a_part_of_a_hyperparameter_is_refused_with_its_place():
    with pytest.raises(BadInput, match=r"^`task\.layers\.0\.unit` is not a key here, got 3; remove or rename it\.$"):
        make_task("own_tasks:Layered", {"lr": 0.5, "layers": [{"unit": 3}]}, {})


def test_a_place_in_nested_lists_keeps_all_of_its_numbers():
    with pytest.raises(BadInput, match=r"^`task\.matrix\.1\.1` must be a whole number, got 'x'; change it\.$"):
        make_task("own_tasks:Layered", {"lr": 0.5, "matrix": [[0, 0], [0, "x"]]}, {})


def test_the_catalogue_describes_every_built_in_task():
    listed = {entry["name"]: entry for entry in catalogue()}
    assert list(listed) == ["digits", "quadratic"]
    assert listed["digits"]["metrics"] == {"val_accuracy": "max", "val_loss": "min"}
    assert {"name": "width", "default": 64, "description": "units in each hidden layer, at most 4,096"} in listed[
        "digits"
    ]["hyperparameters"]
    for entry in listed.values():
        assert entry["summary"]
        assert all(field["description"] for field in entry["hyperparameters"])


def test_a_module_beside_the_config_that_another_one_hides_is_refused_with_both(tmp_path, monkeypatch):
    (tmp_path / "yaml.py").write_text("def train(setting, seed, report): ...\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert refusal("yaml:train") == (
        f"a file must not be named like a module that the study imports, got {tmp_path}/yaml.py and {yaml.__file__}; "
        "rename the former."
    )
    assert find_task("digits") is Digits  # which needs no file of the folder


def test_the_modules_that_are_loaded_are_listed_also_while_a_thread_imports_more(monkeypatch):
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    ended = threading.Event()

    def importing():
        while not ended.is_set():
            sys.modules.update({f"of_a_test_{number}": sys for number in range(100)})
            for number in range(100):
                del sys.modules[f"of_a_test_{number}"]

    thread = threading.Thread(target=importing)
    thread.start()
    try:
        assert all("study" in imported() for _ in range(300))
    finally:
        ended.set()
        thread.join()


def test_a_module_that_goes_elsewhere_as_it_is_imported_leaves_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "wandering_tasks.py").write_text("import os\nos.chdir('/')\ndef train(setting, seed, report): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    find_task("wandering_tasks:train")
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("line", ["async def train(setting, seed, report): ...", "def train(*given):\n    yield 1"])
def test_a_function_that_would_not_train_when_it_is_called_is_refused(tmp_path, monkeypatch, line):
    (tmp_path / "idle_tasks.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "idle_tasks", raising=False)
    with pytest.raises(
        BadInput, match="must be a function that trains when it is called, got 'idle_tasks:train', which"
    ):
        find_task("idle_tasks:train")
