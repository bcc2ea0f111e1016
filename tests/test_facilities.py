"""What the contracts carry beside one policy and one source, each shown by a small plugin through public names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from alignzoo import Batch, Decoding, Forward, ModelError, Prompt, Score, StepReport, Terms, columns, cost
from alignzoo import functional as fn
from alignzoo.batching import collate, fill, only
from alignzoo.cli import card
from alignzoo.registry import Registry
from alignzoo.registry.registrar import check_part
from alignzoo.schedule import Schedule
from alignzoo.testing import ToyPolicy, check_optimizer, check_sampler, toy_batch, toy_groups, toy_policy, toy_prompts
from alignzoo.training.passes import Facts, passes
from alignzoo_hf.model.spec import HF
from alignzoo_samplers import PolicySampler

FILES = ("lagrange", "ptx", "verifier")


@pytest.fixture(scope="module")
def zoo() -> Registry:
    registry = Registry()
    for name in FILES:
        registry.add_file(Path(__file__).parent / "public_api" / f"alignzoo_{name}.py")
    return registry


# --- a column more ----------------------------------------------------------------------------------------------------


class Surprised(ToyPolicy):
    """It answers one thing more."""

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        answers = super().forward(batch, columns | {"logprobs"}).columns()
        answers["surprise"] = -answers["logprobs"]
        return Forward.of({name: answers[name] for name in columns})


@dataclass(frozen=True)
class Unsurprised:
    """Be less surprised than before the step and than the reference."""

    epochs: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"surprise", "old_surprise", "ref_surprise"})
    prepare_reads: ClassVar[frozenset[str]] = frozenset({"ref_surprise"})

    def prepare(self, batch: Batch) -> Batch:
        return replace(batch, weights=(batch["ref_surprise"] > 0).float())

    def loss(self, batch: Batch, out: Forward) -> Terms:
        return Terms(out["surprise"] - batch["old_surprise"])


@pytest.fixture
def surprise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A column more: a line in the one table."""
    monkeypatch.setitem(columns.ANSWERS, "surprise", columns.Answer("surprise", "token", "-log π"))  # type: ignore[arg-type]
    yield
    columns.column.cache_clear()


def test_a_column_is_added_in_one_place(surprise: None) -> None:
    """The table alone says what it is; the contract, filling, hiding, passes, cost and the card follow."""
    check_part("optimizer", "unsurprised", Unsurprised)  # raises where it needs what there is not
    needs = Unsurprised.needs
    policy = Surprised()
    policy.drift(0.2, 1)
    batch = collate(toy_groups(), policy.device)
    full = fill(batch, policy, needs)
    for role, spoken in (("old", "old_logprobs"), ("ref", "ref_logprobs")):
        expected = fill(batch, policy, frozenset({spoken}))[spoken]
        torch.testing.assert_close(full[f"{role}_surprise"], -expected)
    assert "ref_surprise" not in only(full, frozenset({"logprobs"})).answers
    plan = passes(Unsurprised(), Schedule(steps=1), Facts(groups=3))
    assert [(each.role, each.how) for each in plan] == [("old", "update"), ("ref", "own"), ("", "update")]
    shape = cost.ModelShape(2, 8, 2, 2, 4, 16, True, 32, 1000, 1000, 600, True)
    work = cost.Work(10, 20, 5)
    assert cost.forward(shape, work, frozenset({"surprise"})) == cost.forward(shape, work)
    said = card.cost(needs, 1)
    assert said["total"] == "5 F at E = 1" and [line["cost"] for line in said["step"]] == ["F", "F", "3·E·F"]


# --- a second trained part --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cost_critic_keeps_the_contract(zoo: Registry) -> None:
    lagrange = zoo.get("optimizer", "lagrange")
    check_optimizer(lagrange())


def test_the_card_counts_each_critic(zoo: Registry) -> None:
    said = card.cost(zoo.get("optimizer", "lagrange").needs, 1)
    assert said["total"] == "4 F + 8 F' at E = 1"  # before the update and 3 of it, for the policy and two critics
    assert [line for line in said["memory"] if "4 W'" in line] == [
        "4 W': the critic of 'cost_values', with its own gradients and moments",
        "4 W': the critic, with its own gradients and moments",
    ]


