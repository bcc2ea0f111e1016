"""TRL 1.16 as an oracle: the same batch through its trainers' losses and through ours, values and gradients.

In float32 both are what their rounding allows (`rounding.bound`), on whatever processor; in float64 they are equal.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignzoo import Batch, Completion, Forward, Group, Prompt, Score
from alignzoo import functional as fn
from alignzoo.batching import collate, fill, only
from alignzoo.interfaces import Optimizer
from alignzoo_hf.model.spec import HF
from alignzoo_imitation.dft import DFT
from alignzoo_imitation.sft import SFT
from alignzoo_policy_gradient.grpo import GRPO
from alignzoo_preference.dpo import DPO
from alignzoo_reward_models.bradley_terry import RewardModel
from rounding import close, depth, seeds, within

transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl", reason="TRL is the oracle of these tests")

WORDS = ["a", "the", "cat", "dog", "bird", "mat", "tree", "house", "it", "sat", "ran", "flew", "was", "on", "under"]
WORDS += ["over", "and", "then", "very", "happy", "sad", "big", "small"]
N = 4
"""Completions per prompt in the GRPO batch."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)


def _directory(path: Path, auto: Any, tokenizer: Any, seed: int, **options: Any) -> str:
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module", params=seeds())
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    auto = transformers.AutoModelForCausalLM
    return _directory(tmp_path_factory.mktemp("writer"), auto, tokenizer, request.param)


@pytest.fixture(scope="module", params=seeds())
def scorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    auto = transformers.AutoModelForSequenceClassification
    return _directory(tmp_path_factory.mktemp("scorer"), auto, tokenizer, request.param, num_labels=1)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI", "TRL_EXPERIMENTAL_SILENCE"):
        monkeypatch.setenv(name, "1")


SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


# --- the two sides ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A loss and its gradient, by name of the weight."""

    loss: float
    gradient: dict[str, Tensor]


def ours(optimizer: Optimizer, model: Any, policy: Any, batch: Batch) -> Answer:
    """The objective of a prepared batch, as the runner reduces it."""
    model.zero_grad()
    out = policy.forward(batch, frozenset(optimizer.needs & {"logprobs", "scores"}))
    loss = fn.weigh(optimizer.loss(batch, out).loss, batch.weights, batch.mask) / len(batch)
    loss.backward()
    return Answer(loss.item(), _gradient(model))


def theirs(trainer: Any, inputs: dict[str, Any]) -> Answer:
    """TRL's loss on its own batch. Outside train() its accumulation factor has to be set by hand."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return Answer(loss.item(), _gradient(trainer.model))


def _gradient(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def agree(found: Answer, expected: Answer, additions: int) -> None:
    """Equal but for the rounding of so many additions, a gradient in proportion to its largest entry."""
    assert found.gradient.keys() == expected.gradient.keys()
    (dtype,) = {g.dtype for g in [*found.gradient.values(), *expected.gradient.values()]}
    largest = max(float(g.abs().max()) for g in expected.gradient.values())
    assert largest > 1e-3, "a gradient to speak of"
    away = max(float((found.gradient[n] - expected.gradient[n]).abs().max()) for n in expected.gradient)
    off = abs(found.loss - expected.loss)
    print(f"loss {expected.loss:.4f} differs by {off:.0e}, gradient by {away:.0e} of {largest:.2f}")
    assert found.loss == pytest.approx(expected.loss, rel=0, abs=within(expected.loss, additions, dtype))
    assert away <= within(largest, additions, dtype)


def additions(model: Any, batch: Batch) -> int:
    """One after another, on the longest way to a gradient through a model."""
    return depth(model.config, int(batch.attend.sum()), gradient=True)


def move(model: Any, seed: int, scale: float = 0.02) -> None:
    """Away from the reference, as training would."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=rng)


def pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int], margin: float = 0.0) -> Group:
    completions = (Completion(tuple(chosen), ""), Completion(tuple(rejected), ""))
    return Group(Prompt(""), tuple(prompt), completions, (Score(1.0), Score(0.0)), {"margin": (margin, margin)})


