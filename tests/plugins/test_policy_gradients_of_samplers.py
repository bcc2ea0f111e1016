"""Policy gradients that need a sampler of their own, a teacher or dense rewards: by hand, and where others are the
same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignzoo import DataError, Group, PluginError, Prompt, Score, StepReport
from alignzoo import functional as fn
from alignzoo.decoding import Decoding
from alignzoo.interfaces import CheckContext
from alignzoo.testing import toy_batch
from alignzoo.testing.world import toy_policy
from alignzoo_policy_gradient.a_star_po import AStarPO, WithOptimalValue
from alignzoo_policy_gradient.dcpo import DCPO, Remembering
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.kdrl import KDRL
from alignzoo_policy_gradient.prime import PRIME
from alignzoo_policy_gradient.remax import AndGreedy, ReMax
from alignzoo_policy_gradient.rloo import RLOO
from alignzoo_samplers import PolicySampler
from objectives import answers, objective

SEEDS = [3, 4]
PROMPTS = [Prompt("a", index=0), Prompt("b", index=1)]


def under(sampler: Any) -> CheckContext:
    return CheckContext(frozenset(), (), (), True, False, {}, sampler)


# --- ReMax ----------------------------------------------------------------------------------------------------------


def test_remax_takes_the_greedy_answer_for_its_baseline() -> None:
    batch = answers([1.0, 0.0, 0.5], greedy=[0.0, 0.0, 1.0])
    found = objective(ReMax(kl=0.0), batch, logprobs=[-1.0, -2.0, -3.0])
    assert found.loss == pytest.approx((0.5 * 1 - 0.5 * 2) / 2)  # advantages 0.5 and -0.5, of two samples
    assert found.gradient["logprobs"].tolist() == pytest.approx([-0.25, 0.25, 0.0])
    apart: dict[str, Any] = {"old_logprobs": [-1.0, -1.0, 0.0], "ref_logprobs": [-1.5, -1.0, 9.0]}
    kept = objective(ReMax(kl=0.2), batch, logprobs=[-1.0, -2.0, -3.0], **apart)
    assert kept.prepared.advantages.tolist() == pytest.approx([0.4, -0.5])  # 1 - 0.2·0.5 - 0.5, and no KL


def test_remax_is_reinforce_with_the_mean_where_the_greedy_answer_is_as_good() -> None:
    rewards, said = [1.0, 0.0, 2.0, 1.0], [-1.0, -2.0, -1.5, -1.0]
    found = objective(ReMax(kl=0.0), answers([*rewards, 1.0], greedy=[0.0] * 4 + [1.0]), logprobs=[*said, -9.0])
    centred = GRPO(kl=0.0, scale="none", reduction="sum")
    plain = objective(centred, answers(rewards), logprobs=said, old_logprobs=said)
    assert found.gradient["logprobs"][:4].tolist() == pytest.approx(plain.gradient["logprobs"].tolist(), abs=1e-6)


def test_and_greedy_brings_samples_and_the_greedy_answer() -> None:
    policy = toy_policy(0)
    groups = AndGreedy(n=2).sample(PROMPTS, policy, seeds=SEEDS)
    greedy = policy.generate(PROMPTS, 1, seeds=[9, 9], decoding=Decoding(greedy=True))
    for group, one in zip(groups, greedy, strict=True):
        assert group.extra["greedy"] == (0.0, 0.0, 1.0)
        assert group.completions[2].tokens == one.completions[0].tokens and group.completions[2].logprobs is None


@pytest.mark.parametrize(("part", "told"), [(ReMax(), "sampler=and-greedy"), (AStarPO(), "with-optimal-value")])
def test_without_its_sampler_a_method_is_refused(part: Any, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        part.check(under(PolicySampler(8)))
    for sampler in (AndGreedy(), WithOptimalValue()):
        if told.endswith("greedy") == isinstance(sampler, AndGreedy):
            part.check(under(sampler))


# --- A*-PO ----------------------------------------------------------------------------------------------------------


def test_the_optimal_value_lies_between_the_mean_and_the_best() -> None:
    prompt = Prompt("a", ("x", "y"), (1.0, 0.0))
    (group,) = WithOptimalValue(n=2, beta=0.5).sample([prompt], toy_policy(0), seeds=[1])
    assert group.extra["optimal_value"] == pytest.approx((0.5 * math.log((math.e**2 + 1) / 2),) * 2)
    for beta, value in ((1e-3, 1.0), (1e4, 0.5)):
        (group,) = WithOptimalValue(beta=beta).sample([prompt], toy_policy(0), seeds=[1])
        assert group.extra["optimal_value"][0] == pytest.approx(value, abs=1e-3)
    with pytest.raises(DataError, match="no scored answers"):
        WithOptimalValue().sample(PROMPTS, toy_policy(0), seeds=SEEDS)


def test_a_star_po_is_content_with_the_policy_that_is_optimal() -> None:
    batch = answers([1.0, 0.0], optimal_value=[0.25, 0.25])
    found = objective(AStarPO(beta=0.5), batch, logprobs=[-1.0, -2.0], ref_logprobs=[-2.0, -2.0])
    # errors: 0.5·1 - 0.75 and 0 + 0.25
    assert found.loss == pytest.approx((0.0625 + 0.0625) / 2)
    ideal: dict[str, Any] = {"logprobs": [-0.5, -2.5], "ref_logprobs": [-2.0, -2.0]}  # log-ratios (r - V*)/β
    assert objective(AStarPO(beta=0.5), batch, **ideal).loss == pytest.approx(0)


# --- DCPO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "low", "high"), [(0.9, 0.69, 1.06), (0.01, 0.005, 0.05)])
def test_the_bounds_of_dcpo_are_those_of_the_paper_s_table(q: float, low: float, high: float) -> None:
    def pulls(p: float, reward: float) -> float:
        said: dict[str, Any] = {"logprobs": [math.log(p), -1.0], "old_logprobs": [math.log(q), -1.0]}
        return float(objective(DCPO(), answers([reward, 1 - reward]), **said).gradient["logprobs"][0])

    assert pulls(high * 0.98, 1.0) and not pulls(high * 1.03, 1.0)
    assert pulls(low * 1.03, 0.0) and not pulls(low * 0.95, 0.0)


def test_dcpo_learns_from_former_rewards_where_a_group_is_tied() -> None:
    one, two = [1.0] * 2, [2.0] * 2
    seen = {"former_steps": one, "former_answers": two, "former_sum": one, "former_squares": one}
    credit = DCPO().credit(answers([1.0, 1.0], **seen))
    # of 1, 0, 1, 1 the mean is 0.75 and the deviation 0.5; half of it counts in the second step
    assert credit.tolist() == pytest.approx([0.25, 0.25], rel=1e-3)
    third = {**seen, "former_steps": [2.0] * 2}
    assert DCPO().credit(answers([1.0, 1.0], **third)).tolist() == pytest.approx([0.5 / 3] * 2, rel=1e-3)
    fresh = answers([1.0, 0.0, 0.5])
    torch.testing.assert_close(DCPO().credit(fresh), fn.group_advantages(fresh), rtol=1e-3, atol=1e-4)


def test_remembering_tells_what_former_answers_were_worth() -> None:
    policy, sampler = toy_policy(0), Remembering(n=2)
    groups = sampler.sample(PROMPTS, policy, seeds=SEEDS)
    assert groups[0].extra["former_answers"] == (0.0, 0.0)
    scored = tuple(replace(group, scores=(Score(1.0), Score(None))) for group in groups[:1])
    after = sampler.next(StepReport(1, 2, {}, scored)).next(StepReport(2, 2, {}, scored))
    first, second = after.sample(PROMPTS, policy, seeds=SEEDS)
    assert [first.extra[name][0] for name in first.extra] == [2.0, 2.0, 2.0, 2.0]
    assert not any(any(column) for column in second.extra.values())


# --- a teacher, and dense rewards -----------------------------------------------------------------------------------


def test_kdrl_without_a_teacher_s_weight_is_grpo() -> None:
    said: dict[str, Any] = {"logprobs": [-0.9, -1.2], "old_logprobs": [-1.0, -1.0]}
    batch = answers([1.0, 0.0])
    found = objective(KDRL(teacher_kl=0.0), batch, **said, teacher_logprobs=[-5.0, -5.0])
    plain = objective(GRPO(kl=0.0, reduction="token"), batch, **said)
    assert found.loss == pytest.approx(plain.loss)
    taught = objective(KDRL(teacher_kl=0.5), batch, **said, teacher_logprobs=[-0.5, -2.2])
    # 0.5·½·(0.4² + 1²)/2 more, and its gradient is 0.5·(log π - log π_T)/2
    assert taught.loss - plain.loss == pytest.approx(0.5 * 0.5 * (0.16 + 1) / 2)
    more = taught.gradient["logprobs"] - plain.gradient["logprobs"]
    assert more.tolist() == pytest.approx([-0.1, 0.25])


def test_prime_credits_outcomes_and_steps_apart() -> None:
    batch = toy_batch([2, 1], group=[0, 0], rewards=[1.0, 0.0])
    loo = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(PRIME().credit(batch)[batch.mask], loo[[0, 0, 1]])
    torch.testing.assert_close(RLOO(kl=0.0).prepare(batch).advantages, loo)
    dense = replace(batch, token_rewards=fn.scatter(torch.tensor([1.0, 2.0, 3.0]), batch.mask))
    # means 1.5 and 3: centred by the other's -2, -1 and 1.5; to go -3, -1 and 1.5
    torch.testing.assert_close(PRIME().credit(dense)[batch.mask], torch.tensor([1.0 - 3.0, 1.0 - 1.0, -1.0 + 1.5]))
    torch.testing.assert_close(PRIME(process=0.0).credit(dense), PRIME().credit(batch))


def test_a_group_s_prompt_and_samples_are_as_the_policy_makes_them() -> None:
    policy = toy_policy(0)
    plain: list[Group] = policy.generate(PROMPTS, 2, seeds=SEEDS)
    for sampler in (AndGreedy(n=2), Remembering(n=2)):
        for group, own in zip(sampler.sample(PROMPTS, policy, seeds=SEEDS), plain, strict=True):
            assert group.completions[:2] == own.completions and group.prompt_tokens == own.prompt_tokens
