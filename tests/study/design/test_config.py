"""YAML to `StudyConfig`: what is accepted, and that everything else is refused in one line that says what to do."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from study.design.config import StudyConfig, load_config, parse_config
from study.design.starter import config_of
from study.design.study import Study
from study.design.tasks import BUILT_IN, find_task
from study.errors import BadInput

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.yaml"


def document(**changes: Any) -> dict[str, Any]:
    """A whole, valid config as plain data, with top-level entries changed; ``...`` leaves one out."""
    config = {
        "name": "digits-damping",
        "task": {"name": "digits", "label_noise": 0.2},
        "steps": 600,
        "seeds": 8,
        "objective": {"metric": "average/val_accuracy", "mode": "max"},
        "space": {
            "decay": {"log_gap": [0.9, 0.9999]},
            "damping": {"uniform": [0.05, 1.0]},
            "coupling": {"choice": [0.0, 0.01, 0.3]},
            "lr": {"log": [0.05, 2.0]},
        },
        "search": {"sampler": "tpe", "settings": 96},
    } | changes
    return {key: value for key, value in config.items() if value is not ...}


def with_space(**changes: Any) -> dict[str, Any]:
    return document(space=document()["space"] | changes)


def with_start(*start: Any, **search: Any) -> dict[str, Any]:
    return document(search={"sampler": "tpe", "settings": 96, "start": list(start)} | search)


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(call: Any, *arguments: Any) -> str:
    """The one line with which a call refuses its input."""
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    return message


def study_of(config: dict[str, Any]) -> Study:
    return Study.of(parse_config(config))


# --- what is accepted -------------------------------------------------------------------------------------------------


def test_a_whole_config_is_read_as_written(tmp_path):
    config = load_config(written(tmp_path, yaml.safe_dump(document())))
    assert (config.name, config.steps, config.seeds) == ("digits-damping", 600, 8)
    assert (config.task.name, config.task.options) == ("digits", {"label_noise": 0.2})
    assert (config.objective.metric, config.objective.mode) == ("average/val_accuracy", "max")
    assert config.space["decay"].log_gap == (0.9, 0.9999)
    assert config.space["coupling"].choice == (0.0, 0.01, 0.3)
    assert (config.search.sampler, config.search.settings) == ("tpe", 96)


def test_what_is_left_out_has_its_default():
    config = parse_config(document(seeds=..., objective={"metric": "average/val_loss"}, search={"settings": 3}))
    assert (config.seeds, config.evaluations, config.objective.mode) == (4, 5, None)
    assert (config.search.sampler, config.search.baseline, config.search.in_flight) == ("tpe", None, 16)
    assert (config.resources.cpus, config.resources.gpus) == (1, 0)
    assert (config.tracking.uri, config.storage.url) == (None, None)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse_config(document()).seeds = 3


def test_a_task_may_be_given_by_its_name_alone():
    assert parse_config(document(task="digits")).task == parse_config(document(task={"name": "digits"})).task


def test_one_value_stands_for_a_choice_of_one():
    config = parse_config(with_space(lr=0.5, optimizer="adam"))
    assert config.space["lr"].choice == (0.5,)
    assert config.space["optimizer"].choice == ("adam",)


@pytest.mark.parametrize("evaluations", [{}, {"evaluations": 7}])
def test_there_are_no_more_evaluations_than_steps(evaluations):
    assert parse_config(document(steps=3, **evaluations)).evaluations == 3


def test_a_number_in_bare_exponent_form_is_a_number(tmp_path):
    config = load_config(
        written(tmp_path, yaml.safe_dump(document()).replace("steps: 600", "steps: 6e2")), ["space.lr=1e-3"]
    )
    assert config.steps == 600
    assert config.space["lr"].choice == (0.001,)


@pytest.mark.parametrize("text", [config_of(), QUICKSTART.read_text()], ids=["starter", "quickstart"])
def test_the_configs_that_the_project_offers_are_valid(tmp_path, text):
    assert Study.of(load_config(written(tmp_path, text))).mode == "max"


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED_BY_CONFIG = {
    "unknown key": (
        document(nmae="x"),
        r"`nmae` is not a key here \(did you mean `name`\?\), got 'x'; remove or rename",
    ),
    "unknown key, nothing near": (
        document(zzz=1),
        r"`zzz` is not a key here \(there are name, task, .*storage\), got 1; remove",
    ),
    "unknown nested key": (
        document(search={"settings": 4, "sampel": "tpe"}),
        r"`search\.sampel` is not a key here \(did you mean `sampler`\?\), got 'tpe'; remove or rename it",
    ),
    "text for a number": (
        document(seeds="many"),
        r"`seeds` must be a whole number, got 'many'; change it \(seeds of each",
    ),
    "fraction for a whole number": (document(seeds=4.5), r"`seeds` must be a whole number, got 4\.5; change it"),
    "rung at the end": (
        document(search={"settings": 4, "rungs": [0.5, 1.0]}),
        r"`search\.rungs\.1` must be below 1, got 1\.0; change it",
    ),
    "a number for rungs": (
        document(search={"settings": 4, "rungs": 0.5}),
        r"`search\.rungs` must be a list, got 0\.5; change it \(shares of the run",
    ),
    "rungs out of order": (
        document(search={"settings": 4, "rungs": [0.5, 0.25]}),
        r"`search` must have rising `rungs` that fall on different steps of a run of \d+, got \[0\.5, 0\.25\]; sort",
    ),
    "rung before the first step": (
        document(steps=10, search={"settings": 4, "rungs": [0.01]}),
        r"`search` must have rising `rungs` .* of a run of 10, got \[0\.01\]; sort them, or leave some out",
    ),
    "odd number of seeds in a race": (
        document(seeds=5, search={"settings": 4, "race": True}),
        r"`search` must have an even number of `seeds`, at least 4, for a `race`, got 5; give e\.g\. 4",
    ),
    "too few seeds for a race": (
        document(seeds=2, search={"settings": 4, "race": True}),
        r"at least 4, for a `race`, got 2; give",
    ),
    "number for a truth value": (
        document(search={"settings": 4, "race": 1}),
        r"`search\.race` must be true or false, got 1; change it \(whether better settings",
    ),
    "truth value for a number": (document(seeds=True), r"`seeds` must not be a truth value, got True; change it"),
    "number for a text": (document(name=2024), r"`name` must be text, got 2024; change it \(the study's name"),
    "list for a mapping": (document(search=[1]), r"`search` must be a mapping, got \[1\]; change it"),
    "nothing for a mapping": (document(search=None), r"`search` must be a mapping, got None; change it"),
    "number for a task": (document(task=5), r"`task` must be a mapping, got 5; change it"),
    "task without a name": (
        document(task={"lr": 1}),
        r"`task\.name` must be given, got nothing; add it \(a built-in task",
    ),
    "missing key": (
        document(steps=...),
        r"`steps` must be given, got nothing; add it \(optimizer steps of each run, at most 10\*\*9\)",
    ),
    "a required key misspelt": (
        {"stepz" if key == "steps" else key: value for key, value in document().items()},
        r"`stepz` is not a key here .*steps.*; remove or rename it\. \(1 more to mend\.\)$",
    ),
    "several faults": (document(steps=0, seeds=0), r"`steps` must be at least 1, got 0; .* \(1 more to mend\.\)$"),
    "no steps": (document(steps=0), r"`steps` must be at least 1, got 0; change it \(optimizer steps"),
    "no seeds": (document(seeds=0), r"`seeds` must be at least 1, got 0; change it"),
    "no evaluations": (document(evaluations=0), r"`evaluations` must be at least 1, got 0; change it"),
    "no CPU": (
        document(resources={"cpus": 0}),
        r"`resources\.cpus` must be above 0, got 0; change it \(CPU cores a pack",
    ),
    "infinite CPUs": (document(resources={"cpus": math.inf}), r"`resources\.cpus` must be finite, got inf; change it"),
    "unknown sampler": (
        document(search={"sampler": "bayes", "settings": 4}),
        r"`search\.sampler` must be 'grid', 'random', 'qmc', 'tpe' or 'gp', got 'bayes'; change it",
    ),
    "unknown mode": (
        document(objective={"metric": "average/val_loss", "mode": "least"}),
        r"`objective\.mode` must be 'max' or 'min', got 'least'; change it",
    ),
    "settings missing": (
        document(search={"sampler": "random"}),
        r"`search` must say how many settings the random sampler tries, got no `settings`; add e\.g\. 64",
    ),
    "no settings": (document(search={"settings": 0}), r"`search\.settings` must be at least 1, got 0; change it"),
    "settings with the grid": (
        document(search={"sampler": "grid", "settings": 4}),
        r"`search` must not have `settings` for the grid, which tries every combination, got 4; remove it",
    ),
    "baseline with the grid": (
        document(search={"sampler": "grid", "baseline": 4}),
        r"`search` must not have a `baseline` for the grid but 0, .*, got 4; remove it",
    ),
    "empty choice": (
        with_space(lr={"choice": []}),
        r"`space\.lr\.choice` must be a list of one or more .*, got \[\]; change",
    ),
    "choice of a mapping": (
        with_space(lr={"choice": [[{"a": 1}]]}),
        r"`space\.lr\.choice` must be a list .*, got \[\[{'a': 1}\]\]; change it",
    ),
    "choice of one text": (
        with_space(lr={"choice": "abc"}),
        r"`space\.lr\.choice` must be a list .*, got 'abc'; change it",
    ),
    "nan in a choice": (
        with_space(lr={"choice": [0.1, math.nan]}),
        r"`space\.lr\.choice` must be .*, got \[0\.1, nan\]",
    ),
    "infinite value": (
        with_space(lr=math.inf),
        r"`space\.lr\.choice` must be .*finite numbers.*, got \[inf\]; change it",
    ),
    "duplicated choice": (
        with_space(lr={"choice": [0.1, 1, 1.0]}),
        r"`space\.lr\.choice` must name each value once, got \[0\.1, 1, 1\.0\]; remove one",
    ),
    "reversed range": (
        with_space(lr={"uniform": [2, 1]}),
        r"`space\.lr\.uniform` must be \[low, high\] with low < high, got \[2\.0, 1\.0\]; change it",
    ),
    "empty range": (
        with_space(width={"integers": [3, 3]}),
        r"`space\.width\.integers` must be .* low < high, got \[3, 3\]",
    ),
    "range of three": (
        with_space(lr={"log": [1, 2, 3]}),
        r"`space\.lr\.log` must be \[low, high\], two finite numbers, got \[1, 2, 3\]; change it",
    ),
    "range of one number": (
        with_space(lr={"log": 1}),
        r"`space\.lr\.log` must be \[low, high\], two .*, got 1; change it",
    ),
    "range of texts": (with_space(lr={"log": ["a", "b"]}), r"`space\.lr\.log` must be .*, got \['a', 'b'\]; change it"),
    "range of truth values": (
        with_space(lr={"log": [False, True]}),
        r"must be .*two finite numbers, got \[False, True\]",
    ),
    "nan in a range": (
        with_space(lr={"uniform": [math.nan, 1]}),
        r"must be \[low, high\], two finite .*, got \[nan, 1\]",
    ),
    "infinite range": (
        with_space(lr={"uniform": [0, math.inf]}),
        r"must be .* two finite numbers, got \[0, inf\]; change",
    ),
    "number beyond floats": (
        with_space(lr={"uniform": [0, 10**400]}),
        r"must be .* two finite numbers, got \[0, 1000.*0\]",
    ),
    "fractional integers": (
        with_space(width={"integers": [1.5, 3]}),
        r"`space\.width\.integers\.0` must be a whole number",
    ),
    "step that misses the end": (
        with_space(batch_size={"integers": [16, 130], "step": 16}),
        r"`space\.batch_size` must end a whole number of steps above its low end, got \[16, 130\] with step 16; end at "
        r"144 or 128\.",
    ),
    "step of nothing": (
        with_space(batch_size={"integers": [16, 128], "step": 0}),
        r"`space\.batch_size\.step` must be at least 1, got 0",
    ),
    "logarithm of integers from 0": (
        with_space(batch_size={"log_integers": [0, 128]}),
        r"`space\.batch_size\.log_integers` must be .* low < high in \(0, inf\), got \[0, 128\]",
    ),
    "log of a negative": (
        with_space(lr={"log": [-1, 1]}),
        r"`space\.lr\.log` must be .* low < high in \(0, inf\), got \[-1",
    ),
    "log_gap of 1": (
        with_space(decay={"log_gap": [0.9, 1]}),
        r"low < high in \(-inf, 1\), got \[0\.9, 1\.0\]; change it",
    ),
    "unknown kind of dimension": (
        with_space(lr={"unifrom": [0, 1]}),
        r"`space\.lr` must be one value or one of \{uniform: \[a, b\]\}, .*, got \{'unifrom': \[0, 1\]\}; change it",
    ),
    "two kinds of dimension": (
        with_space(lr={"uniform": [0, 1], "log": [1, 2]}),
        r"`space\.lr` must be one value or one of .*, got \{.*\}; change it",
    ),
    "nothing for a dimension": (
        with_space(lr=None),
        r"`space\.lr` must be one value or one of .*, got None; change it",
    ),
    "list for the space": (document(space=[1]), r"`space` must be a mapping, got \[1\]; change it"),
    "number for a key": (with_space() | {"space": {1: 0.5}}, r"`space\.1` must be text, got 1; change it"),
    "date among the task's options": (
        document(task=yaml.safe_load("{name: digits, when: 2024-02-03}")),
        r"`task` must hold finite plain data, got when: datetime\.date\(2024, 2, 3\); change it",
    ),
    "no setting as start": (
        with_start({}),
        r"`search\.start` must have values of parameters in each setting, got \{\}",
    ),
    "no mapping as start": (with_start(0.1), r"`search\.start\.0` must be a mapping, got 0\.1; change it"),
    "no value as start": (with_start({"lr": math.nan}), r"`search\.start` must have values .*, got \{'lr': nan\}"),
    "start given twice": (
        with_start({"lr": 1}, {"lr": 1.0}),
        r"`search\.start` must name each setting once, got \{'lr': 1\.0\} twice; remove one",
    ),
    "more starts than settings": (
        with_start({"lr": 0.1}, {"lr": 0.2}, settings=1),
        r"`search` must have at most `settings` as `start`, got 2 of 1; raise `settings`",
    ),
    "start for a grid": (
        with_start({"lr": 0.1}, sampler="grid", settings=None),
        r"`search` must have no known settings for the grid, which tries every combination; remove them",
    ),
    "start and an earlier study": (
        with_start({"lr": 0.1}, start_from="old"),
        r"`search` must have `start` or `start_from`, got both, 'old'; remove one",
    ),
    "infinite task option": (
        document(task={"name": "digits", "lr": math.inf}),
        r"`task` must hold finite plain data, got lr: inf; change it",
    ),
}


@pytest.mark.parametrize(("config", "pattern"), REFUSED_BY_CONFIG.values(), ids=REFUSED_BY_CONFIG)
def test_a_config_is_refused_with_the_rule_the_value_and_the_next_step(config, pattern):
    assert re.search(pattern, refusal(parse_config, config))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "",
        ".hidden",
        "-x",
        'say "hi"',
        "it's",
        "two\nlines",
        "line\n",
        "a b",
        "ä",
        "a" * 101,
        "a" * 10_000,
    ],
    ids=lambda name: repr(name)[:20],
)
def test_a_name_that_could_be_anything_but_a_name_is_refused(name):
    message = refusal(parse_config, document(name=name))
    assert message.startswith("`name` must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$, got ")
    assert message.endswith("; change it (the study's name: letters, digits, `.`, `_`, `-`; at most 100).")


@pytest.mark.parametrize("name", ["a", "9", "Quick.start_2-b", "a" * 100])
def test_a_plain_name_is_accepted(name):
    assert parse_config(document(name=name)).name == name


REFUSED_BY_STUDY = {
    "unknown task": (
        document(task="nope"),
        r"`task\.name` must be one of digits, quadratic, or .*, got 'nope'; see `belay",
    ),
    "unknown metric": (
        document(objective={"metric": "average/accuracy"}),
        r"`objective\.metric` must be one of average/val_accuracy, live/val_accuracy, .*, got 'average/accuracy'; ",
    ),
    "wrong mode": (
        document(objective={"metric": "live/val_loss", "mode": "max"}),
        r"`objective\.mode` must be min for live/val_loss, got 'max'; leave it out",
    ),
    "no decay": (document(space={"lr": 1}), r"`space\.decay` must be given, got nothing; add e\.g\. `decay: \{log_gap"),
    "decay 1": (
        with_space(decay=1),
        r"`space\.decay`: `decay` must be in \[0, 1\), got decay=1\.0\. Change its values",
    ),
    "negative decay": (with_space(decay={"uniform": [-0.1, 0.5]}), r"`space\.decay`: .*, got decay=-0\.1\. Change its"),
    "damping 2.5": (
        with_space(damping=2.5),
        r"`space\.damping`: `damping` must be in \(0, 2\), got damping=2\.5\. Change its values\.",
    ),
    "damping 0": (
        with_space(damping={"uniform": [0, 1]}),
        r"`space\.damping`: .* in \(0, 2\), got damping=0\.0\. Change",
    ),
    "coupling 1": (
        with_space(coupling={"choice": [0, 1]}),
        r"`space\.coupling`: `coupling` must be below 1, got coupling=1\.0; lower it\. Change its values\.",
    ),
    "a number for an infinite damping ratio": (
        document(space={"memory": 0.1, "damping_ratio": math.inf}),
        r"`space\.damping_ratio\.choice` must be .* texts \(inf in a damping ratio\) or .*, got \[inf\]; change",
    ),
    "text for decay": (with_space(decay="high"), r"`space\.decay` must be numbers, got 'high'; change it"),
    "truth value for damping": (with_space(damping=True), r"`space\.damping` must be numbers, got True; change it"),
    "inadmissible corner": (
        with_space(decay={"uniform": [0.0, 0.9]}, damping={"uniform": [0.1, 1.5]}, coupling={"uniform": [0, 0.5]}),
        r"`space`: model and average must stay together .*, got decay=0\.0, damping=1\.5, coupling=0\.5; raise",
    ),
    "grid over a range": (
        with_space() | {"search": {"sampler": "grid"}},
        r"`space\.decay` must be \{choice: \[\.\.\.\]\} for the grid sampler, got \{'log_gap': .*\}; list the values",
    ),
    "no hyperparameter": (
        with_space(lrr=0.1),
        r"`space\.lrr` must be decay, .* mass_ratio or a hyperparameter of the task \(lr, .*\), got 'lrr'; see",
    ),
    "hyperparameter in task and space": (
        document(task={"name": "digits", "lr": 0.3}),
        r"`space\.lr` must not be fixed in `task` too, got 0\.3 there; remove one",
    ),
    "decay in the task": (document(task={"name": "digits", "decay": 0.9}), r"`task\.decay` is not a key here"),
    "low end out of range": (with_space(lr={"uniform": [-1, 2]}), r"`space\.lr` must be above 0, got -1\.0; change it"),
    "high end out of range": (
        with_space(batch_size={"integers": [16, 601]}),
        r"`space\.batch_size` must be at most 600, got 601; change it \(images a step\)",
    ),
    "one choice out of range": (
        with_space(optimizer={"choice": ["sgd", "lion"]}),
        r"`space\.optimizer` must be 'sgd', 'momentum', 'adam' or 'adamw', got 'lion'; change it",
    ),
    "real numbers for a whole one": (
        with_space(width={"uniform": [16, 64]}),
        r"`space\.width` must draw whole numbers, got values like 34\.33; use \{integers: \[a, b\]\}",
    ),
    "log scale for a whole number": (
        with_space(width={"log": [16, 64]}),
        r"`space\.width` must draw whole .* like 27\.17",
    ),
    "gap scale for a whole number": (with_space(depth={"log_gap": [-3, 0]}), r"`space\.depth` must"),
    "unknown task option": (
        document(task={"name": "digits", "label_nosie": 0.1}),
        r"`task\.label_nosie` is not a key here \(did you mean `label_noise`\?\), got 0\.1; remove or rename it",
    ),
    "task option out of range": (
        document(task={"name": "digits", "label_noise": 1}),
        r"`task\.label_noise` must be below 1, got 1; change it \(share of training images",
    ),
    "start outside the space": (
        with_start({"lr": 0.1}, {"decay": 0.99, "lr": 3}),
        r"`search\.start` must have values of the space, got lr 3 where `space\.lr` is log \[0\.05, 2\.0\]; change",
    ),
    "truth value as start": (with_start({"lr": True}), r"got lr True where `space\.lr` is log \[0\.05, 2\.0\]"),
    "start between steps": (
        with_space(width={"integers": [16, 64], "step": 16}) | {"search": {"settings": 9, "start": [{"width": 40}]}},
        r"got width 40 where `space\.width` is integers \[16, 64\], step 16; change",
    ),
    "step beyond the range": (
        with_space(width={"integers": [4, 16], "step": 50}),
        r"got \[4, 16\] with step 50; end at 54\.",
    ),
    "start from itself": (
        document(name="own", search={"settings": 9, "start_from": "own"}),
        r"`search` must `start_from` another study, got 'own' itself; name another",
    ),
    "start among no choices": (
        with_start({"coupling": 0.2}),
        r"got coupling 0\.2 where `space\.coupling` is choice \[",
    ),
    "start of another system of coordinates": (
        with_start({"memory": 0.1}),
        r"`search\.start` must have parameters of the space \(decay, .*, lr\), got 'memory'; add `space\.memory` or",
    ),
    "task option of another type": (
        document(task={"name": "digits", "width": [1]}),
        r"`task\.width` must be a whole number",
    ),
}


@pytest.mark.parametrize(("config", "pattern"), REFUSED_BY_STUDY.values(), ids=REFUSED_BY_STUDY)
def test_a_study_that_cannot_be_run_is_refused_before_anything_is(config, pattern):
    assert re.search(pattern, refusal(study_of, config))


def test_a_misspelt_key_is_refused_with_the_nearest_name():
    assert "(did you mean `objective`?)" in refusal(parse_config, document(objektive=1))


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path):
    assert re.fullmatch(
        r"the config must be a readable file, got .*/none\.yaml: No such file or directory; .* writes one\.",
        refusal(load_config, tmp_path / "none.yaml"),
    )


def test_a_directory_is_no_config(tmp_path):
    assert ": Is a directory; `belay-study init` writes one." in refusal(load_config, tmp_path)


def test_a_binary_file_is_no_config(tmp_path):
    (tmp_path / "weights.pt").write_bytes(bytes(range(256)))
    message = refusal(load_config, tmp_path / "weights.pt")
    assert re.search(
        r"the config must be YAML, got .*weights\.pt: 'utf-8' codec can't decode byte 0x80 .*; mend it\.", message
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [1", "expected ',' or ']', but got '<stream end>' in line 1"),
        ("name: x\n\tsteps: 3", "found character '\\\\t' that cannot start any token in line 2"),
        ("name: *unknown", "found undefined alias 'unknown' in line 1"),
        ("name: x\x00", "special characters are not allowed"),
        ("day: 2024-13-45", "month must be in 1..12"),
        ("name: a\nsteps: 3\nname: b", "`name` is given twice, the second time in line 3"),
        ("space: {lr: 1, lr: 2}", "`lr` is given twice, the second time in line 1"),
        ("[" * 600 + "]" * 600, "it is nested too deeply"),
        ("space: &a {decay: *a}", "it is nested too deeply"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_not_yaml_is_refused_with_its_place(tmp_path, text, reason):
    message = refusal(load_config, written(tmp_path, text))
    assert message.startswith("the config must be YAML, got ")
    assert reason.replace("\\\\", "\\") in message
    assert message.endswith("; mend it.")


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 18))
    assert "it holds more than 100000 values; mend it." in refusal(load_config, written(tmp_path, bomb))


def test_an_alias_may_stand_for_a_value_in_several_places(tmp_path):
    text = yaml.safe_dump(with_space(lr="LR", label_noise="NOISE") | {"task": "digits"})
    config = load_config(written(tmp_path, text.replace("NOISE", "&few {choice: [0.1, 0.3]}").replace("LR", "*few")))
    assert config.space["lr"].choice == config.space["label_noise"].choice == (0.1, 0.3)


def test_python_objects_in_yaml_are_refused_and_never_made(tmp_path):
    canary = tmp_path / "canary"
    tag = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]"
    message = refusal(load_config, written(tmp_path, f"name: {tag}\n"))
    assert "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply" in message
    assert "could not determine a constructor" in refusal(
        load_config, written(tmp_path, yaml.safe_dump(document())), [f"name={tag}"]
    )
    assert not canary.exists()


@pytest.mark.parametrize(
    ("text", "held"),
    [("", "nothing"), ("# nothing yet\n", "nothing"), ("- name: x\n", "[{'name': 'x'}]"), ("42", "42")],
)
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, text, held):
    message = refusal(load_config, written(tmp_path, text))
    assert re.search(
        rf"must be a YAML mapping, got .*study\.yaml holding {re.escape(held)}; `belay-study init`", message
    )


# --- --set ------------------------------------------------------------------------------------------------------------


def test_overrides_are_applied_in_order(tmp_path):
    path = written(tmp_path, yaml.safe_dump(document()))
    config = load_config(
        path, ["seeds=16", "seeds=2", "search.sampler=random", "space.lr={choice: [1, 2]}", "name='a=b'", "name=ab"]
    )
    assert (config.seeds, config.search.sampler, config.search.settings) == (2, "random", 96)
    assert config.space["lr"].choice == (1, 2)
    assert config.name == "ab"


def test_an_override_makes_the_mappings_on_its_way(tmp_path):
    path = written(tmp_path, yaml.safe_dump(document()))
    assert load_config(path, ["resources.cpus=2", "tracking.uri=http://here"]).tracking.uri == "http://here"


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("seeds", r"`override` must be KEY=VALUE with a dotted key, as in .*, got 'seeds'; change it"),
        ("=3", r"`override` must be KEY=VALUE .*, got '=3'; change it"),
        ("search..seed=3", r"`override` must be KEY=VALUE .*, got 'search\.\.seed=3'; change it"),
        ("seeds=[1", r"`override` must give a YAML value, got 'seeds=\[1': expected .*; mend it"),
        ("seeds=2024-13-45", r"`override` must give a YAML value, .*: month must be in 1\.\.12; mend it"),
        ("name.first=x", r"`override` must name a key inside a mapping, got 'name\.first=x'; set `name` as a whole"),
        ("name.first.letter=x", r"`override` must name a key inside a mapping, got .*; set `name\.first` as a whole"),
        ("seeds=few", r"`seeds` must be a whole number, got 'few'; change it"),
        ("seedz=3", r"`seedz` is not a key here \(did you mean `seeds`\?\), got 3; remove or rename it"),
        ("search.sampler.kind=tpe", r"`override` must name a key inside a mapping"),
        ("space.lr.uniform=[1, 2]", r"`space\.lr` must be one value or one of"),
        ("space.lr=", r"`space\.lr` must be one value or one of .*, got None; change it"),
        ("x" * 10_000, r"`override` must be KEY=VALUE .*, got 'x+\.\.\.x+'; change it"),
    ],
    ids=lambda value: value[:20],
)
def test_a_bad_override_is_refused(tmp_path, override, pattern):
    assert re.search(pattern, refusal(load_config, written(tmp_path, yaml.safe_dump(document())), [override]))


# --- numbers without end ----------------------------------------------------------------------------------------------

ENDLESS = {
    **{key: document(**{key: 10**12}) for key in ("steps", "seeds", "evaluations")},
    **{f"search.{key}": document(search={"settings": 3, key: 10**12}) for key in ("settings", "baseline", "in_flight")},
    "search.seed": document(search={"settings": 3, "seed": 10**30}),
    **{f"resources.{key}": document(resources={key: 1e12}) for key in ("cpus", "gpus")},
    "limits.setting_seconds": document(limits={"setting_seconds": 1e12}),
    **{f"task.{key}": document(task={"name": "digits", key: 10**12}) for key in ("width", "depth", "batch_size")},
    "space.width.integers.1": with_space(width={"integers": [1, 10**12]}),
    "space.noise.uniform.1": with_space(noise={"uniform": [0, 1e200]}),
    "space.noise.log.1": with_space(noise={"log": [1, 1e200]}),
}


@pytest.mark.parametrize("key", ENDLESS)
def test_a_number_beyond_its_bound_is_refused_with_the_bound_and_the_number(key):
    assert re.search(
        rf"^`{re.escape(key)}` must be at most \d\S*, got 1\S*; change it", refusal(study_of, ENDLESS[key])
    )


def test_every_number_of_a_config_has_an_upper_bound_in_the_json_schema():
    def unbounded(schema: Any, place: str) -> list[str]:
        if isinstance(schema, list):
            return [name for entry in schema for name in unbounded(entry, place)]
        if not isinstance(schema, dict):
            return []
        bare = schema.get("type") in ("integer", "number") and not {"maximum", "exclusiveMaximum"} & schema.keys()
        return [place] * bare + [name for key, entry in schema.items() for name in unbounded(entry, f"{place}/{key}")]

    found = unbounded(StudyConfig.model_json_schema(), "")
    scalar = re.compile(  # values of a choice, and conditions on them, are checked by themselves
        r"/\$defs/Choice/properties/choice/items/anyOf|/properties/space/additionalProperties/anyOf|"
        r"/\$defs/\w+/properties/when/additionalProperties/anyOf"
    )
    assert [place for place in found if not scalar.fullmatch(place)] == []


@pytest.mark.parametrize("task", BUILT_IN)
def test_every_number_of_a_built_in_task_has_an_upper_bound(task):
    for name, entry in find_task(task).model_json_schema()["properties"].items():
        if entry["type"] in ("integer", "number"):
            assert {"maximum", "exclusiveMaximum"} & entry.keys(), name


@pytest.mark.parametrize("value", [10**101, -(10**101), 1e200])
def test_a_choice_of_a_number_beyond_what_samplers_take_is_refused(value):
    pattern = r"`space\.lr\.choice` must be a list of one or more finite numbers up to 1e\+100 in size, .*; change it\."
    assert re.search(pattern, refusal(parse_config, with_space(lr={"choice": [1, value]})))


def grid_of(*counts: int) -> dict[str, Any]:
    names = ("lr", "label_noise", "decay", "damping")
    space = {name: {"choice": [i / count for i in range(1, count)]} for name, count in zip(names, counts, strict=False)}
    return document(task="digits", space={"decay": 0.9} | space, search={"sampler": "grid"})


def test_a_grid_of_too_many_combinations_is_refused_with_their_number_before_it_is_made():
    assert refusal(study_of, grid_of(2001, 1001, 1001)) == (
        "`space` must have at most 100000 combinations for the grid sampler, those of plain EMA included, got "
        "2000000000; list fewer values or take another sampler."
    )


def test_the_combinations_of_plain_ema_count_too():
    message = refusal(study_of, grid_of(101, 101, 10, 2))
    assert re.search(r"got 180000;", message)  # 100 x 100 x 9 with damping 1/2, and as many with damping 1
    study_of(grid_of(101, 101, 10))


def test_a_range_of_whole_numbers_that_the_gp_sampler_cannot_list_is_refused():
    space = document()["space"] | {"width": {"integers": [1, 10**9]}}
    own = document(task="own_tasks:train", objective={"metric": "average/x", "mode": "max"}, space=space)
    study_of(own | {"search": {"sampler": "tpe", "settings": 4}})
    assert refusal(study_of, own | {"search": {"sampler": "gp", "settings": 4}}) == (
        "`space.width` must have at most 1000000 values for the gp sampler, got 1000000000; narrow it, take {uniform: "
        "[a, b]}, or take another sampler."
    )


def test_a_space_of_too_many_parameters_is_refused():
    message = refusal(parse_config, document(space={f"p{number}": 1 for number in range(101)}))
    assert message.startswith("`space` must have at most 100 entries, got {")


def test_a_task_entry_that_mlflow_would_cut_is_refused():
    message = refusal(parse_config, document(task={"name": "digits", "text": "x" * 8000}))
    assert re.fullmatch(
        r"`task` must be at most 8000 characters long as JSON, got 80\d\d; name a file instead\.", message
    )


# --- the question -----------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "resources": {"cpus": 2, "gpus": 0.5},
    "limits": {"setting_seconds": 600},
    "tracking": {"uri": "http://mlflow:5000"},
    "storage": {"url": "postgresql://u:p@host/db"},
}
OTHERWISE = {
    "name": "other",
    "task": {"name": "digits", "label_noise": 0.3},
    "steps": 601,
    "seeds": 9,
    "evaluations": 4,
    "objective": {"metric": "average/val_loss", "mode": "min"},
    "space": document()["space"] | {"lr": {"log": [0.05, 2.1]}},
    "search": {"sampler": "tpe", "settings": 97},
    "confirm": {"finalists": 5, "seeds": 8},
}


def test_the_question_is_a_short_stable_hash():
    asked = parse_config(document()).question
    assert re.fullmatch(r"[0-9a-f]{16}", asked)
    assert parse_config(copy.deepcopy(document())).question == asked


@pytest.mark.parametrize("key", ELSEWHERE)
def test_the_question_does_not_depend_on_where_and_how_it_runs(key):
    assert parse_config(document(**{key: ELSEWHERE[key]})).question == parse_config(document()).question


@pytest.mark.parametrize("key", OTHERWISE)
def test_the_question_changes_with_everything_else(key):
    assert parse_config(document(**{key: OTHERWISE[key]})).question != parse_config(document()).question


@pytest.mark.parametrize("search", [{"seed": 1}, {"in_flight": 4}, {"baseline": 3}, {"sampler": "gp"}])
def test_the_question_changes_with_every_part_of_the_search(search):
    changed = document(search={"sampler": "tpe", "settings": 96} | search)
    assert parse_config(changed).question != parse_config(document()).question


def test_every_entry_of_the_config_is_either_where_it_runs_or_part_of_the_question():
    assert ELSEWHERE.keys() | OTHERWISE.keys() == StudyConfig.model_fields.keys()


def test_a_config_that_was_stored_asks_the_same_question():
    config = parse_config(with_space(lr=0.1, optimizer={"choice": ["sgd", "adam"]}, width={"integers": [8, 64]}))
    assert parse_config(config.model_dump(mode="json")) == config
    assert parse_config(config.model_dump(mode="json")).question == config.question


# --- the JSON schema --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = StudyConfig.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "config",
    [
        yaml.safe_load(QUICKSTART.read_text()),
        yaml.safe_load(config_of()),
        document(),
        document(task="digits"),
        with_space(lr=0.1, optimizer="adam", width={"integers": [8, 16]}),
    ],
    ids=["quickstart", "starter", "whole", "task by name", "single values"],
)
def test_the_json_schema_accepts_what_the_config_accepts(validator, config):
    validator.validate(config)
    parse_config(config)


@pytest.mark.parametrize(
    "config",
    [
        document(nmae=1),
        document(steps=0),
        document(steps=...),
        document(name="a/b"),
        document(search={"sampler": "bayes"}),
        with_space(lr={"choice": []}),
        with_space(lr={"unifrom": [0, 1]}),
        with_space(lr={"log": [1, 2, 3]}),
    ],
)
def test_the_json_schema_refuses_what_the_config_refuses(validator, config):
    assert not validator.is_valid(config)
    refusal(parse_config, config)


def test_every_entry_of_the_json_schema_is_described(validator):
    def undescribed(schema: dict[str, Any]) -> list[str]:
        return [
            name
            for name, entry in schema.get("properties", {}).items()
            if not {"description", "$ref", "anyOf"} & entry.keys()
        ]

    assert undescribed(validator.schema) == []
    for name in ("TaskEntry", "Objective", "Search", "Resources", "Tracking", "Storage"):
        assert undescribed(validator.schema["$defs"][name]) == []


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"tracking": {"uri": "http://h", "password": "PW"}}, "tracking.password"),
        ({"storage": {"url": ["me:PW@h/db"]}}, "storage.url"),
        ({"storage": "host=h password=PW"}, "storage"),
        ({"storage": {"me:PW@h/db": 1}}, "storage.***"),
        ({"password": "PW"}, "password"),
        ({"trackng": {"password": "PW"}}, "trackng"),
        ({"search": {"sampler": "tpe", "settings": 4, "API_TOKEN": "PW"}}, "search.API_TOKEN"),
    ],
)
def test_what_may_be_a_password_is_not_shown(changes, key):
    message = refusal(parse_config, document(**changes))
    assert message.startswith(f"`{key}` ")
    assert "***" in message
    assert "PW" not in message


@pytest.mark.parametrize("key", OTHERWISE)
def test_only_what_may_grow_leaves_the_identity_as_it_is(key):
    changed = parse_config(document(**{key: OTHERWISE[key]})).identity != parse_config(document()).identity
    assert changed == (key not in ("seeds", "search", "confirm"))


def test_settings_and_plain_emas_may_grow_and_how_they_are_searched_may_not():
    search = {"sampler": "tpe", "settings": 8, "baseline": 2, "in_flight": 4, "seed": 1}
    one = parse_config(document(search=search)).identity
    for key, other in {"settings": 9, "baseline": 3}.items():
        assert parse_config(document(search=search | {key: other})).identity == one
    for key, other in {"sampler": "random", "in_flight": 6, "seed": 2}.items():
        assert parse_config(document(search=search | {key: other})).identity != one


@pytest.mark.parametrize(("name", "default", "other"), [
    ("riders", "auto", "none"),
    ("race", False, True),
    ("rungs", [], [0.5]),
    ("start", [], [{"lr": 0.1}]),
    ("start_from", None, "old"),
])  # fmt: skip
def test_what_came_later_leaves_the_identity_that_a_study_had_before_where_it_is_not_given(name, default, other):
    search = {"sampler": "tpe", "settings": 8, "baseline": 2}
    one = parse_config(document(seeds=4, search=search)).identity
    assert one == parse_config(document(seeds=4, search=search | {name: default})).identity
    assert one != parse_config(document(seeds=4, search=search | {name: other})).identity


def test_in_a_race_settings_get_their_seeds_in_three_stages_and_else_at_once():
    search = {"settings": 8}
    assert parse_config(document(seeds=4, search=search)).stages == (range(4),)
    raced = parse_config(document(seeds=4, search=search | {"race": True}))
    assert raced.stages == (range(2), range(2, 6), range(6, 14))
    assert (raced.first_seeds, parse_config(document(seeds=4, search=search)).first_seeds) == (2, 4)
