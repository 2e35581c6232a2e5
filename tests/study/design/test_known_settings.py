"""Known settings as a sampler would have drawn them."""

from __future__ import annotations

import pytest

from study.design.dimension import Choice, Integers, Log, LogGap, LogIntegers, SteppedIntegers, Uniform
from study.design.schema import Value
from study.design.start import check_start, known
from study.errors import BadInput

WHOLE = {
    "width": Integers(integers=(1, 8)),
    "depth": SteppedIntegers(integers=(2, 8), step=2),
    "batch": LogIntegers(log_integers=(1, 512)),
}


def test_a_known_value_is_of_the_type_and_name_that_a_sampler_would_have_drawn() -> None:
    space = {"decay": LogGap(log_gap=(0.5, 0.99)), "lr": Log(log=(0.1, 10)), "noise": Uniform(uniform=(0, 2))}
    space |= {"width": Integers(integers=(1, 8)), "clip": Choice(choice=(None, 1.0)), "tag": Choice(choice=("a", "b"))}
    drawn = known({"clip": 1, "decay": 0.75, "lr": 1, "noise": 0, "width": 4}, space)
    assert repr(drawn) == "{'1 - decay': 0.25, 'lr': 1.0, 'noise': 0.0, 'width': 4, 'clip': 1.0}"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    start = {"width": 8.0, "depth": 4.0, "batch": 64.0}
    check_start([start], WHOLE)
    assert repr(known(start, WHOLE)) == "{'width': 8, 'depth': 4, 'batch': 64}"


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [7.5, 1000.0, True, "8", float("inf"), 1e300])
def test_what_is_no_whole_number_of_the_space_is_refused(name: str, value: Value) -> None:
    with pytest.raises(BadInput, match=rf"`search\.start` must have values of the space, got {name} "):
        check_start([{name: value}], WHOLE)
