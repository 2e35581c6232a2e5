"""The stability limit: training diverges beyond it and not below, and records say how far each setting went."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, cast

import pytest
import recorded
import torch
from torch import Tensor, nn

from belay import Oscillator
from study.design.config import parse_config
from study.design.places import Connections
from study.design.schema import Tag
from study.design.study import Study
from study.design.tasks.quadratic import Quadratic
from study.execute.entries import curvature_tag
from study.execute.inline import back_end
from study.execute.sweep import run
from study.execute.train.alone import train_alone
from study.findings.collect import Records, load
from study.findings.recommend import recommend
from study.findings.stability import curvatures, shares, stability, unknown
from study.insights import stability_text
from study.pictures.base import Unsupported
from study.pictures.limit import limit

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]
RATES = [0.5, 1.95, 2.2, 2.6]  # times the largest curvature, which is 1: the limit is 2 without coupling, 2.46 with


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """A quadratic, on which theory is exact, with and without a pull."""
    config: dict[str, Any] = {"name": "unstable", "task": "quadratic", "steps": 300, "seeds": 2, "evaluations": 1}
    config |= {"objective": {"metric": "average/excess_loss"}, "search": {"sampler": "grid", "baseline": 0}}
    space = {"decay": 0.9, "coupling": {"choice": [0.0, 0.3]}, "lr": {"choice": RATES}}
    storage = f"sqlite:///{tmp_path_factory.mktemp('stability')}/ledger.db"
    study = Study.of(parse_config(config | {"space": space}))
    run(study, Connections.of(storage, recorded.uri()), back_end, lambda _: None, lambda _: None)
    return load("unstable", recorded.uri())


def test_training_diverges_beyond_the_limit_and_not_below_and_a_pull_moves_the_limit(trained: Records) -> None:
    (curvature, _), settings = curvatures(trained), trained.settings
    assert curvature == pytest.approx(1, rel=5e-3)
    pulled = Oscillator(0.9, coupling=0.3).max_stable_step
    assert 2.2 < pulled < 2.6
    asked = settings[settings["coupling"].isin([0, 0.3]) & (settings.index < 2 * len(RATES))]
    limits = asked["coupling"].map({0.0: 2.0, 0.3: pulled})
    assert list(asked["state"] == "diverged") == list(asked["lr"] > limits)
    assert shares(trained, 1.0)[asked.index].to_dict() == pytest.approx((asked["lr"] / limits).to_dict())


def test_both_sides_are_counted_and_the_recommended_setting_stands_below(trained: Records) -> None:
    best = recommend(trained)
    found = stability(trained, best.setting)
    assert found is not None
    assert (found.within.settings, found.within.diverged) == (5, 0)
    assert (found.beyond.settings, found.beyond.diverged) == (3, 3)
    assert math.isnan(found.beyond.best)
    assert found.within.best <= found.within.median
    assert found.chosen < 1
    assert (found.low, found.seeds) == (min(curvatures(trained)), 2)
    assert unknown(trained) == ""
    text = stability_text(found, "")
    assert "3 settings, 3 of them diverged" in text.splitlines()[-1]
    assert "5 settings, 0 of them diverged; objective" in text


def test_a_side_s_objectives_are_told_by_the_best_one_and_the_median() -> None:
    records = recorded.records("tiny")
    measured = records.table["setting"].map({0: 9.0, 1: 1.0, 2: 2.0})
    found = stability(replace(records, table=records.table.assign(**{records.metric: measured})), 1)
    assert found is not None
    assert (found.within.best, found.within.median) == (1, 2)


def test_the_picture_has_each_setting_at_its_share_of_the_limit(trained: Records) -> None:
    data = limit(trained).data["limits"].set_index("setting")["share"]
    assert data.to_dict() == shares(trained, median(curvatures(trained)))[data.index].to_dict()


def test_the_picture_has_those_without_an_objective_at_its_worse_edge(trained: Records) -> None:
    data = limit(trained).data["limits"].set_index("setting")
    assert list(data.index) == list(range(8))  # no riders
    crosses = data[data["objective"].isna()]
    assert list(crosses.index[crosses["state"] == "diverged"]) == list(crosses.index)
    assert crosses["shown"].min() > data["objective"].max()
    assert (crosses["share"] > 1).all()


def test_where_a_loss_has_no_second_derivative_that_is_what_is_said(tmp_path: Path) -> None:
    config: dict[str, Any] = {"name": "slope", "task": "findings.test_stability:Slope", "steps": 2, "seeds": 1}
    config |= {"objective": {"metric": "average/distance"}, "search": {"settings": 1, "baseline": 0}}
    study = Study.of(parse_config(config | {"space": {"decay": 0.9, "lr": 0.1}}))
    connections = Connections.of(f"sqlite:///{tmp_path}/ledger.db", recorded.uri())
    run(study, connections, back_end, lambda _: None, lambda _: None)
    found = load("slope", recorded.uri())
    assert stability(found, 0) is None
    said = (
        "the loss has to be differentiable twice, but that raised RuntimeError: element 0 of tensors does not require"
    )
    assert said in stability_text(None, unknown(found))


def test_a_task_that_may_hang_is_not_tried_in_the_driver_and_what_it_prints_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = {"name": "prints", "task": "findings.test_stability:Prints", "steps": 2, "seeds": 1}
    config |= {"objective": {"metric": "average/distance"}, "search": {"settings": 1, "baseline": 0}}
    config |= {"space": {"decay": 0.9, "lr": 0.1}}
    assert curvature_tag(Study.of(parse_config(config)))[Tag.CURVATURES].startswith("[")
    limited = curvature_tag(Study.of(parse_config(config | {"limits": {"setting_seconds": 9}})))
    assert "`limits.setting_seconds`" in limited[Tag.CURVATURES]
    assert capsys.readouterr() == ("", "")


class Prints(Quadratic):
    """Says that it is built."""

    summary: ClassVar[str] = "prints"

    def build_model(self, seed: int) -> nn.Module:
        print("built")  # noqa: T201
        return super().build_model(seed)


def test_the_curvature_is_that_of_the_weights_that_are_trained_and_no_generator_notices() -> None:
    config = {"name": "drawn", "task": "findings.test_stability:Drawn", "steps": 2, "seeds": 2}
    config |= {"objective": {"metric": "average/distance"}, "search": {"settings": 1, "baseline": 0}}
    study = Study.of(parse_config(config | {"space": {"decay": 0.9, "lr": 0.1}}))
    before = torch.get_rng_state()
    curvature_tag(study)
    assert torch.equal(torch.get_rng_state(), before)
    for seed in (0, 1):
        train_alone(study, [study.setting(0, {"decay": 0.9, "lr": 0.1})], seed)
    built = type(study.task).built  # type: ignore[union-attr] # `Drawn`, as the study has imported it
    assert len(built) == 4
    assert built[:2] == built[2:]
    assert built[0] != built[1]


class Drawn(Quadratic):
    """Starts where torch's own generator says, as torch's layers do."""

    summary: ClassVar[str] = "drawn weights"
    built: ClassVar[list[list[float]]] = []

    def build_model(self, seed: int) -> nn.Module:
        self.built.append(torch.randn(self.dimensions).tolist())
        return nn.ParameterDict({"x": nn.Parameter(torch.tensor(self.built[-1]))})


class Slope(Quadratic):
    """Its gradient does not depend on the weights, and autograd knows no second derivative."""

    summary: ClassVar[str] = "a slope"

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return cast(Tensor, model["x"]).sum()  # type: ignore[index]


@pytest.mark.parametrize("name", ["mixed", "shaped"])  # of another optimizer too; a train function
def test_without_a_curvature_nothing_is_said_of_a_limit_but_why(name: str) -> None:
    records = recorded.records(name)
    assert curvatures(records) == []
    assert stability(records, 0) is None
    assert "plain SGD" in stability_text(None, unknown(records))
    with pytest.raises(Unsupported, match="plain SGD"):
        limit(records)
