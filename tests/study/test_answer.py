"""The answer in words: what, which regime, how sure, how much better, and what next."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import recorded

from study.answer import answer, difference_text
from study.findings.compare import Difference
from study.findings.recommend import Recommendation, recommend

pytestmark = [pytest.mark.filterwarnings(warning) for warning in recorded.WARNINGS]


def said(name: str) -> dict[str, str]:
    """The lines of a study's answer by their heads."""
    return by_head(answer(recommend(recorded.records(name))))


def by_head(text: str) -> dict[str, str]:
    return {line[:10].strip(): line[10:] for line in text.splitlines()}


def test_the_whole_answer_of_a_study_that_belay_wins():
    chosen = recommend(recorded.records("mixed"))
    ema, none = (difference_text(comparison.difference) for comparison in chosen.versus)
    assert said("mixed") == {
        "study": "mixed: 7 of 9 settings x 5 seeds done, 1 diverged, 1 failed",
        "best": "decay 0.95, damping 0.4, coupling 0.1, lr 1, optimizer sgd",
        "measured": f"average/val_accuracy {chosen.mean:.4g} (standard error {chosen.se:.2g}), "
        f"about {chosen.shrunken:.4g} with less luck",
        "regime": "critical: memory 0.01333, damping_ratio 1.008, mass_ratio 0.8 (lag 7 of 600 steps)",
        "rates": "the gradient's immediate step is 0.9 lr = 0.9, slow modes learn at 0.5556 lr = 0.5556",
        "verdict": said("mixed")["verdict"],
        "how sure": "1 of the other 4 settings cannot be told from it (95 % over all of them, paired over 5 seeds, "
        "their noise taken as normal)",
        "vs ema": f"{ema} over the best EMA (decay 0.99, lr 1, optimizer sgd)",
        "vs none": f"{none} over no averaging (lr 1, optimizer adam)",
        "": "chosen and measured on the same seeds: the differences flatter the winner, though their intervals "
        "allow for it; `confirm` mends it",
        "next": "belay-study export mixed -o defaults.yaml",
    }


def test_where_ema_wins_the_answer_says_what_a_push_came_to():
    lines = said("pushed")
    assert lines["vs ema"] == "the best setting is itself the best EMA"
    assert " over the best BELAY (decay 0.95, damping 1, coupling 0.2)" in lines["vs belay"]
    assert " over the best push (decay 0.95, damping 1, coupling -0.02)" in lines["vs push"]


def test_where_ema_wins_the_answer_says_so_and_what_belay_came_to():
    lines = said("tiny")
    assert lines["vs ema"] == "the best setting is itself the best EMA"
    assert re.fullmatch(
        r"\+1\.\d+e-06 \(95 % \+\S+e-07 to \+\S+e-06\) over the best BELAY \(decay 0\.95, damping 1, coupling 0\.2\)",
        lines["vs belay"],
    )
    assert lines["vs none"].endswith(" over no averaging")
    assert ", damping_ratio inf, " in lines["regime"]


@pytest.mark.parametrize("own", [{}, {"lr": "cosine"}, {"lr": True}])
def test_where_a_setting_has_no_learning_rate_the_answer_gives_the_factors_alone(own):
    pulled = {"decay": 0.9, "damping": 1.0, "coupling": 0.3, **own}
    lines = by_head(answer(replace(recommend(recorded.records("tiny")), parameters=pulled)))
    assert lines["rates"] == (
        "the gradient's immediate step is 0.7 times the learning rate, slow modes learn at 0.25 times the learning rate"
    )


def test_small_numbers_keep_their_digits():
    assert re.fullmatch(
        r"average/excess_loss 9\.\d{3}e-07 \(standard error \d\.\de-08\)", said("tiny")["measured"]
    )  # of too few settings to say what is luck


