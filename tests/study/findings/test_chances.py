"""How probably each candidate is truly the best: by simulation, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from surfaces import NONE, SURFACES, held, measured

from study.findings.chances import chances


def test_the_chances_are_shares_of_all_draws_most_probable_first_and_the_same_at_every_call() -> None:
    values = measured(np.linspace(0, 1, 30), 5, np.random.default_rng(0))
    found = chances(values, NONE, "max")
    assert found.sum() == pytest.approx(1)
    assert found.is_monotonic_decreasing
    assert found.equals(chances(values, NONE, "max"))
    assert found.equals(chances(-values, NONE, "min"))


def test_what_a_seed_adds_to_all_alike_changes_nothing() -> None:
    values = measured(np.linspace(0, 1, 12), 6, np.random.default_rng(1))
    pd.testing.assert_series_equal(chances(values, NONE, "max"), chances(values + np.arange(6) * 7.0, NONE, "max"))


def test_of_two_candidates_it_is_the_probability_that_student_s_t_gives() -> None:
    from scipy import stats

    values = measured(np.array([0.3, 0.0]), 8, np.random.default_rng(2))
    t = stats.ttest_rel(values.loc[0], values.loc[1]).statistic
    assert chances(values, NONE, "max")[0] == pytest.approx(stats.t.cdf(t, 7), abs=0.02)


def test_one_that_dominates_is_the_best_for_sure() -> None:
    truth = np.zeros(60)
    truth[17] = 8.0
    found = chances(measured(truth, 6, np.random.default_rng(3)), NONE, "max")
    assert found[17] > 0.999


def test_candidates_without_noise_are_told_apart_and_those_that_tie_share() -> None:
    exact = pd.DataFrame([[1.0, 2.0, 4.0, 3.0]] * 2 + [[0.0, 1.0, 3.0, 2.0]] * 3)
    assert list(chances(exact, NONE, "max").head(2)) == pytest.approx([0.5, 0.5], abs=1e-4)
    same = chances(pd.DataFrame(np.full((5, 3), 0.5)), NONE, "max")
    assert list(same) == pytest.approx([0.2] * 5)
    assert chances(exact.iloc[[2]], NONE, "max")[2] == pytest.approx(1)


def test_a_noisy_poor_candidate_does_not_hide_the_others() -> None:
    values = measured(np.array([0.0, 1.0, 3.0, 0.5, 0.2, 0.1]), 8, np.random.default_rng(4), noise=0.3)
    values.loc[6] = np.random.default_rng(5).normal(-500, 100, 8)
    assert chances(values, NONE, "max")[2] > 0.99


def test_finalists_are_judged_by_fresh_seeds_whatever_these_add_to_all() -> None:
    rng = np.random.default_rng(6)
    truth = np.array([1.0, 0.9, 0.8, 0.7, *np.linspace(-3, 0, 40)])
    searched, fresh = measured(truth, 4, rng), measured(truth[:4] + 100, 400, rng)
    fresh.index = pd.Index([0, 1, 2, 3])
    found = chances(searched, fresh, "max")
    assert found.index[0] == 0
    assert found.loc[found.index.intersection([0, 1, 2, 3])].sum() > 0.5
    assert set(found.index) - {0, 1, 2, 3}  # of the others four seeds say little
    pd.testing.assert_series_equal(found, chances(searched, fresh + 5, "max"), check_names=False)


@pytest.mark.parametrize("offset", [1.0, 1e9])
def test_finalists_that_do_not_vary_and_values_far_from_0_are_judged_like_others(offset: float) -> None:
    rng = np.random.default_rng(10)
    searched = measured(np.array([1.0, 0.0, -1.0, -2.0, -3.0, -4.0]), 6, rng, noise=1e-3)
    fresh = measured(np.array([1.0, 0.0]), 8, rng, noise=0.0)
    assert chances(searched + offset, fresh + offset, "max")[0] > 0.99
    same = pd.DataFrame(np.repeat([[1.0], [0.5], [0.2], [0.1]], 4, axis=1))
    assert chances(same + offset, same.head(2) + offset, "max")[0] > 0.99


@pytest.mark.parametrize("surface", SURFACES)
def test_the_truly_best_is_one_of_the_likely_ones_in_about_95_of_100_studies(surface: str) -> None:
    assert held(surface, 100) >= 88  # as 93 may come to by chance


def test_many_candidates_take_little_time_and_memory() -> None:
    values = measured(np.random.default_rng(8).normal(size=10_000), 16, np.random.default_rng(9))
    found = chances(values, NONE, "max")
    assert found.sum() == pytest.approx(1)
