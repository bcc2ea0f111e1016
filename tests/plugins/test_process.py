"""Process supervision, generative verifiers, ensembles and demonstrations: by hand, on policies of a few weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignzoo import Batch, DataError, Forward, Group, PluginError, Policy, Prompt, Score, StepReport, opened
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.interfaces import CheckContext, PolicyInfo
from alignzoo.testing import toy_batch
from alignzoo.testing.world import ToyPolicy, toy_policy
from alignzoo_imitation.sft import SFT
from alignzoo_policy_gradient.chord import CHORD
from alignzoo_policy_gradient.demonstrations import AndDemonstrations
from alignzoo_policy_gradient.ensemble_grpo import EnsembleGRPO
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_policy_gradient.ppo import PPO
from alignzoo_policy_gradient.ppo_ptx import PPOptx
from alignzoo_process.generative import GenerativeRewardModel, Verdicts
from alignzoo_process.implicit import ImplicitReward
from alignzoo_process.math_shepherd import MathShepherd
from alignzoo_process.model import ProcessRewardModel
from alignzoo_process.reward import ProcessReward
from alignzoo_process.segments import ends, steps_of, token_counts
from alignzoo_process.steps import Steps
from alignzoo_reward_models.outcome import OutcomeRewardModel
from objectives import answers, logistic, objective

# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strings", "text", "separator", "counts"),
    [
        (["a", "\n", "b", "b", "</s>"], "a\nbb", "\n", [1, 4]),
        (["a", " b", " c", "</s>"], "a b c", " ", [1, 2, 3]),
        (["▁a", "▁b"], "a▁b", "▁", [1, 2]),
        (["x\n", "\ny", "\n"], "x\n\ny\n", "\n", [1, 2]),
        (["abc"], "a\nb", ";", [1]),
        ([], "", "\n", []),
    ],
    ids=["apart", "at the next token's head", "white space before", "blank lines", "one step", "empty"],
)
def test_the_tokens_of_each_step(strings: list[str], text: str, separator: str, counts: list[int]) -> None:
    assert token_counts(strings, text, separator) == counts
    assert len(ends(text, separator)) == len(steps_of(text, separator)) == len(counts)


def test_a_step_is_read_with_what_comes_before_it() -> None:
    prompt = Prompt("q", ("one", "two", "three"), (1.0, 0.5, 0.0))
    (group,) = Steps(separator=" ").sample([prompt], toy_policy(0), seeds=[0])
    whole = toy_policy(0).encode(prompt, ["one", "one two", "one two three"]).completions
    assert [each.text for each in group.completions] == [each.text for each in whole]
    assert group.completions[0].tokens == whole[0].tokens[:-1] and group.completions[2].tokens == whole[2].tokens
    assert [score.value for score in group.scores or ()] == [1.0, 0.5, 0.0]
    with pytest.raises(DataError, match="3 steps but 2 labels"):
        Steps().sample([replace(prompt, labels=(1.0, 0.0))], toy_policy(0), seeds=[0])


def test_pairs_and_whole_answers_are_no_steps(alignzoo, plain_model: Path, tmp_path: Path) -> None:
    def told(rows: list[dict[str, object]], *settings: str) -> str:
        data = tmp_path / "rows.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        more = (f"policy.model={plain_model}", f"data.path={data}", "data.heldout=0.25", "schedule.steps=1")
        said = alignzoo("run", "process-reward-model", *more, *settings, "--out", tmp_path / f"out{len(settings)}")
        return said.err if said.code else ""

    pairs = [{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(8)]
    steps = [{"prompt": f"{n}", "completions": ["a", "b"], "scores": [1, n % 2]} for n in range(8)]
    assert "as a preference pair has" in told(pairs)
    assert "set sampler=steps" in told(steps, "sampler=dataset")
    assert not told(steps, "schedule.prompts=2", "evaluate.prompts=2")
    trl = [{"prompt": f"{n}", "completions": ["a", "b", "c"], "labels": [True, True, n % 2 > 0]} for n in range(8)]
    assert "say format = 'stepwise'" in told(trl)
    assert not told(trl, "data.format=stepwise", "schedule.prompts=2", "evaluate.prompts=2")


def test_a_process_reward_model_learns_soft_labels_and_is_an_outcome_model_on_hard_ones() -> None:
    found = objective(ProcessRewardModel(), answers([0.25, 1.0]), scores=[0.4, -1.0])
    assert found.loss == pytest.approx((0.25 * logistic(0.4) + 0.75 * logistic(-0.4) + logistic(-1.0)) / 2)
    assert found.gradient["scores"][0] == pytest.approx((1 / (1 + math.exp(-0.4)) - 0.25) / 2)
    right, outcome = answers([0.0, 1.0]), OutcomeRewardModel()
    hard = objective(ProcessRewardModel(), right, scores=[0.4, -1.0])
    assert hard.loss == pytest.approx(objective(outcome, right, scores=[0.4, -1.0]).loss)


class Speaking(ToyPolicy):
    """A toy policy that says what its tokens are: a number and a space each."""

    def info(self) -> PolicyInfo:
        return PolicyInfo(token_strings=lambda tokens: [f" {token}" for token in tokens])


@dataclass(frozen=True)
class LastEven:
    """Right is an answer whose last word is an even number."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(float(not int((c.text.split() or ["1"])[-1]) % 2)) for c in g.completions) for g in groups]