def test_of_a_race_the_answer_says_how_many_settings_left_it_before():
    lines = said("raced")
    assert lines["study"] == "raced: 5 of 5 settings x 2 to 14 seeds done"
    assert lines["how sure"].startswith("the other setting can be told from it (95 %, paired over 14 ")
    assert lines["how sure"].endswith("; 3 left the race before")


def test_a_study_that_is_not_finished_is_told_so_far_and_goes_on_by_resume():
    found = recommend(recorded.records("mixed"))
    lines = by_head(answer(replace(found, records=replace(found.records, finished=False))))
    assert lines["verdict"] == f"so far {said('mixed')['verdict'].partition(': belay-study')[0]}"
    assert lines[""].endswith("; where the study has `confirm`, finishing it mends that")
    assert lines["next"] == "belay-study resume mixed"


def test_one_seed_gives_an_answer_without_any_certainty():
    lines = said("one-seed")
    assert lines["study"] == "one-seed: 4 of 4 settings x 1 seed done"
    assert lines["measured"].endswith(" (one seed: no error is known)")
    assert lines["how sure"] == "unknown with one seed; give `seeds` at least 2"
    assert re.fullmatch(r"\+0\.\d+ \(one seed: no interval\) over the best EMA \(decay 0\.99, .*\)", lines["vs ema"])


def test_an_answer_without_a_baseline_says_that_none_was_measured():
    lines = said("coupled")
    assert lines["vs ema"] == "no plain EMA was measured; leave `search.baseline` out to have some tried"
    assert "vs none" not in lines
    assert "" not in lines  # nothing that could flatter


def test_an_answer_about_the_model_s_own_weights_is_held_against_no_averaging():
    lines = said("live")
    assert lines["measured"].startswith("live/val_accuracy ")
    assert "vs ema" not in lines
    assert "over no averaging" in lines["vs none"]
    assert lines["verdict"].startswith("ahead of no averaging, but 5 seeds settle nothing, about 6 fresh seeds would")


@pytest.mark.parametrize("left", [[], [4]])
def test_where_no_coupling_is_best_for_the_model_s_own_weights_others_are_held_against_no_averaging(left):
    records = recorded.records("live")
    table = records.table[~records.table["setting"].isin({3, 4} - {*left})].copy()
    table.loc[table["setting"] == 4, records.metric] -= 1
    lines = by_head(answer(recommend(replace(records, table=table))))
    assert lines["vs none"] == "the best setting is itself no averaging"
    if left:
        assert lines["verdict"].startswith("no averaging is ahead of the best BELAY, but 5 seeds settle nothing, ")
    else:
        assert re.match("(not better than|ahead of) decay 0", lines["verdict"])


def test_only_hyperparameters_that_were_varied_are_named():
    assert said("many")["best"] == "decay 0.999842, damping 0.8624, coupling 0, lr 3.75"


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        ((0.105, 0.04131, 0.1686, 5), "+0.105 (95 % +0.0413 to +0.169)"),
        ((-0.5, -1.0, 0.0, 5), "-0.5 (95 % -1 to +0)"),
        ((2e-7, math.nan, math.nan, 1), "+2e-07 (one seed: no interval)"),
    ],
)
def test_a_difference_is_told_with_its_sign_and_interval(difference, text):
    assert difference_text(Difference(*difference, superiority=1, p=0.1, needed=9)) == text


# --- the verdict ------------------------------------------------------------------------------------------------------


def verdict(
    found: Recommendation,
    low: float,
    high: float,
    seeds: int,
    needed: float = 40,
    fresh_versus: bool | None = None,
    **changes: Any,
) -> str:
    """The verdict where the difference to the best EMA, or of an EMA to the best of another family, is this one."""
    fresh_versus = "fresh" in changes if fresh_versus is None else fresh_versus
    between = Difference((low + high) / 2, low, high, seeds, superiority=0.8, p=0.1, needed=needed)
    versus = [replace(comparison, difference=between, fresh=fresh_versus) for comparison in found.versus]
    return by_head(answer(replace(found, versus=versus, **changes)))["verdict"]