def test_cost_and_reward_have_a_critic_each(zoo: Registry) -> None:
    # One token a row, so A = R - V: rewards 3 and 1, V 1 and 0: A_r = 2 and 1. Costs 2 and (abstained) 0, V_c 0.5 and
    # 0: A_c = 1.5 and 0. λ = 2: (2 - 3)/3 = -1/3 and (1 - 0)/3 = 1/3.
    lagrange = zoo.get("optimizer", "lagrange")(multiplier=2.0)
    batch = toy_batch([1, 1], group=[0, 1], rewards=[3.0, 1.0])
    batch = replace(batch, sources={"cost": torch.tensor([2.0, math.nan])})
    batch = batch.answered(
        {
            "old_values": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
            "old_cost_values": torch.tensor([[0.0, 0.5], [0.0, 0.0]]),
        }
    )
    prepared = lagrange.prepare(batch)
    torch.testing.assert_close(prepared.advantages[:, 1], torch.tensor([-1 / 3, 1 / 3]))
    torch.testing.assert_close(prepared.extra["cost_returns"][:, 1], torch.tensor([2.0, 0.0]))
    # η = 0.1, mean cost 3 over a limit of 0: 2·e^0.3 = 2.699718
    assert lagrange.next(StepReport(1, 9, {"cost": 3.0})).multiplier == pytest.approx(2.699718)


@pytest.mark.parametrize("settings", [{}, {"critic": "shared"}, {"lora_rank": 2}], ids=["separate", "shared", "lora"])
def test_both_critics_learn_and_are_in_checkpoints(settings: dict[str, Any], plain_model: Path, zoo: Registry) -> None:
    needs = zoo.get("optimizer", "lagrange").needs
    spec = HF(model=str(plain_model), max_new_tokens=4, device="cpu", **settings)
    policy: Any = spec.load(needs)
    groups = policy.generate([Prompt("ab"), Prompt("c")], 2, seeds=[0, 1])
    batch = collate([replace(group, scores=(Score(1.0), Score(0.0))) for group in groups], policy.device)
    before = {name: tensor.clone() for name, tensor in policy.state().items()}
    assert {"critic", "cost_values"} <= {name.split(".")[0] for name in before}
    policy.optimize(lambda parameters: torch.optim.SGD([{"params": each["params"]} for each in parameters], lr=1.0))
    out = policy.forward(batch, frozenset({"values", "cost_values"}))
    policy.backward(sum(((out[name] - 1.0) ** 2 * batch.mask).sum() for name in ("values", "cost_values")))
    policy.step(0.01, 0.0)
    moved = {name.split(".")[0] for name, tensor in policy.state().items() if not torch.equal(tensor, before[name])}
    assert {"critic", "cost_values"} <= moved
    answers = policy.forward(batch, frozenset({"values", "cost_values"}))
    twin: Any = spec.load(needs)
    twin.restore(policy.state())
    again = twin.forward(batch, frozenset({"values", "cost_values"}))
    assert all(torch.equal(answers[name], again[name]) for name in ("values", "cost_values"))
    shape = policy.info().shape
    own = list(cost.critics(shape))
    assert len(own) == (0 if settings.get("critic") == "shared" else 2)
    assert cost.gradient_bytes(shape) >= 4 * sum(each.trained for each in own)


# --- two sources in a step --------------------------------------------------------------------------------------------


def test_two_sources_keep_the_contract(zoo: Registry) -> None:
    check_optimizer(zoo.get("optimizer", "ptx")(), columns=["demonstration"])
    check_sampler(zoo.get("sampler", "beside")())


def test_each_source_has_a_loss_of_its_own(zoo: Registry) -> None:
    # Two own answers of 2 and 1 tokens with the rewards 1 and 0: A = ±0.5/(sd 0.7071 + 1e-4) = ±0.70701. One
    # demonstration of 2 tokens. Means over tokens and over 2 and 1 completions, the latter weighed by γ = 0.5.
    optimizer = zoo.get("optimizer", "ptx")()
    batch = toy_batch([2, 1, 2], group=[0, 0, 1], rewards=[1.0, 0.0, 0.0])
    batch = replace(batch, extra={"demonstration": torch.tensor([0.0, 0.0, 1.0])})
    prepared = optimizer.prepare(batch)
    out = Forward(logprobs=-torch.tensor([2.0, 1.0, 3.0])[:, None] * batch.mask)
    terms = optimizer.loss(prepared, out)
    # (0.70701·2 - 0.70701·1)/2 + 0.5·3 = 1.853505
    assert float(fn.weigh(terms.loss, prepared.weights, batch.mask)) / 3 == pytest.approx(1.853505, rel=1e-5)


def test_the_datas_groups_are_not_scored_again(zoo: Registry) -> None:
    groups = zoo.get("sampler", "beside")().sample(toy_prompts()[:2], toy_policy(), seeds=[0, 1])
    assert [group.scores is None for group in groups] == [True, False, True, False]
    assert [len(group.completions) for group in groups] == [4, 1, 4, 1]


# --- a head for each token --------------------------------------------------------------------------------------------


