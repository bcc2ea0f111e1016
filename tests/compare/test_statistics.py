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
    assert (float(found.mean), found.df_runs, found.df_prompts) == (4.0, 1.0, 1.0)
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
    alike = st.Crossed(np.full((2, 3, 4), 0.5)).differences([0], [1]).estimate()[0]
    assert alike.identical and alike.p == 1.0
    scores = RNG(3).normal(0.0, 1.0, (3, 3, 8))
    scores[1] = scores[0]  # with an error that is borrowed from the third, which differs
    squares = st.Crossed(scores).differences([0, 0, 1], [1, 2, 2])
    found = squares.estimate(squares.runs.mean(-1, keepdims=True), 2.0)
    assert [found[i].identical for i in range(3)] == [True, False, False] and found[0].se > 0
    with pytest.raises(ValueError, match="two seeds"):
        st.crossed(np.zeros((1, 4)))


def test_coincidences_are_no_certainty() -> None:
    one_each = np.zeros((3, 64))  # one prompt more right per seed, each time another one: the seeds' means are equal
    one_each[range(3), (5, 17, 40)] = 1.0
    found = st.crossed(one_each)
    assert found.p == pytest.approx(
        (63 / 64) ** 64
    )  # no prompt of 64 may differ with this probability at a rate of 1/64
    assert found.interval[0] < 0 < found.interval[1]
    same = st.crossed(np.full((3, 4), 0.25))  # the same difference everywhere
    assert 0 < same.p < 0.01 and same.interval[0] < 0.25 < same.interval[1]
    # the floor by hand: seeds' means alike; MS_rest of these two prompts is 1, so Var = (0.1·1 + max(0 - 1, 0)) / 4
    found = st.crossed(np.array([[0.5, 1.5], [1.5, 0.5]]))
    assert (float(found.mean), float(found.se)) == (1.0, pytest.approx((0.1 / 4) ** 0.5))


def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero() -> None:
    found = st.crossed(RNG(3).normal(0.4, 1, (3, 16)) + RNG(4).normal(0, 0.3, (3, 1)))
    low, high = found.at(found.p)
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)
    for level in (0.05, 0.05 / 45):  # at every level, not only at 5 %: the critical values are those of the level
        parts = [stats.t.isf(level / 2, df) for df in (2, 15)]
        weight = found.by_runs / (found.by_runs + found.by_prompts)
        assert found.critical(level) == pytest.approx(weight * parts[0] + (1 - weight) * parts[1])


def test_shares_stay_shares_and_none_is_certain() -> None:
    # of n = 64, all right: Wilson's lower end n/(n + t²) with t of 63 degrees of freedom
    all_right = st.Crossed(np.ones((1, 3, 64))).means().estimate(kind="share")[0]
    assert all_right.interval == (pytest.approx(64 / (64 + stats.t.isf(0.025, 63) ** 2)), 1.0)
    all_tied = st.over_prompts(np.full(64, 0.5), "share").interval
    assert 0.35 < all_tied[0] < 0.45 and all_tied[0] + all_tied[1] == pytest.approx(1)
    one_seed = st.over_prompts(np.zeros(4), "share")
    assert one_seed.interval[0] == 0.0 and one_seed.interval[1] > 0.6  # 4 of 4 wrong: exactly 0.60
    few = st.Crossed((RNG(0).random((1, 2, 64)) < 0.98).astype(float)).means().estimate(kind="share")[0]
    assert 0 <= few.interval[0] < few.mean < few.interval[1] <= 1
    # where runs do not matter it is Wilson's interval of scipy, with t for z
    answers = (RNG(1).random((1, 2000, 2)) < 0.3).astype(float)
    found = st.Crossed(answers).means().estimate(kind="share")[0]
    wilson = stats.binomtest(int(answers.sum()), answers.size).proportion_ci(method="wilson")
    assert found.interval == (pytest.approx(wilson.low, abs=0.003), pytest.approx(wilson.high, abs=0.003))


def test_every_difference_at_once_is_each_by_itself() -> None:
    values = RNG(6).normal(size=(4, 3, 16))
    together = st.Crossed(values).differences([0, 1, 2], [3, 3, 1]).estimate()
    for number, (i, j) in enumerate(((0, 3), (1, 3), (2, 1))):
        alone = st.crossed(values[i] - values[j])
        assert together[number].interval == pytest.approx(alone.interval)
        assert together[number].p == pytest.approx(alone.p)


def test_shrinkage_by_hand() -> None:
    # means of runs 0, 2 and 0, 4 and 0, 0: MS_runs = P·s² = 2·2, 2·8, 0; the mean is 20/3; w = 2.5/(2.5 + 1)
    values = np.repeat(np.array([[0.0, 2.0], [0.0, 4.0], [0.0, 0.0]])[:, :, None], 2, axis=2)
    squares = st.Crossed(values).means()
    assert squares.runs == pytest.approx([4, 16, 0])
    found = squares.estimate(squares.runs.mean(keepdims=True), 3.0)
    w = 2.5 / 3.5
    assert found.by_runs * 4 == pytest.approx([(1 - w) * own + w * 20 / 3 for own in (4, 16, 0)])
    assert found.df_runs == pytest.approx(1 / ((1 - w) ** 2 * 2 / 3 + 1 / 3))


def test_an_event_that_was_not_seen_may_be_as_likely_as_clopper_and_pearson_say() -> None:
    assert st.unseen(64) == pytest.approx(stats.binomtest(0, 64).proportion_ci(0.90).high)  # one-sided at 5 %


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


def test_a_better_algorithm_is_found_with_the_power_planned() -> None:
    rng = RNG(1)
    effect = 0.3
    a, b = scores(rng, 400, 5, 64, effect), scores(rng, 400, 5, 64)
    estimates = [st.crossed(x - y) for x, y in zip(a, b, strict=True)]
    covered = np.mean([each.interval[0] <= effect <= each.interval[1] for each in estimates])
    assert covered == pytest.approx(0.95, abs=0.035)
    se = (2 * (0.1**2 + 1 / 64) / 5) ** 0.5  # of the mean difference over 5 seeds
    assert np.mean([each.se**2 for each in estimates]) ** 0.5 == pytest.approx(se, rel=0.12)
    found = np.mean([each.p < 0.05 for each in estimates])
    exact = stats.nct.sf(stats.t.isf(0.025, 4), 4, effect / se)
    assert found == pytest.approx(exact, abs=0.08)  # 3.2 standard deviations of 400
    # what is planned for 80 % rests on the standard error of one comparison, whose median is below the true one
    assert np.median([each.detectable() for each in estimates]) == pytest.approx(
        se * (stats.t.isf(0.025, 4) + stats.norm.ppf(0.8)) * (stats.chi2.median(4) / 4) ** 0.5, rel=0.1
    )


def test_holm_keeps_the_whole_family_at_its_level() -> None:
    rng = RNG(4)
    families = 0
    for _ in range(300):
        a, b, c = (scores(rng, 1, 4, 32)[0] for _ in range(3))
        families += min(st.holm([st.crossed(x - y).p for x, y in ((a, b), (a, c), (b, c))])) < 0.05
    assert families <= 27, families  # 300 · 0.05 = 15, + 3.2 standard deviations
