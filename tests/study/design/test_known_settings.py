"""Known settings as a sampler would have drawn them."""

from __future__ import annotations

from study.design.dimension import Choice, Integers, Log, LogGap, Uniform
from study.design.start import known


def test_a_known_value_is_of_the_type_and_name_that_a_sampler_would_have_drawn() -> None:
    space = {"decay": LogGap(log_gap=(0.5, 0.99)), "lr": Log(log=(0.1, 10)), "noise": Uniform(uniform=(0, 2))}
    space |= {"width": Integers(integers=(1, 8)), "clip": Choice(choice=(None, 1.0)), "tag": Choice(choice=("a", "b"))}
    drawn = known({"clip": 1, "decay": 0.75, "lr": 1, "noise": 0, "width": 4}, space)
    assert repr(drawn) == "{'1 - decay': 0.25, 'lr': 1.0, 'noise': 0.0, 'width': 4, 'clip': 1.0}"
