"""Teachers that are the policy itself: shown an answer, hinted at one, or measured by its reference's answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from alignzoo import DataError, Group, PluginError, Policy, Prompt, Score
from alignzoo.batching import collate
from alignzoo.functional import derive
from alignzoo.interfaces import CheckContext
from alignzoo.testing.world import toy_policy
from alignzoo_distillation.j_bond import BesideAnchor
from alignzoo_distillation.self_distillation import SelfDistillation
from alignzoo_distillation.shown_answer import ShownAnswer
from alignzoo_distillation.vbon import VBoN
from alignzoo_imitation.rationalised import Rationalised
from alignzoo_samplers import PolicySampler
from objectives import answers, objective

PROMPTS, SEEDS = [Prompt("a", ("x y",), (1.0,)), Prompt("b c", ("no", "yes"), (0.0, 1.0))], [3, 4]


def test_a_token_is_worth_how_much_likelier_the_shown_answer_makes_it() -> None:
    policy = toy_policy(drift=0.5)
    groups = ShownAnswer(2, "{answer} / {prompt}").sample(PROMPTS, policy, seeds=SEEDS)
    for group, plain, head in zip(
        groups, policy.generate(PROMPTS, 2, seeds=SEEDS), ("x y / a", "yes / b c"), strict=True
    ):
        assert [each.tokens for each in group.completions] == [each.tokens for each in plain.completions]
        shown = replace(plain, prompt_tokens=policy.encode(Prompt(head), ["."]).prompt_tokens)
        with policy.answering("ref"):
            one, other = (policy.forward(collate([g], scored=False), frozenset({"logprobs"})) for g in (shown, plain))
        for i, score in enumerate(group.scores or ()):
            told = one["logprobs"][i, len(shown.prompt_tokens) :] - other["logprobs"][i, len(plain.prompt_tokens) :]
            assert score.tokens == pytest.approx(told[: len(plain.completions[i].tokens)].tolist(), abs=1e-6)
            assert score.value == 0 and score.parts["gain"] == pytest.approx(sum(score.tokens or ()))


def test_a_shown_answer_stands_in_the_last_turn_and_must_be_there() -> None:
    turns = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    given = ({"role": "assistant", "content": "right"},)
    shown = ShownAnswer(1, "{prompt}: {answer}")._shown(Prompt(turns, (given,)))
    assert shown.messages == (turns[0], {"role": "user", "content": "q: right"})
    with pytest.raises(DataError, match="no answer that its teacher could be shown"):
        ShownAnswer().sample([Prompt("a")], toy_policy(0), seeds=[1])
    with pytest.raises(ValueError, match="nothing would be shown"):
        ShownAnswer(1, "{prompt}")
    context = CheckContext(SelfDistillation.needs, (), (), True, False, {}, PolicySampler(2))
    with pytest.raises(PluginError, match="sampler=shown-answer"):
        SelfDistillation().check(context)


def test_self_distillation_is_the_policy_gradient_of_the_log_ratio_to_the_teacher() -> None:
    batch = replace(answers([0.0, 0.0]), token_rewards=torch.tensor([[0.0, 0.7], [0.0, -0.2]]))
    found = objective(
        SelfDistillation(), batch, logprobs=[-1.0, -2.0], old_logprobs=[-1.1, -2.0], ref_logprobs=[-1.4, -2.0]
    )
    # log π_T(shown) = -1.4 + 0.7 and -2 - 0.2; less log π_old: 0.4 and -0.2
    assert found.prepared.advantages[:, 1].tolist() == pytest.approx([0.4, -0.2])
    ratio = math.exp(0.1)
    assert found.loss == pytest.approx((-ratio * 0.4 + 0.2) / 2)
    assert found.gradient["logprobs"].tolist() == pytest.approx([-ratio * 0.4 / 2, 0.1])
    assert SelfDistillation(follows=0.05).follow(3) == {"ref": 0.05} and SelfDistillation().follow(3) == {}


def test_vbon_is_the_log_quantile_among_the_references_answers() -> None:
    batch = answers([2.0, 0.0, 1.0, 2.0, 3.0], by_anchor=[0.0, 0.0, 1.0, 1.0, 1.0])
    said = {"logprobs": [-1.0] * 5, "old_logprobs": [-1.0, -1.0, -9.0, -9.0, -9.0], "ref_logprobs": [-1.5] + [-1.0] * 4}
    found = objective(VBoN(n=4), batch, **said)
    # of three answers of the reference two are worth 2 or less, and none 0 or less: F = 3/4 and 1/4
    one, other = 3 * math.log(3 / 4) - 0.5, 3 * math.log(1 / 4)
    half = (one - other) / 2
    assert found.prepared.advantages.tolist() == pytest.approx([half, -half])
    assert found.gradient["logprobs"].tolist() == pytest.approx([-half / 2, half / 2, 0, 0, 0])
    scaled = objective(VBoN(n=4), replace(batch, rewards=batch.rewards**3 + 5), **said)  # the order alone counts
    assert scaled.loss == found.loss and scaled.gradient["logprobs"].tolist() == found.gradient["logprobs"].tolist()


def test_vbon_wants_the_references_answers_and_the_anchor_brings_as_many_as_are_asked_for() -> None:
    context = CheckContext(VBoN.needs, (), (), True, False, {}, PolicySampler(2))
    with pytest.raises(PluginError, match="sampler=beside-anchor"):
        VBoN().check(context)
    (group,) = BesideAnchor(n=2, anchors=3).sample([Prompt("a")], toy_policy(0), seeds=[1])
    assert group.extra["by_anchor"] == (0.0, 0.0, 1.0, 1.0, 1.0) and len(group.completions) == 5


@dataclass(frozen=True)
class EvenLength:
    """Right is an answer with an even number of tokens."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(len(each.tokens) % 2 == 0)) for each in group.completions) for group in groups]


def test_a_prompt_without_a_right_solution_is_asked_again_with_a_hint() -> None:
    policy = toy_policy(drift=0.5)
    prompts = [Prompt(f"q{i}", info={"answer": "x y z"}) for i in range(8)]
    seeds = list(range(8))
    sampler = Rationalised(EvenLength(), n=1, template="{answer} {prompt}")
    groups = sampler.sample(prompts, policy, seeds=seeds)
    own = policy.generate(prompts, 1, seeds=[derive(seed, "own") for seed in seeds])
    hinted = [replace(each, messages=f"x y z {each.messages}") for each in prompts]
    again = policy.generate(hinted, 1, seeds=[derive(seed, "hinted") for seed in seeds])
    sizes = set()
    for group, first, second in zip(groups, own, again, strict=True):
        right = len(first.completions[0].tokens) % 2 == 0
        expected = [first.completions[0].tokens] + ([] if right else [second.completions[0].tokens])
        assert [each.tokens for each in group.completions] == expected
        assert [score.value for score in group.scores or ()] == [float(len(tokens) % 2 == 0) for tokens in expected]
        assert group.prompt_tokens == first.prompt_tokens  # the hint is not in what is trained on
        assert all(each.logprobs is None for each in group.completions[1:])
        sizes.add(len(expected))
    assert sizes == {1, 2}
    with pytest.raises(DataError, match="no column 'answer' to hint at"):
        sampler.sample([Prompt("q")], policy, seeds=[0])