def test_a_verifier_of_each_token_keeps_the_contract(zoo: Registry) -> None:
    check_optimizer(zoo.get("optimizer", "token-verifier")())


def test_the_scoring_head_answers_at_each_token(plain_model: Path) -> None:
    policy: Any = HF(model=str(plain_model), device="cpu").load(frozenset({"token_scores"}))
    assert policy.lm is None
    group = policy.encode(Prompt("ab"), ["cd", "efg"])
    torch.nn.init.normal_(policy.scorer.score.weight, generator=torch.Generator().manual_seed(0))
    batch = collate([replace(group, scores=(Score(1.0), Score(0.0)))], policy.device)
    with torch.no_grad():
        found = policy.forward(batch, frozenset({"token_scores", "scores"}))
        hidden = policy.scorer.model(batch.tokens, attention_mask=batch.attend.long()).last_hidden_state
        expected = policy.scorer.score(hidden)[..., 0] * batch.mask
    torch.testing.assert_close(found["token_scores"], expected, rtol=1e-4, atol=1e-5)
    last = batch.attend.sum(1) - 1
    torch.testing.assert_close(found["token_scores"][torch.arange(2), last], found["scores"])


# --- generation under a mixture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}], ids=["full", "lora"])
def test_tokens_come_from_a_mixture_of_two_policies(settings: dict[str, Any], plain_model: Path) -> None:
    """Greedy tokens under π^0.6·ref^0.4 and π^1.5·ref^-0.5, in a batch of prompts of unequal lengths, by passes."""
    policy: Any = HF(model=str(plain_model), max_new_tokens=5, device="cpu", **settings).load(
        frozenset({"logprobs", "ref_logprobs"})
    )
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in (each for each in policy.lm.parameters() if each.requires_grad):
            weight += 0.3 * torch.randn(weight.shape, generator=rng)
    prefixes = [(70, 71, 72, 73, 74), (80,)]
    for share in (0.4, -0.5, 1.0):
        decoding = Decoding(greedy=True, mix=(("ref", share),))
        found = policy.go_on(prefixes, 1, seeds=[0, 1], decoding=decoding)
        for prefix, (completion,) in zip(prefixes, found, strict=True):
            expected, own = _greedily(policy, prefix, share, len(completion.tokens))
            assert completion.tokens == expected
            assert completion.logprobs == pytest.approx(own, abs=1e-4), "what is recorded is the policy's own"
    with pytest.raises(ModelError, match="no role 'teacher'"):
        policy.go_on(prefixes, 1, seeds=[0, 1], decoding=Decoding(mix=(("teacher", 0.5),)))


def _greedily(policy: Any, prefix: tuple[int, ...], share: float, n: int) -> tuple[tuple[int, ...], list[float]]:
    tokens: tuple[int, ...] = ()
    recorded = []
    for _ in range(n):
        row = torch.tensor([(*prefix, *tokens)])
        with torch.no_grad():
            own = torch.log_softmax(policy.lm(row).logits[0, -1], -1)
            with policy.answering("ref"):
                other = torch.log_softmax(policy.roles["ref"].model(row).logits[0, -1], -1)
        tokens = (*tokens, int(((1 - share) * own + share * other).argmax()))
        recorded.append(float(own[tokens[-1]]))
    return tokens, recorded


def test_a_sampler_generates_under_a_mixture() -> None:
    policy, seeds = toy_policy(drift=0.5), fn.seeds(len(toy_prompts()), 0)
    own, mixed, reference = (
        PolicySampler(n=2, decoding=Decoding(greedy=True, mix=mix)).sample(toy_prompts(), policy, seeds=seeds)
        for mix in ((), (("ref", 0.5),), (("ref", 1.0),))
    )
    with policy.answering("ref"):
        expected = policy.generate(toy_prompts(), 2, seeds=seeds, decoding=Decoding(greedy=True))
    assert [g.completions[0].tokens for g in reference] == [g.completions[0].tokens for g in expected]
    assert own != reference != mixed != own


# --- columns of the data, online --------------------------------------------------------------------------------------


def test_numbers_of_the_data_come_with_what_is_generated() -> None:
    prompts = [Prompt(str(i), info={"difficulty": i, "answer": "x", "seen": True}) for i in (3, 5)]
    groups = PolicySampler(n=2).sample(prompts, toy_policy(), seeds=[0, 1])
    assert [group.extra for group in groups] == [{"difficulty": (3.0, 3.0)}, {"difficulty": (5.0, 5.0)}]
    batch = collate([replace(group, scores=(Score(0.0),) * 2) for group in groups], torch.device("cpu"))
    assert batch.extra["difficulty"].tolist() == [3.0, 3.0, 5.0, 5.0]
