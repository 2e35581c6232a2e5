"""How a study is laid out: searches, their order, and packs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from studies import small

from study.design.config import parse_config
from study.design.schema import Setting
from study.design.study import Study
from study.execute.plan import Pack, pack, plan


def test_a_search_tries_no_more_settings_than_its_space_holds() -> None:
    space = {"decay": 0.9, "damping": {"uniform": [0.1, 1.0]}, "lr": {"choice": [0.1, 0.2]}}
    laid_out = plan(Study.of(parse_config(small(space=space))))
    assert (len(laid_out.numbers("main")), len(laid_out.numbers("ema"))) == (16, 2)


SCORE = {"metric": "average/score", "mode": "max"}


def settings_of(study: Study, count: int, **values: Any) -> list[Setting]:
    drawn = {"decay": 0.9, "damping": 0.5, "coupling": 0.1}
    return [study.setting(number, drawn | {"lr": 0.1 * (1 + number)} | values) for number in range(count)]


def test_without_room_a_pack_is_a_setting_with_all_of_its_seeds() -> None:
    study = Study.of(parse_config(small()))
    packs = pack(study, [(setting, range(3)) for setting in settings_of(study, 2)], room=1)
    assert [([s.number for s in p.settings], p.seeds, p.side_by_side) for p in packs] == [
        ([0], (0, 1, 2), False),
        ([1], (0, 1, 2), False),
    ]


def averages_of(study: Study, count: int, lr: float = 0.1) -> list[Setting]:
    drawn = {"damping": 0.5, "coupling": 0.0, "lr": lr}
    return [study.setting(number, drawn | {"decay": 1 - 0.2 / (1 + number)}) for number in range(count)]


def test_averages_that_watch_one_trajectory_share_a_pack_also_where_runs_are_trained_one_by_one() -> None:
    study = Study.of(parse_config(small()))
    pulling = settings_of(study, 10)[9]
    packs = pack(study, [(setting, range(3)) for setting in [*averages_of(study, 9), pulling]], room=1)
    assert [([s.number for s in p.settings], p.seeds, p.side_by_side) for p in packs] == [
        ([0, 1, 2, 3, 4, 5, 6, 7], (0, 1, 2), False),
        ([8], (0, 1, 2), False),
        ([9], (0, 1, 2), False),
    ]


def test_a_train_function_makes_each_average_by_itself() -> None:
    study = Study.of(parse_config(small(task="tasks_of_tests:parabola", objective=SCORE)))
    packs = pack(study, [(setting, range(3)) for setting in averages_of(study, 2)], room=1)
    assert [[s.number for s in p.settings] for p in packs] == [[0], [1]]


def test_room_is_that_of_trajectories_and_each_is_watched_by_so_many() -> None:
    study = Study.of(parse_config(small()))
    one, other = averages_of(study, 36), averages_of(study, 40, lr=0.2)[36:]
    packs = pack(study, [(setting, range(3)) for setting in [*one, *other]], room=7)
    sizes = [len(p.settings) for p in packs]
    assert sizes == [32, 8]  # twice 16; what is left of one, with the other
    assert {s["lr"] for s in packs[1].settings} == {0.1, 0.2}
    alone = pack(study, [(setting, range(3)) for setting in [*one, *other]], room=1)
    assert [len(p.settings) for p in alone] == [8, 8, 8, 8, 4, 4]


def test_samplers_that_do_not_learn_ask_long_waves_so_that_trajectories_are_shared() -> None:
    space = {"decay": {"choice": [0.9, 0.99]}, "lr": {"choice": [0.1, 0.2, 0.3]}}
    study = Study.of(parse_config(small(space=space, search={"sampler": "grid", "in_flight": 2})))
    assert plan(study).next_wave(0) == range(6)


def test_settings_share_packs_up_to_the_room_that_there_is() -> None:
    study = Study.of(parse_config(small()))
    packs = pack(study, [(setting, range(3)) for setting in settings_of(study, 5)], room=7)
    assert [([s.number for s in p.settings], p.seeds, p.side_by_side) for p in packs] == [
        ([0, 1], (0, 1, 2), True),
        ([2, 3], (0, 1, 2), True),
        ([4], (0, 1, 2), True),
    ]


@pytest.mark.parametrize(("workers", "sizes"), [
    (1, [8, 4]),  # as there is room for
    (2, [6, 6]),
    (3, [4, 4, 4]),
    (2.5, [5, 5, 2]),
    (8, [2, 2, 2, 2, 2, 2]),  # no less than 16 seeds
])  # fmt: skip
def test_every_worker_has_a_pack_unless_that_would_be_a_few_trainings(workers: float, sizes: list[int]) -> None:
    study = Study.of(parse_config(small()))
    lacking = [(setting, range(8)) for setting in settings_of(study, 12)]
    assert [len(each.settings) for each in pack(study, lacking, room=64, workers=workers)] == sizes


def test_averages_that_share_a_trajectory_are_no_further_training_for_a_worker() -> None:
    study = Study.of(parse_config(small()))
    lacking = [(setting, range(8)) for lr in (0.1, 0.2, 0.3, 0.4) for setting in averages_of(study, 6, lr)]
    assert [len(each.settings) for each in pack(study, lacking, room=64, workers=2)] == [12, 12]


def test_a_setting_of_more_seeds_than_there_is_room_for_goes_into_several_packs() -> None:
    study = Study.of(parse_config(small()))
    packs = pack(study, [(setting, range(9)) for setting in settings_of(study, 2)], room=7)
    first, rest = tuple(range(7)), (7, 8)
    assert [([s.number for s in p.settings], p.seeds) for p in packs] == [([0], first), ([1], first), ([0, 1], rest)]


def test_only_settings_that_lack_the_same_seeds_and_are_alike_share_a_pack() -> None:
    study = Study.of(parse_config(small(task={"name": "digits"}, objective={"metric": "average/val_loss"})))
    narrow, wide = settings_of(study, 4, width=8)[:2], settings_of(study, 4, width=16)[2:]
    lacking = [(narrow[0], [0, 1]), (wide[0], [0, 1]), (narrow[1], [0, 1]), (wide[1], [1])]
    packs = pack(study, lacking, room=32)
    assert [([s.number for s in p.settings], p.seeds) for p in packs] == [([0, 1], (0, 1)), ([2], (0, 1)), ([3], (1,))]


def test_a_pack_travels_as_plain_data() -> None:
    study = Study.of(parse_config(small()))
    sent = pack(study, [(setting, range(3)) for setting in settings_of(study, 2)], room=6)[0]
    sent = replace(sent, hosts=(1,), bars={0: ((15, 0.5), (30, 0.25)), 1: ((15, 0.125),)})
    assert Pack.from_json(json.loads(json.dumps(sent.to_json()))) == sent
    assert sent.of(sent.settings[1]).bars == {1: ((15, 0.125),)}


@pytest.mark.parametrize(("search", "sizes"), [
    ({"sampler": "tpe", "settings": 16, "baseline": 4}, {"main": 16, "ema": 4}),
    ({"sampler": "tpe", "settings": 16}, {"main": 16, "ema": 4}),
    ({"sampler": "random", "settings": 3}, {"main": 3, "ema": 1}),
    ({"sampler": "random", "settings": 3, "baseline": 0}, {"main": 3}),
])  # fmt: skip
def test_the_searches_share_the_study_as_the_config_says(search: dict[str, object], sizes: dict[str, int]) -> None:
    laid_out = plan(Study.of(parse_config(small(search=search))))
    assert {name: len(laid_out.numbers(name)) for name in set(laid_out.searches)} == sizes


def test_plain_ema_is_spread_over_the_study() -> None:
    laid_out = plan(Study.of(parse_config(small(search={"sampler": "tpe", "settings": 16, "baseline": 4}))))
    places = laid_out.numbers("ema")
    assert places[0] < 5
    assert max(later - earlier for earlier, later in itertools.pairwise(places)) <= 6
