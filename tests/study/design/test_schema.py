"""Outcomes, settings and derived figures: the words that both halves of the study share."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belay import Oscillator
from study.design import schema
from study.design.schema import (
    FIGURES,
    NATURAL,
    Outcome,
    SeedResult,
    Setting,
    family,
    figures,
    from_natural,
    natural,
    oscillator_of,
)

SETTING = Setting(7, {"decay": 0.99, "damping": 0.5, "coupling": 0.1, "lr": 0.3, "optimizer": "sgd", "steps": 600})

histories = st.lists(
    st.tuples(
        st.integers(1, 1000), st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False))
    )
)
results = st.builds(
    SeedResult,
    seed=st.integers(0, 99),
    history=histories,
    state=st.sampled_from(["complete", "diverged", "failed"]),
    message=st.text(),
    diverged_at=st.none() | st.integers(1, 1000),
    seconds=st.floats(0, 1e6),
)


@given(st.builds(Outcome, setting=st.integers(0, 999), seeds=st.lists(results, min_size=1)))
@settings(max_examples=15, deadline=None)
def test_an_outcome_survives_json(outcome):
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json(), allow_nan=False))) == outcome


def seed(number: int, *values: float, **ending: object) -> SeedResult:
    return SeedResult(number, [(10 * (place + 1), {"m": value}) for place, value in enumerate(values)], **ending)


def test_what_is_reported_at_the_last_step_counts_be_it_in_several_parts():
    result = SeedResult(0, [(10, {"m": 1.0, "early": 4.0}), (20, {"m": 2.0}), (20, {"apart": 3.0})])
    assert (result.last("m"), result.last("apart")) == (2.0, 3.0)
    assert math.isnan(result.last("early"))  # of other weights than those at the end
    assert math.isnan(result.last("never"))


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_a_seed_that_did_not_end_well_has_no_value(state):
    assert math.isnan(seed(0, 1.0, state=state).last("m"))


def test_the_mean_is_taken_over_all_seeds():
    assert Outcome(0, [seed(0, 9.0, 1.0), seed(1, 2.0), seed(2, 6.0)]).value("m") == 3.0


def test_the_mean_is_nan_unless_every_seed_has_the_metric():
    assert math.isnan(Outcome(0, [seed(0, 1.0), seed(1)]).value("m"))
    assert math.isnan(Outcome(0, [seed(0, 1.0), seed(1, 1.0, state="diverged")]).value("m"))


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["complete", "complete"], "complete"),
        (["complete", "diverged"], "diverged"),
        (["diverged", "failed", "complete"], "failed"),
    ],
)
def test_the_worst_seed_decides_the_state_of_a_setting(states, state):
    assert Outcome(0, [seed(number, 1.0, state=one) for number, one in enumerate(states)]).state == state


def test_the_first_message_of_a_seed_is_the_setting_s():
    assert Outcome(0, [seed(0), seed(1, message="out of memory"), seed(2, message="later")]).message == "out of memory"
    assert Outcome(0, [seed(0)]).message == ""


def test_a_setting_is_a_mapping_of_its_values():
    assert dict(SETTING) == dict(SETTING.parameters)
    assert (SETTING["lr"], len(SETTING), "momentum" in SETTING) == (0.3, 6, False)
    assert SETTING.oscillator == Oscillator(0.99, 0.5, 0.1)


def test_damping_and_coupling_of_an_oscillator_may_be_left_out_and_decay_may_not():
    assert oscillator_of({"decay": 0.9, "lr": 1}) == Oscillator.ema(0.9)
    with pytest.raises(ValueError, match="`decay` must be in"):
        oscillator_of({"damping": 0.5})


@pytest.mark.parametrize(
    ("oscillator", "name"),
    [
        (Oscillator(0.9), "ema"),
        (Oscillator(0.9, 0.5), "damped"),
        (Oscillator(0.9, 1.5), "damped"),
        (Oscillator(0.9, 1.0, 0.1), "belay"),
        (Oscillator(0.9, 0.5, 0.1), "belay"),
        (Oscillator(0.9, 1.0, -0.05), "push"),
        (Oscillator(0.9, 0.5, -0.1), "push"),
    ],
)
def test_the_sign_of_the_coupling_makes_it_belay_or_push_and_damping_alone_makes_it_damped(oscillator, name):
    assert family(oscillator) == name


def test_the_figures_are_the_oscillator_s_own_and_the_memory_s_share_of_the_run():
    average = Oscillator(0.99, 0.5, 0.1)
    derived = figures(average, 600)
    assert list(derived) == list(FIGURES)
    assert derived.pop("memory") == pytest.approx(0.5 / 0.01 / 600)
    assert derived.pop("mass_ratio") == average.effective_mass_ratio
    assert derived == {name: getattr(average, name) for name in derived}


def test_the_figures_of_an_ema_may_be_infinite():
    assert figures(Oscillator.ema(0.9), 100)["damping_ratio"] == math.inf


@pytest.mark.parametrize("name", ["average/val_loss", "live/a.b-c d/e_1"])
def test_a_metric_is_of_the_averaged_weights_or_of_the_model_s_own(name):
    assert schema.METRIC.fullmatch(name)


@pytest.mark.parametrize("name", ["val_loss", "average/", "average/100%", "mean/x", "average/x\n"])
def test_a_metric_of_neither_or_with_letters_that_mlflow_refuses_is_none(name):
    assert not schema.METRIC.fullmatch(name)


def test_every_figure_has_a_reserved_name_and_no_raw_parameter():
    assert schema.RESERVED & (schema.PARAMETERS.keys() | FIGURES.keys()) == FIGURES.keys()


# --- natural coordinates ----------------------------------------------------------------------------------------------


@given(st.floats(1.01, 1000), st.floats(0.02, 3), st.floats(-0.99, 0.99), st.integers(1, 100_000))
@settings(max_examples=50, deadline=None)
def test_natural_coordinates_give_the_average_that_has_them(lag_and_one, ratio, share, steps):
    lightest = -min(1.0, 4 * ratio * ratio)
    mass = share * lag_and_one if share > 0 else -share * lightest
    drawn = {"memory": lag_and_one / steps, "damping_ratio": ratio, "mass_ratio": mass}
    average = from_natural(drawn, steps)
    found = natural(average, steps)
    assert (found["memory"], found["mass_ratio"]) == pytest.approx((drawn["memory"], mass), rel=1e-6)
    if average.damping < 1 - 1e-9:  # closer to 1 the fast mode, and with it the damping ratio, vanishes in rounding
        assert found["damping_ratio"] == pytest.approx(ratio, rel=1e-6)
        assert oscillator_of(schema_values(from_natural(found, steps))) == from_natural(found, steps)


def schema_values(average: Oscillator) -> dict[str, float]:
    return {name: getattr(average, name) for name in schema.PARAMETERS}


def test_damping_and_mass_ratio_that_are_left_out_are_plain_ema_s():
    assert from_natural({"memory": 0.1}, 600) == Oscillator(59 / 60)
    assert from_natural({"memory": 0.1, "damping_ratio": "inf", "mass_ratio": 6}, 600).coupling == pytest.approx(0.1)


def test_natural_coordinates_of_an_average_are_among_its_figures():
    average = Oscillator(0.99, 0.5, 0.1)
    assert natural(average, 600).items() <= figures(average, 600).items()
    assert list(natural(average, 600)) == list(NATURAL)