def test_math_shepherd_labels_a_step_by_the_rollouts_from_its_end() -> None:
    policy = Speaking(3)
    prompts, seeds = [Prompt("a"), Prompt("b")], [1, 2]
    soft = MathShepherd(LastEven(), n=1, rollouts=16, separator=" ").sample(prompts, policy, seeds=seeds)
    hard = MathShepherd(LastEven(), n=1, rollouts=16, separator=" ", hard=True).sample(prompts, policy, seeds=seeds)
    solved = policy.generate(prompts, 1, seeds=[fn.derive(seed, "solution") for seed in seeds])
    for place, (group, other, whole) in enumerate(zip(soft, hard, solved, strict=True)):
        (answer,) = whole.completions
        labels = [score.value for score in group.scores or ()]
        assert [token for each in group.completions for token in each.tokens] == list(answer.tokens)
        assert labels[-1] == float(not answer.tokens[-1] % 2)
        for step, label in enumerate(labels[:-1], 1):
            prefix = whole.prompt_tokens + answer.tokens[:step]
            (rolled,) = policy.go_on([prefix], 16, seeds=[fn.derive(fn.derive(seeds[place], 0), "rollout", step)])
            ended = [(answer.tokens[:step] + each.tokens)[: -1 if each.finished else None] for each in rolled]
            assert label == sum(not tokens[-1] % 2 for tokens in ended) / 16
        assert [score.value for score in other.scores or ()] == [float(bool(label)) for label in labels]
    with pytest.raises(PluginError, match="does not say what its tokens are"):
        MathShepherd(LastEven()).sample(prompts, toy_policy(0), seeds=seeds)


@dataclass(frozen=True)
class Words:
    """An answer up to a step is worth as many nats as it has words, less two."""

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return [tuple(Score(len(each.text.split()) - 2.0) for each in group.completions) for group in groups]


def test_the_reward_of_an_answer_from_its_steps() -> None:
    policy = Speaking(3)
    (group,) = policy.generate([Prompt("a")], 4, seeds=[7])
    group = replace(group, completions=tuple(c for c in group.completions if len(c.tokens) > 2))
    chances = [[1 / (1 + math.exp(1 - step)) for step in range(len(c.tokens))] for c in group.completions]
    (least,) = ProcessReward(Words(), separator=" ").score([group], policy)
    assert [score.value for score in least] == pytest.approx([each[0] for each in chances])
    (product,) = ProcessReward(Words(), combine="product", separator=" ").score([group], policy)
    assert [score.value for score in product] == pytest.approx([math.prod(each) for each in chances])
    (dense,) = ProcessReward(Words(), dense=True, separator=" ").score([group], policy)
    assert [list(score.tokens or ()) for score in dense] == [pytest.approx(each) for each in chances]


