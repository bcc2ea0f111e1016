"""The statistics: by hand, against scipy's own where it has them, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from alignzoo.compare import statistics as st

RNG = np.random.default_rng


def test_interquartile_mean_by_hand() -> None:
    assert st.iqm([1, 2, 3, 4, 5, 6, 7, 8]) == 4.5  # without 1, 2 and 7, 8
    assert st.iqm([100, 0, 1, 2, 3]) == 2.0  # int(5/4) = 1 at each end: the mean of 1, 2, 3
    assert st.iqm([1, 2, 6]) == 3.0  # int(3/4) = 0


def test_probability_of_improvement_by_hand_and_as_mann_whitney() -> None:
    # 1>0, 1<2, 2>0, 2=2: (1 + 0 + 1 + 0.5) / 4; the second task is always won.
    assert st.probability_of_improvement([np.array([1.0, 2.0])], [np.array([0.0, 2.0])]) == 0.625
    two = [np.array([1.0, 2.0]), np.array([9.0])], [np.array([0.0, 2.0]), np.array([1.0])]
    assert st.probability_of_improvement(*two) == pytest.approx((0.625 + 1) / 2)
    x, y = RNG(0).normal(0, 1, 7), RNG(1).normal(0.3, 1, 9)
    u = stats.mannwhitneyu(x, y).statistic
    assert st.probability_of_improvement([x], [y]) == pytest.approx(u / 63)


def test_performance_profile_by_hand() -> None:
    strata = [np.array([0.2, 0.5, 0.9]), np.array([0.4])]
    assert st.performance_profile(strata, np.array([0.3, 0.45, 1.0])) == pytest.approx([(2 / 3 + 1) / 2, 1 / 3, 0.0])


def test_holm_by_hand() -> None:
    # sorted: .005·4 = .02, .01·3 = .03, .03·2 = .06, .04·1 = .04 which may not fall below .06
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.7, 0.9]) == [1.0, 1.0]
    assert st.holm([]) == []


def test_bootstrap_resamples_each_task_by_itself_and_repeats() -> None:
    strata = [np.array([1.0, 2.0, 3.0, 6.0]), np.array([10.0, 10.0])]

    def means(drawn: list[np.ndarray]) -> np.ndarray:
        return np.stack([runs.mean(-1) for runs in drawn], -1)

    draws = st.stratified_bootstrap(strata, means, rng=RNG(0), reps=4000)
    again = st.stratified_bootstrap(strata, means, rng=RNG(0), reps=4000)
    assert (draws == again).all()
    assert (draws[:, 1] == 10).all()
    # sd of the mean of four draws from (1, 2, 3, 6): population variance 3.5, over 4
    assert draws[:, 0].std() == pytest.approx((3.5 / 4) ** 0.5, rel=0.03)
    low, high = st.percentiles(np.arange(1001.0))
    assert (low, high) == (25.0, 975.0)


def test_an_interval_is_that_of_every_possible_resample() -> None:
    # rliable's interval of the IQM, two tasks with two runs each: 2² · 2² equally likely resamples, all written out
    strata = [np.array([0.0, 1.0]), np.array([2.0, 5.0])]
    every = [st.iqm([a, b, c, d]) for a in (0, 1) for b in (0, 1) for c in (2, 5) for d in (2, 5)]
    draws = st.stratified_bootstrap(strata, st.pooled_iqm, rng=RNG(3), reps=20_000)
    for value in set(every):
        assert np.mean(draws == value) == pytest.approx(every.count(value) / 16, abs=0.011)
    assert st.percentiles(draws) == (min(every), max(every)) == (1.0, 3.0)  # (0, 2) and (1, 5), without the ends


def test_many_samples_at_once_are_each_as_if_alone() -> None:
    rng = RNG(5)
    a, b = ([rng.integers(0, 4, (6, n)).astype(float) for n in (5, 3)] for _ in range(2))
    thresholds = np.array([0.5, 2.0])
    for i in range(6):
        ours, theirs = ([runs[i] for runs in strata] for strata in (a, b))
        assert st.pooled_iqm(a)[i] == st.pooled_iqm(ours)
        assert st.probability_of_improvement(a, b)[i] == st.probability_of_improvement(ours, theirs)
        assert (st.performance_profile(a, thresholds)[i] == st.performance_profile(ours, thresholds)).all()


def test_crossed_by_hand() -> None:
    # mean 4; seeds' means 2, 6; prompts' 3, 5; nothing is left over. MS_seeds = 2·(4+4)/1 = 16, MS_prompts = 2·2/1 = 4
    found = st.crossed(np.array([[1.0, 3.0], [5.0, 7.0]]))
    assert (found.mean, found.df) == (4.0, 1.0)
    assert found.se == pytest.approx((20 / 4) ** 0.5)
    assert found.interval[1] == pytest.approx(4 + 12.706205 * 5**0.5)


def test_crossed_is_the_t_test_where_only_one_factor_matters() -> None:
    seeds = np.array([0.3, 0.1, 0.5, 0.2])
    over_seeds = stats.ttest_1samp(seeds, 0)
    found = st.crossed(np.repeat(seeds[:, None], 9, 1))
    assert found.p == pytest.approx(over_seeds.pvalue)
    assert found.interval == pytest.approx(over_seeds.confidence_interval())
    prompts = RNG(2).normal(0.3, 1, 30)
    found = st.crossed(np.repeat(prompts[None], 4, 0))
    assert found.p == pytest.approx(stats.ttest_1samp(prompts, 0).pvalue)
    assert st.over_prompts(prompts).p == pytest.approx(found.p)


def test_equal_values_are_no_difference_and_no_division_by_zero() -> None:
    same = st.crossed(np.zeros((3, 4)))
    assert (same.p, same.interval, same.detectable()) == (1.0, (0.0, 0.0), 0.0)
    assert st.crossed(np.full((3, 4), 0.5)).p == 0.0
    with pytest.raises(ValueError, match="two seeds"):
        st.crossed(np.zeros((1, 4)))


def test_power_as_the_noncentral_t_has_it() -> None:
    for df, effect in ((4, 1.5), (8, 3.0), (60, 2.8)):
        critical = stats.t.ppf(0.975, df)
        exact = stats.nct.sf(critical, df, effect) + stats.nct.cdf(-critical, df, effect)
        assert st.power(effect, df) == pytest.approx(exact, abs=1e-3)
    assert st.power(0.0, 2) == pytest.approx(0.05, abs=1e-3)
    assert st.power(1.959964 + 0.841621, 1e6) == pytest.approx(0.8, abs=1e-3)  # z of 97.5 % and of 80 %
    assert st.power(st.Estimate(0, 0.5, 1).detectable() / 0.5, 1) == pytest.approx(0.8, abs=1e-3)


# --- by simulation ----------------------------------------------------------------------------------------------------


def scores(rng: np.random.Generator, runs: int, seeds: int, prompts: int, quality: float = 0.0) -> np.ndarray:
    """(runs, seeds, prompts) of an algorithm: some luck of a whole run, some of each answer."""
    return quality + rng.normal(0, 0.1, (runs, seeds, 1)) + rng.normal(0, 1, (runs, seeds, prompts))


@pytest.mark.parametrize("seeds", [3, 5])
def test_identical_algorithms_differ_at_the_nominal_rate(seeds: int) -> None:
    rng = RNG(seeds)
    hard = rng.normal(0, 2, (400, 1, 64))  # prompts are as hard for both
    a, b = (hard + scores(rng, 400, seeds, 64) for _ in range(2))
    found = sum(st.crossed(x - y).p < 0.05 for x, y in zip(a, b, strict=True))
    assert 6 <= found <= 34, found  # 400 · 0.05 = 20, ± 3.2 standard deviations


def test_the_rate_holds_where_algorithms_have_favourite_prompts_and_scores_are_right_or_wrong() -> None:
    rng = RNG(9)
    liking = rng.normal(0, 0.6, (400, 1, 64))  # of one algorithm, for some prompts; new prompts have new likings
    chance = [1 / (1 + np.exp(-(scores(rng, 400, 3, 64) + sign * liking))) for sign in (1, -1)]
    a, b = ((rng.random(p.shape) < p).astype(float) for p in chance)
    found = sum(st.crossed(x - y).p < 0.05 for x, y in zip(a, b, strict=True))
    assert found <= 34, found


def test_a_better_algorithm_is_found_with_the_power_computed() -> None:
    rng = RNG(1)
    se = (2 * (0.1**2 + 1 / 64) / 5) ** 0.5  # of the mean difference over 5 seeds
    effect = st.Estimate(0.0, se, 4).detectable(0.8)
    a, b = scores(rng, 400, 5, 64, effect), scores(rng, 400, 5, 64)
    estimates = [st.crossed(x - y) for x, y in zip(a, b, strict=True)]
    found = np.mean([each.p < 0.05 for each in estimates])
    assert found == pytest.approx(0.8, abs=0.064)  # 3.2 standard deviations of 400
    covered = np.mean([each.interval[0] <= effect <= each.interval[1] for each in estimates])
    assert covered == pytest.approx(0.95, abs=0.035)
    assert np.mean([each.se**2 for each in estimates]) ** 0.5 == pytest.approx(se, rel=0.12)
    # a comparison only knows its own error, which is s = σ·√(χ²₄/4): its median is below σ
    told = np.median([each.detectable() for each in estimates])
    assert told == pytest.approx(effect * (stats.chi2.median(4) / 4) ** 0.5, rel=0.07)


def test_holm_keeps_the_whole_family_at_its_level() -> None:
    rng = RNG(4)
    families = 0
    for _ in range(300):
        a, b, c = (scores(rng, 1, 4, 32)[0] for _ in range(3))
        families += min(st.holm([st.crossed(x - y).p for x, y in ((a, b), (a, c), (b, c))])) < 0.05
    assert families <= 27, families  # 300 · 0.05 = 15, + 3.2 standard deviations