def test_the_verdict_says_what_is_beyond_chance():
    belay, ema = recommend(recorded.records("mixed")), recommend(recorded.records("tiny"))
    assert verdict(belay, 0.001, 0.1, 16) == "better than the best EMA, beyond chance"
    assert verdict(ema, 0.001, 0.1, 16) == "EMA is the best, better than any other average, beyond chance"


def test_an_ema_is_the_best_beyond_chance_only_where_all_other_averages_are_told_from_it():
    found = recommend(recorded.records("pushed"))
    told, untold = (Difference(0.02, low, 0.04, 16, superiority=0.8, p=0.1, needed=40) for low in (0.01, -0.01))
    few = replace(told, seeds=5)
    for belay, push, text in (
        (told, told, "EMA is the best"),
        (
            untold,
            told,
            "EMA measured best, not beyond chance over the best BELAY; about 40 fresh seeds would tell +0.02",
        ),
        (
            told,
            untold,
            "EMA measured best, not beyond chance over the best push; about 40 fresh seeds would tell +0.02",
        ),
        (few, told, "EMA is ahead of the best BELAY, but 5 seeds settle nothing, about 40 fresh seeds would"),
    ):
        own = {"belay": belay, "push": push}
        versus = [replace(each, difference=own.get(each.baseline, each.difference)) for each in found.versus]
        assert by_head(answer(replace(found, versus=versus)))["verdict"].startswith(text)


def test_where_nothing_is_beyond_chance_the_verdict_says_what_would_tell():
    found = recommend(recorded.records("mixed"))
    nothing = "no setting is better than EMA beyond chance; "
    assert verdict(found, -0.01, 0.03, 16, fresh=16) == (
        f"{nothing}about 40 fresh seeds would tell +0.01: belay-study extend mixed --set confirm.seeds=40"
    )
    assert verdict(found, -0.01, 0.03, 16).endswith("--set 'confirm={finalists: 4, seeds: 40}'")
    assert verdict(found, 0.01, 0.03, 5, needed=6).startswith(
        "ahead of the best EMA, but 5 seeds settle nothing, about 6 fresh seeds would tell +0.02: belay-study extend"
    )
    for needed in (1e7, math.inf):
        assert verdict(found, -0.0099, 0.01, 16, needed=needed) == (
            f"{nothing}+5e-05 would take more than 1,000 seeds to tell"
        )
    assert verdict(found, 0.0, 0.0, 16, needed=math.inf) == f"{nothing}the best of each measured the same"
    assert verdict(found, -1, 3, 1, needed=math.nan) == (
        f"{nothing}one seed settles nothing, it takes at least 6 fresh seeds: "
        "belay-study extend mixed --set 'confirm={finalists: 4, seeds: 6}'"
    )
    behind = f"{nothing}about 40 fresh seeds would tell the 0.02 that it is behind"
    assert verdict(found, -0.03, -0.01, 16).startswith(f"{behind}: belay-study extend")
    assert verdict(found, -0.03, -0.01, 16, fresh=48, fresh_versus=False) == behind  # more of these tell nothing of it


def test_an_unfinished_study_is_told_to_go_on_and_not_to_grow():
    found = recommend(recorded.records("mixed"))
    unfinished = replace(found.records, finished=False)
    assert verdict(found, -0.01, 0.03, 16, records=unfinished) == (
        "so far no setting is better than EMA beyond chance; about 40 fresh seeds would tell +0.01"
    )


def test_a_study_without_an_ema_or_with_emas_alone_is_held_against_its_runner_up():
    assert said("coupled")["verdict"].startswith("not better than decay 0.")
    assert said("emas")["verdict"].startswith("not better than decay 0.")


def test_hyperparameters_of_every_type_are_named_where_they_vary():
    lines = by_head(answer(recommend(recorded.records("shaped"))))
    assert lines["best"].endswith('coupling 0, clip null, layers [64, 64], power 1, tag "1e-3"')