# --- a generative verifier -------------------------------------------------------------------------------------------


def test_a_verdict_for_each_answer_and_the_good_ones_themselves() -> None:
    prompt = Prompt("2+2=", ("4", "5"), (1.0, 0.0))
    groups = Verdicts().sample([prompt], toy_policy(0), seeds=[0])
    assert [each.completions[0].text for each in groups] == [" yes", "4", " no"]
    assert [each.extra["solution"] for each in groups] == [(0.0,), (1.0,), (0.0,)]
    asked = str(groups[0].prompt.messages)
    assert "2+2=" in asked and '<answer number="1">\n4\n' in asked and asked.endswith("\nReply:")
    assert len(Verdicts(solutions=False).sample([prompt], toy_policy(0), seeds=[0])) == 2


def test_the_verifier_s_loss_is_next_token_prediction() -> None:
    batch = answers([1.0] * 3, [0, 1, 2], solution=[0.0, 0.0, 1.0])
    said = [-1.0, -2.0, -4.0]
    assert objective(GenerativeRewardModel(solutions=0.5), batch, logprobs=said).loss == pytest.approx(1.5 + 0.5 * 4)
    alone = answers([1.0, 1.0], [0, 1])
    plain = objective(SFT(), alone, logprobs=said[:2])
    assert objective(GenerativeRewardModel(), alone, logprobs=said[:2]).loss == pytest.approx(plain.loss)


# --- an ensemble ------------------------------------------------------------------------------------------------------


def several(*members: list[float]) -> Batch:
    batch = answers(members[0])
    return replace(batch, sources={str(i): torch.tensor(each) for i, each in enumerate(members)})


def test_an_ensemble_is_worth_its_mean_less_its_variance_or_its_lowest_member() -> None:
    batch = several([1.0, 3.0, 2.0], [1.0, -1.0, math.nan])
    rewards, spread = EnsembleGRPO(penalty_weight=0.5).ensemble(batch)
    assert spread.tolist() == pytest.approx([0, 4, 0]) and rewards.tolist() == pytest.approx([1, 1 - 2, 2])
    assert EnsembleGRPO(combine="worst").ensemble(batch)[0].tolist() == pytest.approx([1, -1, 2])


def test_an_ensemble_of_one_is_grpo() -> None:
    said: dict[str, Any] = {"logprobs": [-0.9, -1.2, -1.0], "old_logprobs": [-1.0] * 3}
    plain = objective(GRPO(kl=0.0, reduction="token"), answers([1.0, 3.0, 2.0]), **said)
    for part in (EnsembleGRPO(), EnsembleGRPO(combine="worst")):
        assert objective(part, several([1.0, 3.0, 2.0]), **said).loss == pytest.approx(plain.loss)


# --- demonstrations beside a policy gradient --------------------------------------------------------------------------

GIVEN = [Prompt("a", ("yes", "no"), (0.0, 1.0)), Prompt("b", ("maybe",))]


def test_a_demonstration_follows_each_prompt_s_own_answers() -> None:
    policy = toy_policy(0)
    groups = AndDemonstrations(n=2).sample(GIVEN, policy, seeds=[1, 2])
    assert [len(each.completions) for each in groups] == [2, 1, 2, 1]
    assert [groups[1].completions[0].text, groups[3].completions[0].text] == ["no", "maybe"]
    assert groups[0].completions == policy.generate(GIVEN, 2, seeds=[1, 2])[0].completions
    with pytest.raises(DataError, match="no answer to imitate"):
        AndDemonstrations().check(CheckContext(frozenset(), [Prompt("c")], (), True, False, {}))