PAIRS = {
    "prompt": ["the cat", "a very big dog", "it was", "the small bird and the cat"],
    "chosen": [" sat on the mat", " ran", " happy and sad then happy", " flew over the house"],
    "rejected": [" ran under the very big tree", " sat on a mat and then it ran", " sad", " sat"],
}


# --- DPO ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(writer: str, tokenizer: Any, tmp_path: Path, dtype: torch.dtype, beta: float) -> None:
    policy: Any = HF(model=writer, tokenizer=tokenizer, device="cpu", max_new_tokens=8).load(DPO.needs)
    move(policy.lm, seed=1)
    reference = transformers.AutoModelForCausalLM.from_pretrained(writer)
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy.lm),
        ref_model=reference,
        args=trl.DPOConfig(str(tmp_path), beta=beta, per_device_train_batch_size=4, **SETTINGS),
        train_dataset=datasets.Dataset.from_dict(PAIRS),
        processing_class=tokenizer,
    )
    rows = list(trainer.train_dataset)
    groups = [pair(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]
    optimizer = DPO(beta=beta)
    batch = optimizer.prepare(only(fill(collate(groups), policy, DPO.needs), DPO.needs))
    expected = theirs(trainer, trainer.data_collator(rows))
    agree(ours(optimizer, policy.lm, policy, batch), expected, additions(policy.lm, batch))


# --- GRPO ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """A batch that TRL wrote and scored, and the same as our groups."""

    trainer: Any
    inputs: dict[str, Any]
    groups: list[Group]


def lengths_and_first(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward with no ties: the length of a completion, and a little of its first token."""
    return [len(ids) + ids[0] / 7 for ids in completion_ids]


@pytest.fixture(scope="module")
def rollouts(writer: str, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made: dict[tuple[torch.dtype, str, str, bool], Rollout] = {}

    def rollout(dtype: torch.dtype, loss_type: str, scale: str, unbiased: bool) -> Rollout:
        key = (dtype, loss_type, scale, unbiased)
        if key not in made:
            made[key] = _rollout(writer, tokenizer, tmp_path_factory.mktemp("grpo"), loss_type, scale, unbiased)
        return made[key]

    yield rollout


def _rollout(writer: str, tokenizer: Any, folder: Path, loss_type: str, scale: str, unbiased: bool) -> Rollout:
    settings = trl.GRPOConfig(
        str(folder),
        beta=0.3,
        loss_type=loss_type,
        scale_rewards=scale,
        use_bias_correction_kl=unbiased,
        num_generations=N,
        per_device_train_batch_size=N * len(PAIRS["prompt"]),
        gradient_accumulation_steps=1,
        max_completion_length=8,
        **SETTINGS,
    )
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(writer),
        reward_funcs=lengths_and_first,
        args=settings,
        train_dataset=datasets.Dataset.from_dict({"prompt": PAIRS["prompt"]}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    torch.manual_seed(0)
    prompts = [{"prompt": prompt} for prompt in PAIRS["prompt"] for _ in range(N)]
    inputs = trainer._generate_and_score_completions(prompts)
    tokens = [
        (ids[mask.bool()].tolist(), written[kept.bool()].tolist())
        for ids, mask, written, kept in zip(
            *(inputs[n] for n in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")), strict=True
        )
    ]
    rewards = lengths_and_first([completion for _, completion in tokens])
    groups = []
    for start in range(0, len(tokens), N):
        members = tokens[start : start + N]
        completions = tuple(Completion(tuple(completion), "") for _, completion in members)
        scores = tuple(Score(reward) for reward in rewards[start : start + N])
        groups.append(Group(Prompt(""), tuple(members[0][0]), completions, scores))
    return Rollout(trainer, inputs, groups)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_grpo_advantages_are_equal(rollouts: Any, dtype: torch.dtype, scale: str) -> None:
    rollout = rollouts(dtype, "grpo", scale, False)
    assert torch.equal(fn.group_advantages(collate(rollout.groups), scale=scale), rollout.inputs["advantages"])


@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_the_spread_of_rewards_is_equal(dtype: torch.dtype, n: int, scale: str) -> None:
    from trl.trainer.utils import nanstd

    rewards = 3 * torch.randn(6 * n, generator=torch.Generator().manual_seed(n))
    group = torch.arange(6).repeat_interleave(n)
    by_group, whole = nanstd(rewards.view(6, n), dim=1)[group], nanstd(rewards).expand(6 * n)
    found = fn.group_std(rewards, group if scale == "group" else torch.zeros_like(group))
    assert torch.equal(found, by_group if scale == "group" else whole)


GRPO_SETTINGS = [
    pytest.param(loss_type, scale, unbiased, id=f"{loss_type}-{scale}-{'unbiased' if unbiased else 'plain'}-kl")
    for loss_type in ("grpo", "dapo")
    for scale in ("group", "batch", "none")
    for unbiased in (False, True)
]


@pytest.mark.parametrize(("loss_type", "scale", "unbiased"), GRPO_SETTINGS)
def test_grpo_on_shared_logprobs(rollouts: Any, dtype: torch.dtype, loss_type: str, scale: Any, unbiased: bool) -> None:
    rollout = rollouts(dtype, loss_type, scale, unbiased)
    optimizer = _grpo(loss_type, scale, unbiased)
    batch = collate(rollout.groups)
    kept = rollout.inputs["completion_mask"].bool()
    rng = torch.Generator().manual_seed(0)
    old = -4 * torch.rand(int(kept.sum()), generator=rng)
    new, ref = (old + 0.3 * torch.randn(len(old), generator=rng) for _ in range(2))

    mine = new.clone().requires_grad_(True)
    columns = {"old_logprobs": fn.scatter(old, batch.mask), "ref_logprobs": fn.scatter(ref, batch.mask)}
    prepared = optimizer.prepare(replace(batch, **columns))
    terms = optimizer.loss(prepared, Forward(logprobs=fn.scatter(mine, batch.mask)))
    loss = fn.weigh(terms.loss, prepared.weights, prepared.mask) / len(prepared)
    loss.backward()
    assert 0.1 < float(terms.metrics["clip_fraction"].sum() / batch.mask.sum()) < 0.9

    given = new.clone().requires_grad_(True)
    rows = [torch.zeros(kept.shape).masked_scatter(kept, column) for column in (given, old, ref)]
    inputs = rollout.inputs | {"old_per_token_logps": rows[1], "ref_per_token_logps": rows[2]}
    with pytest.MonkeyPatch.context() as patch:
        answer = (rows[0], torch.zeros_like(rows[0]), None)
        patch.setattr(rollout.trainer, "_get_per_token_logps_and_entropies", lambda *a, **k: answer)
        expected = rollout.trainer.compute_loss(rollout.trainer.model, inputs)
    expected.backward()
    found = Answer(loss.item(), {"logprobs": mine.grad})
    agree(found, Answer(expected.item(), {"logprobs": given.grad}), int(batch.mask.sum()))


@pytest.mark.parametrize(("loss_type", "scale", "unbiased"), GRPO_SETTINGS)
def test_grpo_through_the_model(
    rollouts: Any, writer: str, tokenizer: Any, dtype: torch.dtype, loss_type: str, scale: Any, unbiased: bool
) -> None:
    """TRL pads prompts on the left and we do not, so the model itself rounds differently."""
    rollout = rollouts(dtype, loss_type, scale, unbiased)
    optimizer = _grpo(loss_type, scale, unbiased)
    policy: Any = HF(model=writer, tokenizer=tokenizer, device="cpu", max_new_tokens=8).load(GRPO().needs)
    move(policy.lm, seed=2)
    batch = optimizer.prepare(only(fill(collate(rollout.groups), policy, GRPO().needs), GRPO().needs))
    move(policy.lm, seed=3)  # now ratios are spread around 1, and some are clipped
    kept = rollout.inputs["completion_mask"].bool()
    old = torch.zeros(kept.shape).masked_scatter(kept, batch.old_logprobs[batch.mask])
    ref = torch.zeros(kept.shape).masked_scatter(kept, batch.ref_logprobs[batch.mask])
    theirs_ref = rollout.inputs["ref_per_token_logps"]
    close(ref[kept], theirs_ref[kept], depth(policy.lm.config, batch.tokens.shape[1]))  # the reference is one
    rollout.trainer.model.load_state_dict(policy.lm.state_dict())
    expected = theirs(rollout.trainer, rollout.inputs | {"old_per_token_logps": old})
    agree(ours(optimizer, policy.lm, policy, batch), expected, additions(policy.lm, batch))


def _grpo(loss_type: str, scale: Any, unbiased: bool) -> GRPO:
    reduction: Any = {"grpo": "sequence", "dapo": "token"}[loss_type]
    return GRPO(kl=0.3, scale=scale, reduction=reduction, unbiased_kl=unbiased)


# --- reward model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centring", [0.0, 0.01])
@pytest.mark.parametrize("margin", [False, True])
def test_reward_model(
    scorer: str, tokenizer: Any, tmp_path: Path, dtype: torch.dtype, margin: bool, centring: float
) -> None:
    policy: Any = HF(model=scorer, tokenizer=tokenizer, device="cpu", max_new_tokens=8).load(RewardModel.needs)
    rows = {side: [p + c for p, c in zip(PAIRS["prompt"], PAIRS[side], strict=True)] for side in ("chosen", "rejected")}
    columns = {**rows, "margin": [0.5, 0.0, 1.25, 2.0]} if margin else rows
    trainer = trl.RewardTrainer(
        model=copy.deepcopy(policy.scorer),
        args=trl.RewardConfig(
            str(tmp_path), center_rewards_coefficient=centring or None, per_device_train_batch_size=4, **SETTINGS
        ),
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    seen = list(trainer.train_dataset)
    sides = [(row["chosen_ids"], row["rejected_ids"], row.get("margin", 0.0)) for row in seen]
    groups = [pair(chosen[:2], chosen[2:], rejected[2:], required) for chosen, rejected, required in sides]
    optimizer = RewardModel(margin="margin" if margin else "", centring=centring)
    batch = optimizer.prepare(collate(groups))
    expected = theirs(trainer, dict(trainer.data_collator(seen)))
    agree(ours(optimizer, policy.scorer, policy, batch), expected, additions(policy.scorer, batch))


# --- SFT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss_type", "optimizer"), [("nll", SFT()), ("dft", DFT())])
def test_sft(writer: str, tokenizer: Any, tmp_path: Path, dtype: torch.dtype, loss_type: str, optimizer: Any) -> None:
    policy: Any = HF(model=writer, tokenizer=tokenizer, device="cpu", max_new_tokens=8).load(SFT.needs)
    rows = {"prompt": PAIRS["prompt"], "completion": PAIRS["chosen"]}
    trainer = trl.SFTTrainer(
        model=copy.deepcopy(policy.lm),
        args=trl.SFTConfig(str(tmp_path), loss_type=loss_type, per_device_train_batch_size=4, **SETTINGS),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    inputs = trainer.data_collator(list(trainer.train_dataset))
    groups = []
    for ids, attended, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
        start, end = int((labels != -100).long().argmax()), int(attended.sum())
        completion = Completion(tuple(ids[start:end].tolist()), "")
        groups.append(Group(Prompt(""), tuple(ids[:start].tolist()), (completion,), (Score(1.0),)))
    batch = optimizer.prepare(collate(groups))
    agree(ours(optimizer, policy.lm, policy, batch), theirs(trainer, dict(inputs)), additions(policy.lm, batch))
