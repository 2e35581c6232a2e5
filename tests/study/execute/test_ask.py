"""Asking wave by wave, on real ledgers: the same settings whatever the timing, after a kill, and as a study grows."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import text
from studies import small

from study.design.config import parse_config
from study.design.schema import CONFIRMATION, Outcome, Scalar, SeedResult, Setting, host_of
from study.design.study import Study
from study.errors import BadInput, FailedWork
from study.execute.ask import Asker, first_setting
from study.execute.export import to_optuna
from study.execute.lease import Lease
from study.execute.ledger import Asked, Counts, Ledger, counts, stored_config
from study.execute.plan import Pack
from study.execute.tables import opened


def study_of(**changes: object) -> Study:
    return Study.of(parse_config(small(**changes)))


def outcomes_of(pack: Pack, state: str = "complete") -> list[Outcome]:
    """A made-up measurement of each setting: the better, the closer lr is to 0.5."""
    outcomes = []
    for setting in pack.settings:
        value = abs(math.log(float(setting["lr"]) / 0.5))
        history = [(30, {"average/excess_loss": 9.0}), (60, {"average/excess_loss": value})]
        outcomes.append(Outcome(setting.number, [SeedResult(seed, history, state) for seed in pack.seeds]))
    return outcomes


def outcome_of(pack: Pack, state: str = "complete") -> Outcome:
    """The measurement of the only setting of a pack."""
    (outcome,) = outcomes_of(pack, state)
    return outcome


@contextmanager
def asking(study: Study, url: str, room: int = 1, workers: int = 1) -> Iterator[Asker]:
    """An asker of a study, in a ledger of which it is the only one."""
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        yield Asker(study, ledger, room, workers)


def play(asker: Asker, workers: int, newest_first: bool = False, stop_after: int | None = None) -> list[Pack]:
    """Plays Ray Tune: keeps so many packs running and ends the oldest or the newest of them first."""
    running: list[Pack] = []
    given: list[Pack] = []
    while True:
        while len(running) < workers and (pack := asker.next()) is not None:
            running.append(pack)
            given.append(pack)
        if not running or len(given) == stop_after:
            return given
        asker.tell(outcomes_of(running.pop(-1 if newest_first else 0)))


def run(study: Study, url: str, **played: object) -> list[Setting]:
    """Plays a study to its end; its settings in the order of their numbers."""
    with asking(study, url) as asker:
        play(asker, **({"workers": 1} | played))
        assert asker.asked_all or "stop_after" in played
        return [setting for setting, _ in asker.outcomes()]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp", "grid"])
def test_null_and_lists_are_asked_as_they_are_and_come_back_so_from_the_ledger(tmp_path: Path, sampler: str) -> None:
    space = {"decay": 0.9, "lr": {"choice": [0.1, 0.4]}, "clip": {"choice": [None, 0.1, "0.1"]}}
    space["layers"] = {"choice": [[64, 64], [[128], None]]}
    search = {"sampler": sampler, "in_flight": 4} | ({} if sampler == "grid" else {"settings": 12})
    objective = {"metric": "average/excess_loss", "mode": "min"}
    study = study_of(task="tasks_of_tests:parabola", objective=objective, space=space, search=search)
    asked = run(study, url := f"sqlite:///{tmp_path}/ledger.db")
    assert len(asked) == len({setting.trajectory for setting in asked}) == 12  # none twice, where 12 are all there are
    for name in ("clip", "layers"):
        values = [json.dumps(value) for value in space[name]["choice"]]
        assert {json.dumps(setting[name]) for setting in asked} == {*values}
    assert run(study, url) == asked


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
@pytest.mark.parametrize("stop_after", [3, 9])
def test_a_space_of_few_settings_is_asked_whole_none_twice_and_so_after_a_study_was_cut_off(
    tmp_path: Path, sampler: str, stop_after: int
) -> None:
    space = {"decay": {"choice": [0.8, 0.9]}, "damping": 0.5, "lr": {"choice": [0.1, 0.2]}}
    space |= {"dimensions": {"integers": [2, 8], "step": 3}}
    search = {"sampler": sampler, "settings": 99, "baseline": 0, "in_flight": 4}
    study = study_of(task="quadratic", space=space, search=search)
    whole = run(study, f"sqlite:///{tmp_path}/whole.db")
    assert len(whole) == len({json.dumps(dict(setting)) for setting in whole}) == 12
    url = f"sqlite:///{tmp_path}/cut.db"
    with asking(study, url) as asker:
        play(asker, workers=2, stop_after=stop_after)
    assert run(study, url) == whole


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
def test_known_settings_are_asked_first_also_after_a_study_was_cut_off_and_what_they_leave_out_is_drawn(
    tmp_path: Path, sampler: str
) -> None:
    start = [{"lr": 1, "decay": 0.9, "damping": 0.5, "coupling": 0.25}, {"lr": 0.5}, {"decay": 0.99}]
    search = {"sampler": sampler, "settings": 8, "baseline": 4, "in_flight": 4, "start": start}
    study = study_of(search=search)
    whole = run(study, f"sqlite:///{tmp_path}/whole.db")
    assert len(whole) == 12
    for known, setting in zip(start, whole, strict=False):
        assert {name: setting[name] for name in known} == pytest.approx(known, rel=1e-15)
        assert all(isinstance(setting[name], float) for name in ("decay", "damping", "coupling", "lr"))
        assert 0.8 <= setting["decay"] <= 0.99
        assert 0.05 <= setting["lr"] <= 4
    assert whole[2]["lr"] not in (1, 0.5)
    url = f"sqlite:///{tmp_path}/cut.db"
    with asking(study, url) as asker:
        play(asker, workers=2, stop_after=3)
    assert run(study, url) == whole
    assert first_setting(study) == whole[0]


CHOICES = {"decay": {"choice": [0.8, 0.9]}, "noise": {"choice": [0.1, 0.2, 0.3]}, "lr": {"choice": [0.1, 0.5]}}


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc", "tpe"])
def test_the_same_space_in_another_order_is_asked_the_same_settings_also_by_a_study_that_goes_on(
    sampler: str, tmp_path: Path
) -> None:
    search = {"sampler": sampler, "baseline": 0} | ({} if sampler == "grid" else {"settings": 8})
    one, other = (study_of(search=search, space=dict(each)) for each in (CHOICES.items(), reversed(CHOICES.items())))
    whole = run(one, f"sqlite:///{tmp_path}/one.db")
    assert run(other, f"sqlite:///{tmp_path}/other.db") == whole
    with asking(one, f"sqlite:///{tmp_path}/both.db") as asker:
        play(asker, 1, stop_after=5)
    assert run(other, f"sqlite:///{tmp_path}/both.db") == whole


def test_a_grid_that_an_earlier_version_began_in_another_order_is_asked_whole(tmp_path: Path) -> None:
    study, url = study_of(search={"sampler": "grid", "baseline": 0}, space=CHOICES), f"sqlite:///{tmp_path}/grid.db"
    whole = [dict(setting) for setting in run(study, f"sqlite:///{tmp_path}/whole.db")]
    with opened(url, making=True) as engine:
        ledger = Ledger(engine, study.config.name, url)
        ledger.begin(study.config)
        drawn: list[dict[str, Scalar]] = [{"decay": 0.9, "lr": 0.5, "noise": noise} for noise in (0.3, 0.2)]
        ledger.ask([Asked("main", each, study.setting(number, each)) for number, each in enumerate(drawn)])
    settings = [dict(setting) for setting in run(study, url)]
    assert [each["noise"] for each in settings[:2]] == [0.3, 0.2]
    assert sorted(settings, key=str) == sorted(whole, key=str)


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
def test_the_settings_asked_do_not_depend_on_timing(tmp_path: Path, sampler: str) -> None:
    study = study_of(search={"sampler": sampler, "settings": 16, "baseline": 4, "in_flight": 4, "seed": 3})
    one = run(study, f"sqlite:///{tmp_path}/one.db", workers=1)
    many = run(study, f"sqlite:///{tmp_path}/many.db", workers=3, newest_first=True)
    assert len(one) == 20
    assert one == many


def test_a_sampler_that_learns_asks_no_more_than_in_flight_at_once(tmp_path: Path) -> None:
    with asking(study_of(), f"sqlite:///{tmp_path}/ledger.db") as asker:
        first = [pack for _ in range(9) if (pack := asker.next()) is not None]
        assert len(first) == 4  # two waves of two
        assert not asker.asked_all
        asker.tell([outcome_of(first[1])])
        assert asker.next() is None  # the first wave is not done
        asker.tell([outcome_of(first[0])])
        assert asker.next() is not None


def test_one_in_flight_is_drawn_from_all_results_before_it(tmp_path: Path) -> None:
    study = study_of(search={"sampler": "tpe", "settings": 3, "baseline": 0, "in_flight": 1})
    with asking(study, f"sqlite:///{tmp_path}/ledger.db") as asker:
        first = asker.next()
        assert first is not None
        assert asker.next() is None
        asker.tell([outcome_of(first)])
        assert asker.next() is not None


def composition(packs: Sequence[Pack]) -> list[tuple[list[int], tuple[int, ...]]]:
    """The numbers of the settings of packs, and their seeds."""
    return [([setting.number for setting in pack.settings], pack.seeds) for pack in packs]


@pytest.mark.parametrize("stop_after", [2, 4, 6])
def test_where_there_is_room_settings_share_packs_the_same_ones_after_a_study_was_cut_off(
    tmp_path: Path, stop_after: int
) -> None:
    search = {"sampler": "tpe", "settings": 13, "baseline": 3, "in_flight": 8}
    study = study_of(search=search, confirm={"finalists": 3, "seeds": 6})
    with asking(study, f"sqlite:///{tmp_path}/whole.db", room=7) as asker:
        whole = composition(play(asker, workers=2))
    searched = [numbers for numbers, seeds in whole if max(seeds) < CONFIRMATION]
    assert searched == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9, 10], [11], [12, 13, 14], [15]]
    fresh = [(len(numbers), [seed - CONFIRMATION for seed in seeds]) for numbers, seeds in whole[len(searched) :]]
    assert fresh == [(3, [0, 1]), (3, [2, 3]), (3, [4, 5])]
    url = f"sqlite:///{tmp_path}/cut.db"
    with asking(study, url, room=7) as asker:
        play(asker, workers=2, stop_after=stop_after)  # two packs are lost
    with asking(study, url, room=7) as asker:
        assert composition(play(asker, workers=2)) == whole[stop_after - 2 :]


def test_each_of_two_waves_has_packs_for_half_of_the_workers(tmp_path: Path) -> None:
    study = study_of(seeds=8, search={"sampler": "tpe", "settings": 16, "baseline": 0, "in_flight": 16})
    with asking(study, f"sqlite:///{tmp_path}/ledger.db", room=64, workers=6) as asker:
        packs = list(iter(asker.next, None))
    assert [len(pack.settings) for pack in packs] == [3, 3, 2] * 2
    random = study_of(seeds=8, search={"sampler": "random", "settings": 16, "baseline": 0})
    with asking(random, f"sqlite:///{tmp_path}/other.db", room=64, workers=6) as asker:
        packs = list(iter(asker.next, None))
    assert [len(pack.settings) for pack in packs] == [3, 3, 3, 3, 3, 1]


def test_a_setting_whose_seeds_go_into_several_packs_is_done_when_all_of_them_are(tmp_path: Path) -> None:
    study, url = study_of(seeds=3), f"sqlite:///{tmp_path}/ledger.db"
    with asking(study, url, room=2) as asker:
        first, second, rest = asker.next(), asker.next(), asker.next()
        assert composition([first, second, rest]) == [([0], (0, 1)), ([1], (0, 1)), ([0, 1], (2,))]
        assert asker.tell(outcomes_of(first)) == []
        assert [setting.number for setting, _ in asker.tell(outcomes_of(rest))] == [0]
    with asking(study, url, room=2) as asker:
        assert [result.seed for _, outcome in asker.outcomes() for result in outcome.seeds] == [0, 1, 2]
        assert composition(play(asker, workers=1))[0] == ([1], (0, 1))
        assert [len(outcome.seeds) for _, outcome in asker.outcomes()] == [3] * 20


def test_a_pack_that_was_lost_is_handed_out_a_setting_at_a_time_before_all_others(tmp_path: Path) -> None:
    with asking(study_of(), f"sqlite:///{tmp_path}/ledger.db", room=4) as asker:
        first, second = asker.next(), asker.next()
        assert first is not None
        assert asker.split(first)
        parts = [asker.next(), asker.next()]
        assert composition(parts) == [([0], (0, 1)), ([1], (0, 1))]
        assert all(part.side_by_side and not asker.split(part) for part in parts)
        asker.tell([outcome_of(parts[0]), outcome_of(parts[1], "failed")])
        asker.tell(outcomes_of(second))
        assert [(setting.number, outcome.state) for setting, outcome in asker.outcomes()][:2] == [
            (0, "complete"),
            (1, "failed"),
        ]


# --- riders -----------------------------------------------------------------------------------------------------------


def riding_study(**changes: object) -> Study:
    """A study of uncoupled averages with two riders, one of them in its space."""
    space = {"memory": {"log": [0.05, 0.3]}, "damping_ratio": {"log": [0.5, 4]}, "lr": {"choice": [0.1, 0.4, 1.6]}}
    search = {"sampler": "tpe", "settings": 24, "baseline": 0, "in_flight": 4}
    search["riders"] = {"memory": [0.1, 0.4], "damping_ratio": [1]}
    return study_of(**{"space": space, "search": search} | changes)


def ridden_outcomes(pack: Pack) -> list[Outcome]:
    """As `outcomes_of`, with riders where there are hosts: the first a little better than its host, the other worse."""
    outcomes = outcomes_of(pack)
    for outcome in outcomes:
        if outcome.setting in pack.hosts:
            for result in outcome.seeds:
                value = result.last("average/excess_loss")
                result.riders["average/excess_loss"] = [value * 0.9, value + 1]
    return outcomes


def play_riding(asker: Asker, stop_after: int | None = None) -> list[Pack]:
    given = []
    while len(given) != stop_after and (pack := asker.next()) is not None:
        given.append(pack)
        asker.tell(ridden_outcomes(pack))
    return given


def test_riders_watch_the_first_setting_of_each_trajectory(tmp_path: Path) -> None:
    study = riding_study()
    with asking(study, f"sqlite:///{tmp_path}/ledger.db") as asker:
        packs = play_riding(asker)
        settings = [setting for setting, _ in asker.outcomes()]
    first = [next(setting.number for setting in settings if setting["lr"] == lr) for lr in (0.1, 0.4, 1.6)]
    assert sorted(number for pack in packs for number in pack.hosts) == sorted(first)


@pytest.mark.parametrize(("riders", "room", "carried"), [
    ("auto", 1, False),
    ("auto", 8, True),
    ("none", 8, False),
    ({"memory": [0.1], "damping_ratio": [1]}, 1, True),
])  # fmt: skip
def test_riders_are_carried_as_the_config_says(tmp_path: Path, riders: object, room: int, carried: bool) -> None:
    study = study_of(search={"sampler": "random", "settings": 2, "baseline": 2, "riders": riders})
    with asking(study, f"sqlite:///{tmp_path}/ledger.db", room=room) as asker:
        packs = play(asker, workers=1)
    emas = [setting.number for pack in packs for setting in pack.settings if setting["coupling"] == 0]
    assert sorted(number for pack in packs for number in pack.hosts) == (emas if carried else [])


@pytest.mark.parametrize(("began", "goes_on"), [(8, 1), (1, 8)])
def test_a_study_goes_on_with_riders_or_without_as_it_began(tmp_path: Path, began: int, goes_on: int) -> None:
    """However many runs train side by side then, as `resources` may change."""
    study, url = study_of(search={"sampler": "random", "settings": 4, "baseline": 8}), f"sqlite:///{tmp_path}/ledger.db"
    with asking(study, url, room=began) as asker:
        packs = play_riding(asker, stop_after=2)
    with asking(study, url, room=goes_on) as asker:
        packs += play_riding(asker)
    emas = sorted(setting.number for pack in packs for setting in pack.settings if setting["coupling"] == 0)
    assert len(emas) == 8
    assert sorted(number for pack in packs for number in pack.hosts) == (emas if began > 1 else [])


def told(asker: Asker, name: str = "memory") -> list[tuple[float, float]]:
    """A parameter and the value of all that Optuna was told, in its order."""
    trials = asker._searches["main"]._optuna.get_trials(states=[TrialState.COMPLETE])
    return [(trial.params[name], trial.value) for trial in trials]


def test_a_sampler_that_learns_is_shown_what_known_settings_came_to(tmp_path: Path) -> None:
    search = {"sampler": "tpe", "settings": 3, "baseline": 0, "in_flight": 1, "start": [{"lr": 0.5}, {"lr": 2.0}]}
    with asking(study_of(search=search), f"sqlite:///{tmp_path}/ledger.db") as asker:
        play(asker, workers=1)
        assert told(asker, "lr")[:2] == [(0.5, 0.0), (2.0, pytest.approx(math.log(4)))]


def test_the_best_rider_within_the_space_is_told_to_optuna_behind_its_host(tmp_path: Path) -> None:
    study = riding_study()
    with asking(study, f"sqlite:///{tmp_path}/ledger.db") as asker:
        (host,) = [number for pack in play_riding(asker, stop_after=1) for number in pack.hosts]
        play_riding(asker)
        (_, value), (memory, rider_value) = told(asker)[host : host + 2]
    assert memory == pytest.approx(0.1)  # the other, of 0.4, lies outside
    assert rider_value == pytest.approx(0.9 * value)


@pytest.mark.parametrize("stop_after", [1, 5, 11])
def test_with_riders_a_study_that_was_cut_off_asks_what_an_uninterrupted_one_asks(
    tmp_path: Path, stop_after: int
) -> None:
    study = riding_study()
    with asking(study, f"sqlite:///{tmp_path}/whole.db") as asker:
        play_riding(asker)
        whole, in_order = [setting for setting, _ in asker.outcomes()], told(asker)
    url = f"sqlite:///{tmp_path}/cut.db"
    with asking(study, url) as asker:
        play_riding(asker, stop_after=stop_after)
        asker.next()  # asks another wave, which is lost
    with asking(study, url) as asker:
        play_riding(asker)
        assert [setting for setting, _ in asker.outcomes()] == whole
        assert told(asker) == in_order


def test_a_rider_that_is_a_finalist_is_measured_on_fresh_seeds_and_counts_with_what_it_came_to_before(
    tmp_path: Path,
) -> None:
    study, url = riding_study(confirm={"finalists": 3, "seeds": 4}), f"sqlite:///{tmp_path}/ledger.db"
    with asking(study, url) as asker:
        play_search(asker)
        riders = [setting for setting in asker.finalists if host_of(setting.number) is not None]
        assert asker.finalists[0] in riders
        pack = asker.next()
        assert pack is not None
        assert pack.hosts == ()  # on fresh seeds nothing rides
        asker.tell(outcomes_of(pack))
    with asking(study, url) as asker:
        assert asker.finalists[0].number == riders[0].number
        play_riding(asker)
        assert asker.confirmed == 3
        outcomes = {setting.number: outcome for setting, outcome in asker.outcomes()}
        whole = asker.whole(outcomes[riders[0].number])
    assert [result.seed for result in whole.seeds] == [0, 1, *range(CONFIRMATION, CONFIRMATION + 4)]
    host = outcomes[host_of(riders[0].number)]
    assert whole.part("search").value("average/excess_loss") == 0.9 * host.part("search").value("average/excess_loss")


def play_search(asker: Asker) -> list[Pack]:
    """Plays until the finalists are chosen."""
    given = []
    while not asker.finalists:
        pack = asker.next()
        assert pack is not None
        given.append(pack)
        asker.tell(ridden_outcomes(pack))
    return given


@pytest.mark.parametrize("stop_after", [1, 7, 13])
def test_a_study_that_was_cut_off_asks_what_an_uninterrupted_one_asks(tmp_path: Path, stop_after: int) -> None:
    study = study_of()
    whole = run(study, f"sqlite:///{tmp_path}/whole.db", workers=3)
    url = f"sqlite:///{tmp_path}/cut.db"
    run(study, url, workers=3, stop_after=stop_after)  # what was running then is lost
    assert run(study, url, workers=3) == whole
    assert counts(study, url).done == 20


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
def test_a_study_that_grows_trains_what_is_missing_and_no_more(tmp_path: Path, sampler: str) -> None:
    def grown(settings: int, seeds: int) -> Study:
        return study_of(search={"sampler": sampler, "settings": settings, "in_flight": 4}, seeds=seeds)

    url = f"sqlite:///{tmp_path}/ledger.db"
    before = run(grown(12, 2), url)
    with asking(grown(16, 3), url) as asker:
        given = play(asker, workers=2)
        after = [setting for setting, _ in asker.outcomes()]
        assert [outcome.seeds[2].seed for _, outcome in asker.outcomes()] == [2] * 20
    assert after[: len(before)] == before
    assert [pack.seeds for pack in given] == [(2,)] * 15 + [(0, 1, 2)] * 5
    if sampler in ("random", "qmc"):
        at_once = run(grown(16, 3), f"sqlite:///{tmp_path}/at_once.db")
        assert {tuple(setting.values()) for setting in after} == {tuple(setting.values()) for setting in at_once}


def test_finalists_are_measured_on_fresh_seeds_once_the_search_is_done(tmp_path: Path) -> None:
    study = study_of(confirm={"finalists": 3, "seeds": 5})
    with asking(study, f"sqlite:///{tmp_path}/ledger.db") as asker:
        given = play(asker, workers=3)
        outcomes = {setting.number: outcome for setting, outcome in asker.outcomes()}
        chosen = [setting.number for setting in asker.finalists]
    assert len(chosen) == 3
    fresh = [range(CONFIRMATION + start, min(CONFIRMATION + start + 2, CONFIRMATION + 5)) for start in (0, 2, 4)]
    assert [pack.seeds for pack in given[20:]] == [tuple(seeds) for _ in chosen for seeds in fresh]
    for number, outcome in outcomes.items():
        assert len(outcome.part("search").seeds) == 2
        assert len(outcome.part("confirmation").seeds) == (5 if number in chosen else 0)


@pytest.mark.parametrize("stop_after", [19, 21, 23])
def test_a_confirmation_that_was_cut_off_is_finished_and_a_finalist_s_fresh_seeds_count_when_all_are_done(
    tmp_path: Path, stop_after: int
) -> None:
    study, url = study_of(confirm={"finalists": 3, "seeds": 4}), f"sqlite:///{tmp_path}/ledger.db"
    with asking(study, url) as asker:
        play(asker, workers=1, stop_after=stop_after)
    with asking(study, url) as asker:
        assert asker.confirmed < 3
        fresh = [len(outcome.part("confirmation").seeds) for _, outcome in asker.outcomes()]
        assert set(fresh) <= {0, 4}
        given = play(asker, workers=2)
        assert len(given) == 26 - stop_after + 1  # the last that was given is lost
        assert sorted(len(outcome.part("confirmation").seeds) for _, outcome in asker.outcomes())[-4:] == [0, 4, 4, 4]
        assert asker.asked_all
        assert asker.confirmed == 3
    assert counts(study, url) == Counts(planned=20, done=20, pruned=0, diverged=0, failed=0, raced=0, confirmed=3)


def test_a_study_may_be_confirmed_later_and_again_with_more(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    run(study_of(), url)
    for finalists, seeds, packs in ((3, 2, 3), (3, 4, 3), (4, 4, 2)):
        with asking(study_of(confirm={"finalists": finalists, "seeds": seeds}), url) as asker:
            assert len(play(asker, workers=1)) == packs
            assert asker.confirmed == len(asker.finalists) == finalists
    with pytest.raises(BadInput, match=r"`confirm.seeds` must not shrink, got 3 of 'small', which has 4"):
        run(study_of(confirm={"finalists": 4, "seeds": 3}), url)


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"seeds": 1}, "seeds", "got 1 of 'small', which has 2"),
        ({"search": {"sampler": "tpe", "settings": 15, "baseline": 4, "in_flight": 4}}, "search.settings", "got 15"),
        ({"search": {"sampler": "tpe", "settings": 16, "baseline": 3, "in_flight": 4}}, "search.baseline", "got 3"),
    ],
)
def test_a_study_does_not_shrink(tmp_path: Path, changes: dict[str, object], key: str, said: str) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    run(study_of(), url, stop_after=1)
    with pytest.raises(BadInput, match=rf"^`{key}` must not shrink, {said}.*; leave it, or change `name`"):
        run(study_of(**changes), url)
    assert stored_config("small", url).question == study_of().config.question


def test_the_search_learns_from_what_it_is_told(tmp_path: Path) -> None:
    study = study_of(search={"sampler": "tpe", "settings": 40, "baseline": 0, "in_flight": 4})
    asked = run(study, f"sqlite:///{tmp_path}/ledger.db")
    distance = [abs(math.log(float(setting["lr"]) / 0.5)) for setting in asked]
    assert sum(distance[-10:]) < 0.5 * sum(distance[:10])


def test_every_baseline_setting_is_a_plain_ema(tmp_path: Path) -> None:
    asked = run(study_of(), f"sqlite:///{tmp_path}/ledger.db")
    plain = [setting for setting in asked if setting["damping"] == 1 and setting["coupling"] == 0]
    assert len(plain) == 4
    assert len({setting["lr"] for setting in plain}) == 4


def test_the_first_setting_is_known_without_a_ledger(tmp_path: Path) -> None:
    for sampler in ("random", "tpe"):
        study = study_of(search={"sampler": sampler, "settings": 3})
        assert first_setting(study) == run(study, f"sqlite:///{tmp_path}/{sampler}.db")[0]


def test_an_optuna_study_tells_divergence_as_pruned_and_failure_as_failed(tmp_path: Path) -> None:
    url, optunas = f"sqlite:///{tmp_path}/ledger.db", f"sqlite:///{tmp_path}/optuna.db"
    study = study_of(search={"sampler": "tpe", "settings": 5, "baseline": 1, "in_flight": 9})
    states = ["complete", "complete", "diverged", "failed", "complete"]  # of six: the last is not done
    with asking(study, url) as asker:
        for state in states:
            pack = asker.next()
            assert pack is not None
            asker.tell([outcome_of(pack, state)])
        done = [setting for setting, _ in asker.outcomes()]
    assert to_optuna(study, url, optunas) == ["small", "small/ema"]
    trials = [
        trial for name in ("small", "small/ema") for trial in optuna.load_study(study_name=name, storage=optunas).trials
    ]
    assert len(trials) == 5
    known = {"complete": TrialState.COMPLETE, "diverged": TrialState.PRUNED, "failed": TrialState.FAIL}
    for trial in trials:
        number = trial.user_attrs["setting"]
        assert trial.state == known[states[number]]
        assert trial.params["lr"] == done[number]["lr"]
        if states[number] == "complete":
            assert trial.value == pytest.approx(abs(math.log(trial.params["lr"] / 0.5)))
    with pytest.raises(BadInput, match=r"`to` must be a database without these studies, got .*optuna.db, which has"):
        to_optuna(study, url, optunas)
    with pytest.raises(BadInput, match=r"`to` must be optuna: and a database that can be written, got nonsense: "):
        to_optuna(study, url, "nonsense")
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as database, database:
        database.execute("update alembic_version set version_num = 'v2.6.0.a'")
    with pytest.raises(BadInput, match=r"`to` must be optuna: .*optuna.db: .* optuna storage upgrade"):
        to_optuna(study, url, optunas)


def test_seeds_are_in_their_order_whichever_pack_ended_first(tmp_path: Path) -> None:
    """Of a setting that is pruned Optuna is told what its first seed came to."""
    with asking(study_of(seeds=3), f"sqlite:///{tmp_path}/ledger.db", room=2) as asker:
        packs = [asker.next() for _ in range(3)]
        for pack in reversed(packs):
            assert pack is not None
            asker.tell(outcomes_of(pack))
        assert [[result.seed for result in outcome.seeds] for _, outcome in asker.outcomes()] == [[0, 1, 2]] * 2


def test_a_setting_that_lacks_seeds_is_left_out_of_an_optuna_study(tmp_path: Path) -> None:
    url, study = f"sqlite:///{tmp_path}/ledger.db", study_of(seeds=3)
    with asking(study, url, room=2) as asker:
        first, _, rest = asker.next(), asker.next(), asker.next()
        assert first is not None
        assert rest is not None
        asker.tell(outcomes_of(first))
        asker.tell([outcome for outcome in outcomes_of(rest) if outcome.setting == 1])
    optunas = f"sqlite:///{tmp_path}/optuna.db"
    assert [optuna.load_study(study_name=name, storage=optunas).trials for name in to_optuna(study, url, optunas)] == [
        [],
        [],
    ]


def test_a_grid_tries_every_combination_once_and_the_emas_it_lacks(tmp_path: Path) -> None:
    study = study_of(
        space={"decay": {"choice": [0.9, 0.99]}, "damping": {"choice": [0.3, 1.0]}, "coupling": 0.1, "lr": 0.5},
        search={"sampler": "grid"},
    )
    asked = run(study, f"sqlite:///{tmp_path}/ledger.db", workers=2)
    tried = [(setting["decay"], setting["damping"], setting["coupling"]) for setting in asked]
    assert sorted(tried) == sorted(
        [(decay, damping, 0.1) for decay in (0.9, 0.99) for damping in (0.3, 1.0)] + [(0.9, 1.0, 0.0), (0.99, 1.0, 0.0)]
    )


def test_a_second_asker_cannot_put_a_setting_or_a_result_in_the_place_of_another_s(tmp_path: Path) -> None:
    study, url = study_of(), f"sqlite:///{tmp_path}/ledger.db"
    with asking(study, url) as one, asking(study, url) as other:
        pack = one.next()
        assert pack is not None
        with pytest.raises(FailedWork, match=r"`storage.url` must take what is asked and told, got UNIQUE constraint"):
            other.next()
        one.tell([outcome_of(pack)])
        with pytest.raises(FailedWork, match=r"`storage.url` must take what is asked and told, got UNIQUE constraint"):
            one.tell([outcome_of(pack, "failed")])
    with asking(study, url) as later:
        assert [(setting, outcome.state) for setting, outcome in later.outcomes()] == [(pack.settings[0], "complete")]


def test_an_asker_whose_lease_another_driver_has_taken_writes_nothing(tmp_path: Path) -> None:
    study, url = study_of(), f"sqlite:///{tmp_path}/ledger.db"
    with opened(url, making=True) as engine, Lease("small", engine, pytest.fail) as lease:
        ledger = Ledger(engine, "small", url, lease)
        ledger.begin(study.config)
        asker = Asker(study, ledger)
        running = [asker.next(), asker.next()]  # a wave: the next call asks another
        with engine.begin() as connection:
            connection.execute(text("update belay_leases set expires = 0"))
        with Lease("small", engine, pytest.fail):
            before = dump(tmp_path / "ledger.db")
            for act in (
                asker.next,
                lambda: asker.tell([outcome_of(running[0])]),
                lambda: ledger.begin(study.config),
            ):
                with pytest.raises(FailedWork, match="another driver took 'small' over"):
                    act()
            assert dump(tmp_path / "ledger.db") == before


def dump(file: Path) -> list[str]:
    """Everything in a database but the times at which leases expire."""
    with contextlib.closing(sqlite3.connect(file, timeout=300)) as database:
        return [line for line in database.iterdump() if 'INTO "belay_leases"' not in line]


def test_a_ledger_that_fails_in_the_middle_says_so_in_one_line_and_keeps_no_half_of_a_pack(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    study = study_of()
    with asking(study, f"sqlite:///{file}") as asker:
        first, second = asker.next(), asker.next()
        assert first is not None
        assert second is not None
        asker.tell([outcome_of(first)])
        alter(file, "alter table belay_histories rename to away")
        with pytest.raises(FailedWork, match=r"^`storage.url` must take .*, got no such table.*; .* resume small`\.$"):
            asker.tell([outcome_of(second)])
        alter(file, "alter table away rename to belay_histories")
    with asking(study, f"sqlite:///{file}") as later:
        assert [setting.number for setting, _ in later.outcomes()] == [first.settings[0].number]


def alter(file: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file, timeout=300)) as database:
        database.execute(statement)


# --- parameters with conditions ---------------------------------------------------------------------------------------

CONDITIONAL = {
    "task": {"name": "tasks_of_tests:parabola"},
    "objective": {"metric": "average/excess_loss", "mode": "min"},
    "space": {
        "decay": {"log_gap": [0.8, 0.99]},
        "lr": {"log": [0.05, 4.0]},
        "optimizer": {"choice": ["sgd", "adam"]},
        "momentum": {"uniform": [0.1, 0.99], "when": {"optimizer": "sgd"}},
        "beta": {"choice": [0.9, 0.99], "when": {"optimizer": "adam"}},
    },
}


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_a_parameter_is_drawn_where_its_conditions_hold_also_after_a_kill(sampler: str, tmp_path: Path) -> None:
    study = study_of(**CONDITIONAL, search={"sampler": sampler, "settings": 24, "baseline": 4, "in_flight": 4})
    asked = run(study, f"sqlite:///{tmp_path}/whole.db")
    for setting in asked:
        assert (setting["momentum"] is None) == (setting["beta"] is not None) == (setting["optimizer"] == "adam")
    assert {setting["optimizer"] for setting in asked} == {"sgd", "adam"}
    run(study, f"sqlite:///{tmp_path}/killed.db", stop_after=9)
    assert run(study, f"sqlite:///{tmp_path}/killed.db", workers=2) == asked


def test_optuna_knows_of_each_trial_what_was_drawn_of_it(tmp_path: Path) -> None:
    study, url = (
        study_of(**CONDITIONAL, search={"sampler": "tpe", "settings": 16, "baseline": 0}),
        f"sqlite:///{tmp_path}/a.db",
    )
    asked = run(study, url)
    to_optuna(study, url, f"sqlite:///{tmp_path}/optuna.db")
    trials = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path}/optuna.db").trials
    for setting, trial in zip(asked, trials, strict=True):
        own = "momentum" if setting["optimizer"] == "sgd" else "beta"
        assert trial.params.keys() == {"1 - decay", "lr", "optimizer", own}


def test_a_grid_and_a_small_space_try_each_setting_of_those_that_vary_together_once(tmp_path: Path) -> None:
    space = {"decay": 0.9, "lr": 0.5, "optimizer": {"choice": ["sgd", "adam"]}}
    space |= {"momentum": {"choice": [0.0, 0.5, 0.9], "when": {"optimizer": "sgd"}}}
    wanted = [("adam", "null"), ("sgd", "0.0"), ("sgd", "0.5"), ("sgd", "0.9")]
    for sampler in ("grid", "random", "qmc", "tpe"):
        search = {"sampler": sampler} | ({} if sampler == "grid" else {"settings": 20, "baseline": 0})
        asked = run(study_of(**CONDITIONAL | {"space": space}, search=search), f"sqlite:///{tmp_path}/{sampler}.db")
        assert sorted((setting["optimizer"], json.dumps(setting["momentum"])) for setting in asked) == wanted


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_what_has_one_setting_where_others_have_many_is_tried_once_also_after_a_kill(
    sampler: str, tmp_path: Path
) -> None:
    space = {"decay": 0.9, "lr": 0.5, "optimizer": {"choice": ["sgd", "adam"]}}
    space |= {"momentum": {"uniform": [0.1, 0.99], "when": {"optimizer": "sgd"}}}
    search = {"sampler": sampler, "settings": 16, "baseline": 0, "in_flight": 4}
    study = study_of(**CONDITIONAL | {"space": space}, search=search)
    asked = run(study, f"sqlite:///{tmp_path}/whole.db")
    assert len({setting["momentum"] for setting in asked}) == 16
    assert [setting["optimizer"] for setting in asked].count("adam") == 1
    run(study, f"sqlite:///{tmp_path}/killed.db", stop_after=9)
    assert run(study, f"sqlite:///{tmp_path}/killed.db") == asked


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_known_settings_may_leave_out_what_a_parameter_depends_on_with_the_parameter(
    sampler: str, tmp_path: Path
) -> None:
    start = [{"optimizer": "sgd", "momentum": 0.25}, {"optimizer": "adam"}, {"lr": 0.3}]
    search = {"sampler": sampler, "settings": 8, "baseline": 0, "start": start}
    asked = run(study_of(**CONDITIONAL, search=search), f"sqlite:///{tmp_path}/ledger.db")
    assert (asked[0]["optimizer"], asked[0]["momentum"], asked[0]["beta"]) == ("sgd", 0.25, None)
    assert (asked[1]["optimizer"], asked[1]["momentum"]) == ("adam", None)
    assert asked[1]["beta"] in (0.9, 0.99)
    assert asked[2]["lr"] == 0.3