def mixed() -> Batch:
    """Two answers of one and two tokens, and a demonstration of three."""
    batch = toy_batch([1, 2, 3], group=[0, 0, 1], rewards=[1.0, 0.0, 9.0])
    return replace(batch, extra={"demonstration": torch.tensor([0.0, 0.0, 1.0])})


def loss_of(part: Any, batch: Batch, **columns: Any) -> float:
    laid = {name: fn.scatter(torch.tensor(values), batch.mask) for name, values in columns.items()}
    prepared = part.prepare(batch.answered({name: each for name, each in laid.items() if "_" in name}))
    out = Forward(**{name: each for name, each in laid.items() if "_" not in name})
    return float(fn.weigh(part.loss(prepared, out).loss, prepared.weights, prepared.mask) / len(prepared))


SAID: dict[str, Any] = {"logprobs": [-1.0, -1.2, -0.8, -0.5, -1.0, -2.0], "old_logprobs": [-1.0] * 6}


def test_chord_is_both_losses_by_their_shares() -> None:
    own = mixed().select(slice(0, 2))
    first = {name: values[:3] for name, values in SAID.items()}
    grpo = loss_of(GRPO(kl=0.0, reduction="token"), own, **first)
    nll, phi = 3.5 / 3, sum(math.exp(-x) * (1 - math.exp(-x)) * x for x in (0.5, 1.0, 2.0)) / 3
    assert loss_of(CHORD(mu=0.25, phi=False), mixed(), **SAID) == pytest.approx(0.75 * grpo + 0.25 * nll)
    assert loss_of(CHORD(mu=0.25), mixed(), **SAID) == pytest.approx(0.75 * grpo + 0.25 * phi)
    moved = CHORD(mu=0.9, final_mu=0.1, mu_steps=2)
    for mu in (0.5, 0.1, 0.1):
        moved = moved.next(StepReport(1, 9, {}))
        assert moved.mu == pytest.approx(mu)


def test_ppo_ptx_is_ppo_and_the_likelihood_of_given_text() -> None:
    own = mixed().select(slice(0, 2))
    critic: dict[str, Any] = {"values": [0.1] * 6, "old_values": [0.1] * 6, "entropy": [0.0] * 6}
    both = SAID | critic
    ppo = loss_of(PPO(kl=0.0), own, **{name: values[:3] for name, values in both.items()})
    assert loss_of(PPOptx(kl=0.0, ptx=0.5), mixed(), **both) == pytest.approx(ppo + 0.5 * 3.5 / 3)
    alone = {name: values[:3] for name, values in both.items()}
    assert loss_of(PPOptx(kl=0.0), own, **alone) == pytest.approx(ppo)  # which keeps the laws that given text cannot


@dataclass(frozen=True)
class Toy:
    """The settings of a toy policy."""

    drift: float

    def load(self, needs: frozenset[str]) -> ToyPolicy:
        return toy_policy(drift=self.drift)


def test_an_implicit_reward_is_the_models_log_ratio_at_each_token() -> None:
    model, reference = toy_policy(drift=0.3), toy_policy()
    groups = model.generate([Prompt("a b"), Prompt("c")], 2, seeds=[1, 2])
    batch = collate(groups, scored=False)
    columns = frozenset({"logprobs"})
    with torch.no_grad():
        ratio = model.forward(batch, columns)["logprobs"] - reference.forward(batch, columns)["logprobs"]
    expected = [row[mask].tolist() for row, mask in zip(0.05 * ratio, batch.mask, strict=True)]
    with opened(ImplicitReward(Toy(0.3), Toy(0.0))) as reward:
        scores = [each for group in reward.score(groups, model) for each in group]
        assert reward.score([], model) == []
    assert any(abs(each) > 1e-3 for row in expected for each in row)
    for score, row in zip(scores, expected, strict=True):
        assert score.value is None and list(score.tokens or ()) == pytest.approx(row)
    with opened(ImplicitReward(Toy(0.3), Toy(0.0), outcome=True)) as reward:
        whole = [each.value for group in reward.score(groups, model) for each in group]
    assert whole == pytest.approx([sum(row) for row in expected])
