"""A study that begins with the best settings of an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recorded import STUDIES, WARNINGS, records, uri
from studies import CommandLine, small, write

from study.design.config import parse_config
from study.design.places import Connections
from study.design.schema import NATURAL
from study.design.study import Study
from study.earlier import begun
from study.errors import BadInput
from study.execute.ledger import Ledger
from study.execute.tables import opened
from study.findings.compare import ranking

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]


ACCURACY = {"metric": "average/val_accuracy"}


def study_of(earlier: str, top: int = 5, **changes: Any) -> Study:
    search = {"sampler": "random", "settings": 20, "start_from": {"study": earlier, "top": top}}
    return Study.of(parse_config(small(search=search) | changes))


def begin(folder: Path, earlier: str, **changes: Any) -> tuple[list[dict[str, Any]], str]:
    """What a study starts from, and what was said of it."""
    if earlier in STUDIES:
        records(earlier)
    lines: list[str] = []
    found = begun(study_of(earlier, **changes), Connections(f"sqlite:///{folder}/ledger.db", uri()), lines.append)
    assert found.config.search.start_from is None
    return [*found.config.search.start], "\n".join(lines)


def test_the_best_settings_are_taken_and_moved_into_the_space_where_they_are_outside(tmp_path):
    best = ranking(records("mixed")).head(3)
    space = {"decay": {"log_gap": [0.8, 0.955]}, "coupling": {"choice": [0.0, 0.09]}, "lr": {"log": [0.05, 1.5]}}
    start, said = begin(tmp_path, "mixed", top=3, space=space | {"noise": {"uniform": [0, 1]}})
    assert best[["decay", "coupling", "lr"]].to_numpy().tolist() == [[0.95, 0.1, 1], [0.96, 0.1, 2], [0.99, 0, 1]]
    assert start == [
        {"decay": 0.95, "coupling": 0.09, "lr": 1.0},
        {"decay": 0.955, "coupling": 0.09, "lr": 1.5},
        {"decay": 0.955, "coupling": 0.0, "lr": 1.0},
    ]
    assert said == (
        "small starts from 3 of the best settings of mixed; moved to the nearest value of this space: coupling (of 2), "
        "decay (of 2), lr (of 1)"
    )


def test_natural_coordinates_are_carried_over_to_runs_of_another_length(tmp_path):
    best = ranking(records("mixed")).head(4)[[*NATURAL]]
    space = {"memory": {"log": [0.003, 0.5]}, "mass_ratio": {"uniform": [0, 3]}}
    start, said = begin(tmp_path, "mixed", top=4, steps=1200, space=space | {"damping_ratio": {"log": [0.5, 30]}})
    assert [known["damping_ratio"] for known in start] == best["damping_ratio"].clip(upper=30).tolist()
    for name in ("memory", "mass_ratio"):
        assert [known[name] for known in start] == best[name].tolist()
    assert said == (
        "small starts from 4 of the best settings of mixed; moved to the nearest value of this space: damping_ratio "
        f"(of {sum(best['damping_ratio'] > 30)})"
    )
    start, said = begin(tmp_path, "mixed", top=4, steps=1200, space=space | {"damping_ratio": {"choice": [1, "inf"]}})
    assert {known["damping_ratio"] for known in start} == {1, "inf"}


@pytest.mark.parametrize(("power", "nearest"), [
    ({"integers": [1, 3]}, [1, 1, 2]),
    ({"log_integers": [1, 3]}, [1, 1, 2]),
    ({"integers": [1, 9], "step": 4}, [1, 1, 1]),
])  # fmt: skip
def test_values_that_are_no_numbers_are_left_to_the_sampler_where_the_space_has_others(power, nearest, tmp_path):
    changes = {"task": "tasks_of_tests:parabola", "objective": {"metric": "average/score", "mode": "max"}}
    space = {
        "decay": 0.9,
        "layers": {"choice": [None, [32]]},
        "tag": {"choice": ["a", "b"]},
        "power": power,
    }
    start, _ = begin(tmp_path, "shaped", **changes, space=space)
    assert start == [
        {"decay": 0.9, "power": nearest[0]},
        {"decay": 0.9, "layers": [32], "power": nearest[1]},
        {"decay": 0.9, "tag": "a", "power": nearest[2]},
    ]


def test_a_value_is_left_out_where_its_conditions_do_not_hold(tmp_path):
    space = {
        "decay": {"log_gap": [0.8, 0.999]},
        "optimizer": {"choice": ["sgd", "adam"]},
        "lr": {"log": [0.05, 0.9], "when": {"optimizer": "adam"}},
    }
    start, said = begin(tmp_path, "mixed", top=9, task="digits", space=space, objective=ACCURACY)
    assert [known["optimizer"] for known in start] == ["sgd", "sgd", "sgd", "adam", "sgd"]
    assert [known.get("lr") for known in start] == [None, None, None, 0.9, None]
    assert said.endswith("space: lr (of 1)")


@pytest.mark.parametrize(("earlier", "said"), [
    ("nobody", "the study must exist in "),
    ("all-failed", "`search.start_from` must name a study with complete settings and parameters of this space, got "),
])  # fmt: skip
def test_an_earlier_study_that_says_nothing_is_refused_in_one_line(earlier, said, tmp_path):
    with pytest.raises(BadInput) as caught:
        begin(tmp_path, earlier)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_study_goes_on_with_what_it_was_begun_with_whatever_the_earlier_one_has_found_since(tmp_path):
    study = study_of("mixed", top=2)
    connections, lines = Connections(f"sqlite:///{tmp_path}/ledger.db", uri()), list[str]()
    first = begun(study, connections, lines.append)
    fewer = study_of("mixed", top=1)  # as if the second one had come to be worse
    with opened(connections.storage, making=True) as engine:
        Ledger(engine, "small", connections.storage).begin(first.config)
    again = begun(fewer, connections, lines.append)
    assert (again.config, lines[1]) == (first.config, "small goes on with the 2 known settings that it was begun with")
    assert begun(again, connections, lines.append) is again


def test_a_run_says_what_it_starts_from(belay_study: CommandLine, tmp_path: Path) -> None:
    records("mixed")
    config = write(tmp_path / "new.yaml", search={"sampler": "qmc", "settings": 3, "start_from": "mixed"})
    planned = belay_study("run", config, "--dry-run", "--tracking", uri())
    assert (planned.code, planned.err.splitlines()[0]) == (0, "small starts from 3 of the best settings of mixed")
    assert "start       3 known settings first\n" in planned.out
