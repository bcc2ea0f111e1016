"""The policy `hf` against transformers itself: what it answers, what it writes, what it trains, what it saves."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignzoo import Batch, Decoding, Group, ModelError, Prompt, Score
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.decoding import CompleteDecoding
from alignzoo.interfaces import CheckContext
from alignzoo_hf.decode import sampling
from alignzoo_hf.forward import head
from alignzoo_hf.model import chat, models
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from rounding import close, depth

WRITES = frozenset({"logprobs", "old_logprobs", "ref_logprobs"})
PAIRS = [
    ("Hello", " there"),
    ("Why", " not so, dear friend?"),
    ("A longer question than the others", " ok"),
    ("x", "y"),
]
SIZES = {"vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
FAMILIES = {
    "Llama": SIZES | WIDE,
    "GPT2": {"vocab_size": 261, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "Qwen2": SIZES | WIDE,
    "Gemma2": SIZES | WIDE | {"sliding_window": 8, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
}


def random_model(family: str = "Llama", *, seed: int = 0, scale: float = 0.3, **changes: Any) -> Any:
    """A random model with weights large enough that its next tokens differ in likelihood."""
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family] | IDS | {"initializer_range": scale} | changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def tokenizer(plain_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(plain_model)


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, saved."""
    path = tmp_path_factory.mktemp("hf") / "llama"
    random_model().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def load(folder: Path) -> Callable[..., HFPolicy]:
    def load(needs: frozenset[str] = WRITES, **settings: Any) -> HFPolicy:
        settings = {"model": str(folder), "max_new_tokens": 12, "device": "cpu"} | settings
        policy = HF(**settings).load(needs)
        assert isinstance(policy, HFPolicy)
        return policy

    return load


def scored(group: Group) -> Group:
    return replace(group, scores=tuple(Score(float(i)) for i in range(len(group.completions))))


def batch_of(policy: HFPolicy, pairs: Sequence[tuple[str, str]] = PAIRS) -> Batch:
    return collate([scored(policy.encode(Prompt(prompt), [text])) for prompt, text in pairs])


def logprobs(policy: HFPolicy, batch: Batch) -> Tensor:
    out = policy.forward(batch, frozenset({"logprobs"})).logprobs
    assert out is not None
    return out


def by_hand(model: Any, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Row by row, without padding, through the whole model."""
    answers, entropies = torch.zeros(batch.tokens.shape), torch.zeros(batch.tokens.shape)
    for row in range(len(batch)):
        length = int(batch.attend[row].sum())
        ids = batch.tokens[row, :length]
        logits = model(ids[None]).logits[0].float() / temperature
        each = torch.log_softmax(logits, -1)
        for t in range(1, length):
            if batch.mask[row, t]:
                answers[row, t] = each[t - 1, ids[t]]
                entropies[row, t] = -(each[t - 1].exp() * each[t - 1]).sum()
    return answers, entropies


def step(policy: HFPolicy, batch: Batch, lr: float = 1e-2) -> None:
    """One update that makes the batch likelier."""
    adamw = torch.optim.AdamW(policy.parameters(), lr=lr)
    out = policy.forward(batch, frozenset({"logprobs"}) | ({"values"} if policy.critic is not None else set()))
    loss = -out.logprobs.sum() if out.values is None else -out.logprobs.sum() + ((out.values - 1) ** 2).sum()
    loss.backward()
    adamw.step()


def kl(policy: HFPolicy, batch: Batch) -> float:
    with torch.no_grad(), policy.answering("ref"):
        ref = logprobs(policy, batch)
    with torch.no_grad():
        return float((logprobs(policy, batch) - ref).abs().max())


# --- answering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_forward_answers_as_transformers_does(
    load: Any, tokenizer: Any, dtype: torch.dtype, family: str, temperature: float
) -> None:
    model = random_model(family)
    policy = load(model=model, tokenizer=tokenizer, temperature=temperature)
    batch = batch_of(policy)
    out = policy.forward(batch, frozenset({"logprobs", "entropy"}))
    expected, entropy = by_hand(model, batch, temperature)
    n = depth(model.config, batch.tokens.shape[1])
    close(out.logprobs, expected, n)
    close(out.entropy, entropy, n, math.log(261))  # of the whole vocabulary
    assert out.logprobs[~batch.mask].eq(0).all() and out.entropy[~batch.mask].eq(0).all()
    assert out.values is None and out.scores is None


def test_a_tiled_head_gives_the_same_values_and_gradients(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer() -> tuple[Tensor, Tensor, list[Tensor]]:
        policy = load(temperature=0.7)
        policy.lm.double()
        out = policy.forward(batch_of(policy), frozenset({"logprobs", "entropy"}))
        (out.logprobs.sum() + 0.1 * (out.entropy**2).sum()).backward()
        return out.logprobs, out.entropy, [p.grad for p in policy.lm.parameters()]

    whole = answer()
    cpu = head.CPU
    for tile, kept in ((1, cpu.kept), (1, 0), (cpu.tile, 0)):
        monkeypatch.setattr(head, "CPU", replace(cpu, tile=tile, kept=kept))
        tiled = answer()
        torch.testing.assert_close(tiled[:2], whole[:2], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(tiled[2], whole[2], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_padding_and_row_order_change_nothing(load: Any, dtype: torch.dtype) -> None:
    policy = load()
    batch = batch_of(policy)
    plain = logprobs(policy, batch)
    wide = {
        name: torch.nn.functional.pad(getattr(batch, name), (0, 5), value=value)
        for name, value in (("tokens", 7), ("attend", False), ("mask", False), ("own", False))
    }
    padded = logprobs(policy, replace(batch, **wide))
    n = depth(policy.lm.config, padded.shape[1])
    close(padded[:, :-5], plain, n)
    assert padded[:, -5:].eq(0).all()
    order = torch.tensor([2, 0, 3, 1])
    close(logprobs(policy, batch.select(order)), plain[order], n)


def test_only_completion_positions_get_gradient(load: Any, folder: Path, dtype: torch.dtype) -> None:
    policy = load()
    batch = batch_of(policy)
    logprobs(policy, batch).sum().backward()
    model = AutoModelForCausalLM.from_pretrained(folder)
    by_hand(model, batch)[0].sum().backward()
    expected = dict(model.named_parameters())
    n = depth(model.config, int(batch.attend.sum()), gradient=True)
    for name, parameter in policy.lm.named_parameters():
        close(parameter.grad, expected[name].grad, n)
    assert policy.lm.get_input_embeddings().weight.grad[0].eq(0).all()  # padding


@torch.no_grad()
def test_bf16_runs_on_cpu_and_is_close(load: Any) -> None:
    fine, coarse = load(), load(dtype="bf16")
    batch = batch_of(fine)
    assert all(p.dtype == torch.float32 for p in coarse.lm.parameters())
    answer, expected = logprobs(coarse, batch), logprobs(fine, batch)
    assert answer.dtype == torch.float32 and not torch.equal(answer, expected)
    assert (answer - expected)[batch.mask].abs().mean() < 0.1
    assert kl(coarse, batch) == 0
    assert coarse.generate([Prompt("Hi")], 2, seeds=[0])[0].completions


def test_bf16_with_lora_freezes_in_bf16_and_trains_in_fp32(load: Any) -> None:
    policy = load(dtype="bf16", lora_rank=2)
    assert {p.dtype for p in policy.lm.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in policy.lm.parameters() if not p.requires_grad} == {torch.bfloat16}
    batch = batch_of(policy)
    assert kl(policy, batch) == 0
    step(policy, batch)
    assert kl(policy, batch) > 0


# --- writing ----------------------------------------------------------------------------------------------------------

QUESTIONS = [Prompt("Hi"), Prompt("What is the matter with you"), Prompt("Count to ten: ")]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_writing_equals_generate(load: Any, tokenizer: Any, family: str) -> None:
    model = random_model(family, seed=2)
    policy = load(model=model, tokenizer=tokenizer, max_new_tokens=24)
    groups = policy.generate(QUESTIONS, 2, seeds=fn.seeds(len(QUESTIONS), 0), decoding=Decoding(greedy=True))
    for group in groups:
        ids = torch.tensor([group.prompt_tokens])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=1, pad_token_id=0
        )
        written = expected[0, ids.shape[1] :].tolist()
        assert [list(c.tokens) for c in group.completions] == [written, written]
        assert group.completions[0].finished == (written[-1] == 1)
        assert group.completions[0].text == tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_recorded_logprobs_are_those_of_forward(load: Any, tokenizer: Any, dtype: torch.dtype, family: str) -> None:
    policy = load(model=random_model(family, scale=0.15), tokenizer=tokenizer, temperature=0.8, max_new_tokens=20)
    groups = policy.generate(QUESTIONS, 4, seeds=fn.seeds(len(QUESTIONS), 3))
    batch = collate([scored(group) for group in groups])
    recorded = torch.cat([torch.tensor(c.logprobs) for group in groups for c in group.completions])
    close(recorded, logprobs(policy, batch)[batch.mask], depth(policy.lm.config, batch.tokens.shape[1]))


@pytest.mark.parametrize(
    ("changes", "exact"),
    [
        ({"temperature": 0.7}, True),
        ({"engine": "generate"}, True),
        ({"lora_rank": 2}, True),
        ({"top_k": 20}, True),  # recorded of all words, as they are answered, and not of those left over
        ({"top_p": 0.9}, True),
        ({"dtype": "bf16"}, False),
        ({"engine": "continuous"}, False),
    ],
    ids=str,
)
def test_who_records_what_forward_answers(load: Any, tokenizer: Any, changes: dict[str, Any], exact: bool) -> None:
    policy = load(model=random_model(scale=0.15), tokenizer=tokenizer, max_new_tokens=20, **changes)
    assert policy.info().exact_samples is exact
    if changes.get("engine") == "continuous":
        return
    groups = policy.generate(QUESTIONS, 4, seeds=fn.seeds(len(QUESTIONS), 3))
    recorded = torch.cat([torch.tensor(c.logprobs) for group in groups for c in group.completions])
    batch = collate([scored(group) for group in groups])
    with torch.no_grad():
        away = (recorded - logprobs(policy, batch)[batch.mask]).abs().max()
    assert away < 1e-5 or not exact  # without instructions for bf16 a processor may round both alike


def chi_squared(tokens: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The statistic, and the bound that it passes once in a million: mean + 6 standard deviations."""
    expected = probabilities * len(tokens)
    counts = torch.bincount(tokens, minlength=len(probabilities)).float()
    assert counts[probabilities == 0].eq(0).all()
    often = expected >= 5
    counts = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).clamp(min=1e-9)
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()), freedom + 6 * math.sqrt(2 * freedom) + 1e-3


def test_draws_follow_the_distribution() -> None:
    n = 20_000
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -2.0])
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.softmax(logits / 0.7, -1)
    # softmax(logits/0.7) = 0.675, 0.162, 0.079, 0.039, 0.009, 0.002 (rounded): the nucleus of 0.8 is the first two,
    # for 0.675 < 0.8 <= 0.675 + 0.162, and that of 0.67 the first alone.
    first = torch.tensor([1.0] + [0] * 5)
    first_two, first_three = torch.tensor([1.0] * 2 + [0] * 4), torch.tensor([1.0] * 3 + [0] * 3)
    for settings, kept in (
        (CompleteDecoding(1, 0.7), torch.ones(6)),
        (CompleteDecoding(1, 0.7, top_k=3), first_three),
        (CompleteDecoding(1, 0.7, top_p=0.8), first_two),
        (CompleteDecoding(1, 0.7, top_p=0.67), first),
        (CompleteDecoding(1, 0.7, top_k=3, top_p=0.95), first_three),
    ):
        tokens, logprob = sampling.draw(logits.expand(n, -1), uniform, settings)
        expected = p * kept / (p * kept).sum()
        statistic, bound = chi_squared(tokens, expected)
        assert statistic < bound, settings
        torch.testing.assert_close(logprob, p.log()[tokens])  # of the whole vocabulary
    statistic, bound = chi_squared(sampling.draw(logits.expand(n, -1), uniform, CompleteDecoding(1, 1.0))[0], p)
    assert statistic > bound  # the wrong temperature is found out


def test_a_draw_at_the_very_end_is_a_token_that_can_be() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0]])
    token, logprob = sampling.draw(logits, torch.tensor([1.0]), CompleteDecoding(1, top_k=2))
    assert token.item() == 1 and math.isfinite(logprob.item())


@torch.no_grad()
def test_written_tokens_follow_the_model(load: Any, folder: Path) -> None:
    policy = load(max_new_tokens=2, generate_batch=3000, top_k=12)
    group = policy.generate([Prompt("Hello")], 3000, seeds=[1])[0]
    model = AutoModelForCausalLM.from_pretrained(folder)

    def expected(tokens: Sequence[int]) -> Tensor:
        logits = model(torch.tensor([tokens])).logits[0, -1]
        return torch.softmax(logits.masked_fill(logits < logits.topk(12).values[-1], -torch.inf), -1)

    first = torch.tensor([c.tokens[0] for c in group.completions])
    statistic, bound = chi_squared(first, expected(group.prompt_tokens))
    assert statistic < bound
    common = int(first.bincount().argmax())
    second = torch.tensor([c.tokens[1] for c in group.completions if c.tokens[0] == common and len(c.tokens) > 1])
    statistic, bound = chi_squared(second, expected([*group.prompt_tokens, common]))
    assert statistic < bound


def test_stops_at_every_end_and_says_when_it_was_cut(load: Any, tokenizer: Any) -> None:
    model = random_model(scale=0.05)
    model.generation_config.eos_token_id = [65, 66, 67, 68, 69, 70]
    policy = load(model=model, tokenizer=tokenizer, max_new_tokens=40)
    assert policy.encoder.stop_ids == {1, 65, 66, 67, 68, 69, 70}
    written = [c for group in policy.generate(QUESTIONS, 16, seeds=[0, 1, 2]) for c in group.completions]
    assert len({c.tokens[-1] for c in written if c.finished}) > 3
    for completion in written:
        assert not set(completion.tokens[:-1]) & policy.encoder.stop_ids
        assert completion.finished == (completion.tokens[-1] in policy.encoder.stop_ids)
        assert completion.finished or len(completion.tokens) == 40
        assert completion.logprobs is not None and len(completion.logprobs) == len(completion.tokens)
    assert {c.finished for c in written} == {True, False}


def test_the_same_seed_writes_the_same_text(load: Any) -> None:
    policy = load()
    first, again, other = (
        [[c.tokens for c in group.completions] for group in policy.generate(QUESTIONS, 4, seeds=[seed, 1, 2])]
        for seed in (7, 7, 8)
    )
    assert first == again and first[0] != other[0] and first[1:] == other[1:]
    assert len({tokens for group in first for tokens in group}) > 8


def test_more_prompts_than_fit_at_once(load: Any) -> None:
    groups = load(generate_batch=5).generate(QUESTIONS, 4, seeds=fn.seeds(len(QUESTIONS), 0))
    assert [group.prompt for group in groups] == QUESTIONS
    assert [len(group.completions) for group in groups] == [4, 4, 4]
    assert len({group.prompt_tokens for group in groups}) == 3
    assert len({c.tokens for group in groups for c in group.completions}) == 12


# --- the reference, LoRA, checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 4])
def test_the_reference_stays_where_training_began(load: Any, rank: int) -> None:
    policy = load(lora_rank=rank)
    batch = batch_of(policy)
    before = logprobs(policy, batch).detach()
    assert kl(policy, batch) == 0
    step(policy, batch)
    assert kl(policy, batch) > 1e-2
    with torch.no_grad(), policy.answering("ref"):
        assert torch.equal(logprobs(policy, batch), before)
    assert not torch.equal(logprobs(policy, batch), before)


def test_the_reference_is_loaded_when_it_is_first_asked(plain_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, own = [], models.causal_lm
    monkeypatch.setattr(models, "causal_lm", lambda *given, **more: loaded.append(1) or own(*given, **more))
    policy: Any = HF(model=str(plain_model), device="cpu").load(WRITES)
    step(policy, batch_of(policy))
    assert len(loaded) == 1
    for _ in range(2):
        with policy.answering("ref"):
            assert len(loaded) == 2
    live: Any = HF(model=own(policy.spec, torch.float32), tokenizer=policy.tokenizer, device="cpu").load(WRITES)
    batch = batch_of(live)
    before = logprobs(live, batch).detach()
    step(live, batch)
    with torch.no_grad(), live.answering("ref"):  # whose first weights lie in no file
        assert torch.equal(logprobs(live, batch), before)


@pytest.mark.parametrize(("updates", "stays"), [(1, True), (2, False)], ids=["each update", "every other one"])
def test_a_reference_that_is_asked_after_each_update_stays(updates: int, stays: bool, plain_model: Path) -> None:
    policy: Any = HF(model=str(plain_model), device="cpu").load(frozenset({"logprobs", "ref_logprobs"}))
    policy.optimize(torch.optim.SGD)
    batch = batch_of(policy)
    for _ in range(2):
        with torch.no_grad(), policy.answering("ref"):
            logprobs(policy, batch)
        for _ in range(updates):
            policy.backward(-logprobs(policy, batch).sum())
            policy.step(1e-3, 1.0)
    assert policy.roles["ref"].is_loaded is stays


def test_the_reference_ends_with_its_block_even_after_an_error(load: Any) -> None:
    policy = load()
    batch = batch_of(policy)
    step(policy, batch)
    after = logprobs(policy, batch)
    with pytest.raises(KeyError), policy.answering("ref"):
        with policy.answering("ref"):
            reference = logprobs(policy, batch)
        assert torch.equal(logprobs(policy, batch), reference)  # one may lie within another
        raise KeyError
    assert torch.equal(logprobs(policy, batch), after)


def test_lora_trains_adapters_alone_and_saves_them_merged(load: Any, tmp_path: Path) -> None:
    policy = load(lora_rank=4)
    trained = {name for name, p in policy.lm.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {f"lm.{name}" for name in trained} == policy.state().keys()
    batch = batch_of(policy)
    frozen = {name: p.clone() for name, p in policy.lm.named_parameters() if not p.requires_grad}
    step(policy, batch)
    assert all(torch.equal(p, frozen[name]) for name, p in policy.lm.named_parameters() if name in frozen)
    policy.save(tmp_path)
    with torch.no_grad():
        adapted = logprobs(policy, batch)
        merged = by_hand(AutoModelForCausalLM.from_pretrained(tmp_path), batch)[0]
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert not list(tmp_path.glob("adapter_*")) and (tmp_path / "adapter" / "adapter_config.json").exists()
    again = load(model=str(tmp_path), lora_rank=4)
    assert kl(again, batch) == 0  # the next stage's reference is this
    torch.testing.assert_close(logprobs(again, batch).detach(), adapted, rtol=1e-4, atol=1e-4)
    assert kl(policy, batch) > 1e-2  # saving left the live adapters on


def test_lora_targets_by_name(load: Any) -> None:
    policy = load(lora_rank=2, lora_targets="q_proj, v_proj")
    assert all("q_proj" in name or "v_proj" in name for name in policy.state())


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_restore_takes_back_what_state_gave(load: Any, rank: int, critic: str) -> None:
    needs = WRITES | {"values"}
    policy = load(needs, lora_rank=rank, critic=critic)
    batch = batch_of(policy)
    step(policy, batch)
    state = {name: tensor.clone() for name, tensor in policy.state().items()}
    columns = frozenset({"logprobs", "values"})
    there = policy.forward(batch, columns)
    step(policy, batch)
    assert not torch.equal(policy.forward(batch, columns).logprobs, there.logprobs)
    for each in (policy, load(needs, lora_rank=rank, critic=critic)):
        each.restore(state)
        assert torch.equal(each.forward(batch, columns).logprobs, there.logprobs)
        assert torch.equal(each.forward(batch, columns).values, there.values)
    with pytest.raises(ModelError, match="of another model"):
        load(lora_rank=rank).restore(state)


# --- critics ----------------------------------------------------------------------------------------------------------


def critic_gradients(policy: HFPolicy, batch: Batch) -> dict[str, Tensor | None]:
    policy.forward(batch, frozenset({"values"})).values.square().sum().backward()
    return {name: p.grad for name, p in policy.critic.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("rank", [0, 4])
def test_a_separate_critic_has_a_trunk_of_its_own_and_trains_all_of_it(load: Any, rank: int) -> None:
    policy = load(WRITES | {"values"}, lora_rank=rank, critic_lr=3.0)
    batch = batch_of(policy)
    assert policy.forward(batch, frozenset({"values"})).values.eq(0).all()
    step(policy, batch)  # moves the head off 0, through which no gradient passes
    step(policy, batch)  # and LoRA's second factors
    values = policy.forward(batch, frozenset({"values"})).values
    assert values[batch.mask].ne(0).all() and values[~batch.mask].eq(0).all()
    for p in policy.lm.parameters():
        p.grad = None
    gradients = critic_gradients(policy, batch)
    assert gradients
    silent = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum()]
    assert not silent
    assert all(p.grad is None for p in policy.lm.parameters())
    groups = policy.parameters()
    at = {
        rate: {id(p) for group in groups if group["lr_scale"] == rate for p in group["params"]} for rate in (1.0, 3.0)
    }
    assert at[3.0] == {id(p) for p in policy.critic.parameters() if p.requires_grad}
    assert at[1.0] == {id(p) for p in policy.lm.parameters() if p.requires_grad}


@pytest.mark.parametrize("rank", [0, 4])
def test_a_shared_critic_is_a_head_on_the_policys_trunk(load: Any, rank: int) -> None:
    policy = load(WRITES | {"values"}, lora_rank=rank, critic="shared")
    batch = batch_of(policy)
    assert policy.forward(batch, frozenset({"values"})).values.eq(0).all()
    assert len(list(policy.critic.parameters())) == 1
    step(policy, batch)
    step(policy, batch)
    for p in policy.lm.parameters():
        p.grad = None
    assert all(gradient.abs().sum() > 0 for gradient in critic_gradients(policy, batch).values())
    trunk = {n: p for n, p in policy.lm.named_parameters() if p.requires_grad and "lm_head" not in n}
    assert trunk and all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.values())


def test_a_value_speaks_of_the_state_before_its_token(load: Any) -> None:
    policy = load(WRITES | {"values"})
    torch.nn.init.normal_(models.score_head(policy.critic).weight, generator=torch.Generator().manual_seed(0))
    batch = batch_of(policy)
    with torch.no_grad():
        values = policy.forward(batch, frozenset({"values"})).values
        for row in range(len(batch)):
            ids = batch.tokens[row, : int(batch.attend[row].sum())]
            hidden = policy.critic.model(ids[None]).last_hidden_state[0]
            by_position = policy.critic.score(hidden).squeeze(-1)
            where = batch.mask[row].nonzero().squeeze(-1)
            torch.testing.assert_close(values[row, where], by_position[where - 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_critic_can_start_from_a_reward_model(load: Any, rank: int, tmp_path: Path) -> None:
    reward = load(frozenset({"scores"}))
    torch.nn.init.normal_(reward.scorer.score.weight)
    with torch.no_grad():
        reward.scorer.model.layers[0].mlp.up_proj.weight.add_(0.1)
    reward.save(tmp_path)
    policy = load(WRITES | {"values"}, critic_model=str(tmp_path), lora_rank=rank)
    batch = batch_of(policy)
    assert policy.forward(batch, frozenset({"values"})).values.eq(0).all()
    torch.nn.init.ones_(models.score_head(policy.critic).weight)
    values = policy.forward(batch, frozenset({"values"})).values
    hidden = reward.scorer.model(batch.tokens).last_hidden_state
    expected = fn.scatter(fn.before(hidden).sum(-1)[fn.predicted(batch.mask)], batch.mask)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


# --- scorers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 4])
def test_a_scorer_starts_at_zero_trains_and_saves_what_transformers_reads(load: Any, rank: int, tmp_path: Path) -> None:
    policy = load(frozenset({"scores"}), lora_rank=rank)
    batch = batch_of(policy)
    asked = frozenset({"scores"})
    assert policy.lm is None and policy.forward(batch, asked).scores.eq(0).all()
    adamw = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(3):
        adamw.zero_grad()
        policy.forward(batch, asked).scores.sum().backward()
        adamw.step()
    trained = [p for group in policy.parameters() for p in group["params"]]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    policy.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(batch.tokens, attention_mask=batch.attend.long()).logits[:, 0]
        scores = policy.forward(batch, asked).scores
    assert scores.ne(0).all()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == 1


def test_a_score_is_read_where_transformers_reads_it_even_when_the_end_is_padding(load: Any, tmp_path: Path) -> None:
    """Many tokenizers' padding is their end-of-sequence token: transformers then reads the token before it."""
    policy = load(frozenset({"scores"}))
    policy.scorer.config.pad_token_id = policy.tokenizer.eos_token_id
    torch.nn.init.normal_(policy.scorer.score.weight, generator=torch.Generator().manual_seed(0))
    batch = batch_of(policy)
    policy.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.where(batch.attend, batch.tokens, policy.tokenizer.eos_token_id)
    with torch.no_grad():
        torch.testing.assert_close(policy.forward(batch, frozenset({"scores"})).scores, model(ids).logits[:, 0])


def test_a_scorer_neither_writes_nor_answers_logprobs(load: Any) -> None:
    policy = load(frozenset({"scores"}))
    with pytest.raises(ModelError, match="no language-model head to write with"):
        policy.generate([Prompt("Hi")], 1, seeds=[0])
    with pytest.raises(ModelError, match="no language-model head to answer"):
        logprobs(policy, batch_of(policy))
    with pytest.raises(ModelError, match="no reference"), policy.answering("ref"):
        pass
    with pytest.raises(ModelError, match="load it for an optimizer that needs 'scores'"):
        load().forward(batch_of(policy), frozenset({"scores"}))


# --- saving -----------------------------------------------------------------------------------------------------------


def test_a_saved_policy_is_an_ordinary_directory(load: Any, tmp_path: Path) -> None:
    policy = load()
    batch = batch_of(policy)
    step(policy, batch)
    policy.save(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(by_hand(model, batch)[0], logprobs(policy, batch), rtol=1e-4, atol=1e-5)
    assert tokenizer("Hello")["input_ids"] == policy.tokenizer("Hello")["input_ids"]
    assert model.generation_config.eos_token_id in (1, [1]) and model.generation_config.pad_token_id == 0
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_further_stop_ids_are_saved(load: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = random_model()
    model.generation_config.eos_token_id = [65]
    load(model=model, tokenizer=tokenizer).save(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == [1, 65]
    assert load(model=str(tmp_path)).encoder.stop_ids == {1, 65}


def test_what_is_computed_in_bf16_is_saved_as_it_lay_and_training_goes_on_in_fp32(load: Any, tmp_path: Path) -> None:
    policy = load(dtype="bf16")
    policy.save(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.float32
    assert policy.lm.dtype == torch.float32


# --- text -> tokens ---------------------------------------------------------------------------------------------------

TALK = ({"role": "user", "content": "Hi"},)


@pytest.fixture
def talks(load: Any, tiny_model: Path) -> Callable[..., HFPolicy]:
    return lambda **settings: load(**{"model": str(tiny_model)} | settings)


def written(policy: HFPolicy, tokens: Sequence[int]) -> str:
    return str(policy.tokenizer.decode(list(tokens)))


def test_a_conversation_goes_through_the_template_and_ends_once(talks: Any) -> None:
    policy = talks()
    group = policy.encode(Prompt(TALK), ["Yes.", ({"role": "assistant", "content": "No."},)])
    assert written(policy, group.prompt_tokens) == "<|user|>Hi<|end|><|assistant|>"
    assert [written(policy, c.tokens) for c in group.completions] == ["Yes.<|end|>", "No.<|end|>"]
    assert [c.text for c in group.completions] == ["Yes.", "No."]
    assert all(c.finished and c.tokens.count(1) == 1 for c in group.completions)
    whole = policy.tokenizer.apply_chat_template([*TALK, {"role": "assistant", "content": "Yes."}], tokenize=False)
    assert written(policy, group.prompt_tokens + group.completions[0].tokens) == whole


def test_several_turns_keep_their_own_ends(talks: Any) -> None:
    policy = talks()
    turns = (*TALK, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Why?"})
    group = policy.encode(Prompt(turns), ["So."])
    assert group.prompt_tokens.count(1) == 3 and group.completions[0].tokens.count(1) == 1


def test_white_space_after_the_end_of_a_turn_is_not_learnt(load: Any, folder: Path, tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    policy = load(tokenizer=tokenizer)
    group = policy.encode(Prompt(TALK), ["Yes."])
    assert written(policy, group.prompt_tokens) == "u:Hi<|end|>\na:"
    assert written(policy, group.completions[0].tokens) == "Yes.<|end|>"


def test_plain_text_is_taken_as_it_stands(load: Any) -> None:
    policy = load()
    group = policy.encode(Prompt("Once"), [" upon a time", ""])
    assert written(policy, group.prompt_tokens) == "Once"
    assert [written(policy, c.tokens) for c in group.completions] == [" upon a time<|end|>", "<|end|>"]
    with pytest.raises(ModelError, match="give both in one form"):
        policy.encode(Prompt("Once"), [TALK])


def test_an_empty_prompt_has_a_token_to_predict_from(load: Any) -> None:
    policy = load()
    group = policy.encode(Prompt(""), ["Yes."])
    assert group.prompt_tokens == (1,)
    assert logprobs(policy, collate([scored(group)]))[0, 1:].ne(0).all()
    assert policy.generate([Prompt("")], 1, seeds=[0])[0].completions[0].tokens


def test_long_prompts_lose_their_beginning_with_one_warning(load: Any) -> None:
    policy = load(max_length=20, max_new_tokens=12)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        groups = [policy.encode(Prompt("0123456789abcdef"), ["Yes."]) for _ in range(3)]
    assert [str(each.message).split(" (")[0] for each in told] == ["prompts longer than 8 tokens"]
    assert written(policy, groups[0].prompt_tokens) == "89abcdef"
    assert groups[0].completions[0].finished


def test_long_completions_lose_their_end(load: Any) -> None:
    policy = load(max_length=20)
    completion = policy.encode(Prompt("0123"), ["abcdefghijklmnopqrstuvwxyz"]).completions[0]
    assert completion.text == "abcdefghijklmnop" == written(policy, completion.tokens)
    assert len(completion.tokens) == 16 and not completion.finished
    just = policy.encode(Prompt("0123"), ["abcdefghijklmno"]).completions[0]
    assert just.finished and len(just.tokens) == 16 and just.tokens[-1] == 1


def test_templates_by_name_and_from_a_file(load: Any, tmp_path: Path) -> None:
    turns = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"})
    file = tmp_path / "own.jinja"
    file.write_text(
        "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}[think{% endif %}"
    )
    chatml = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    cases = {
        "chatml": (chatml, "Yes.<|im_end|>\n<|end|>"),
        "dialogue": ("Be kind.\n\nHuman: Hi\n\nAssistant:", " Yes.<|end|>"),
        str(file): ("[Be kind.][Hi][think", "Yes.]<|end|>"),  # the prompt has opened the turn already
    }
    for name, (prompt, completion) in cases.items():
        policy = load(chat_template=name)
        group = policy.encode(Prompt(turns), ["Yes."])
        assert written(policy, group.prompt_tokens) == prompt
        assert written(policy, group.completions[0].tokens) == completion
    assert set(chat.TEMPLATES) == {"chatml", "dialogue"}


def test_templates_that_cannot_be_used(load: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no chat template: set policy\.chat_template to 'chatml', 'dialogue'"):
        load().encode(Prompt(TALK), ["Yes."])
    with pytest.raises(ModelError, match="'dialog' is neither one of chatml, dialogue nor a readable file"):
        load(chat_template="dialog")
    rewrites = tmp_path / "rewrites.jinja"
    rewrites.write_text("{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        load(chat_template=str(rewrites)).encode(Prompt(TALK), ["Yes."])


# --- live models ------------------------------------------------------------------------------------------------------


def test_a_live_model_is_trained_itself(load: Any, tokenizer: Any) -> None:
    model = random_model()
    policy = load(model=model, tokenizer=tokenizer)
    before = model.lm_head.weight.clone()
    step(policy, batch_of(policy))
    assert not torch.equal(model.lm_head.weight, before)
    assert kl(policy, batch_of(policy)) > 0


@pytest.mark.parametrize("rank", [0, 2])
def test_a_live_model_that_lies_nowhere_starts_critics_and_scorers(load: Any, tokenizer: Any, rank: int) -> None:
    model = random_model()
    policy = load(WRITES | {"values"}, model=model, tokenizer=tokenizer, lora_rank=rank)
    batch = batch_of(policy)
    assert policy.forward(batch, frozenset({"values"})).values.eq(0).all()
    for mine, theirs in zip(
        models.bare(policy.critic).base_model.layers, models.bare(policy.lm).base_model.layers, strict=True
    ):
        assert torch.equal(mine.input_layernorm.weight, theirs.input_layernorm.weight)
        assert mine.input_layernorm.weight is not theirs.input_layernorm.weight
    hidden = models.states(policy.critic, batch.tokens)
    torch.testing.assert_close(hidden, models.states(policy.lm, batch.tokens))
    scorer = load(frozenset({"scores"}), model=random_model(), tokenizer=tokenizer, lora_rank=rank)
    assert scorer.forward(batch, frozenset({"scores"})).scores.eq(0).all()


# --- what cannot be used ----------------------------------------------------------------------------------------------


def broken(folder: Path, place: Path, spoil: Callable[[Path], None]) -> str:
    shutil.copytree(folder, place)
    spoil(place)
    return str(place)


def without_an_end(path: Path) -> None:
    for name, keys in (("tokenizer_config.json", ["eos_token"]), ("config.json", ["eos_token_id"])):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({key: value for key, value in content.items() if key not in keys}))
    (path / "special_tokens_map.json").unlink(missing_ok=True)
    (path / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))


def of_another_model(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), r"has no config\.json \(found: .*model\.safetensors"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), r"has no model\.safetensors \(found: "),
    "cut weights": (
        lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:500]),
        r"model\.safetensors is damaged: .*Download or save the model again",
    ),
    "config is no JSON": (lambda path: (path / "config.json").write_text("{"), "cannot load .* as Auto"),
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "cannot load .* as AutoTokenizer"),
    "weights of a smaller model": (of_another_model, "lacks weights that its config.json asks for"),
    "no end": (without_an_end, "neither generation_config.json nor the tokenizer names an end-of-sequence token"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_directory_is_refused(load: Any, folder: Path, tmp_path: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    with pytest.raises(ModelError, match=message):
        load(model=broken(folder, tmp_path / "model", spoil))


WRONG = [
    ({"model": ""}, "no model: set policy.model"),
    ({"max_length": 500}, "max_length is 500, but the model's context is 128 tokens"),
    ({"max_new_tokens": 128}, "leaves no room for a prompt in 128 tokens: lower it"),
    ({"max_length": 12}, "leaves no room for a prompt in 12 tokens: lower it or raise policy.max_length"),
    ({"lora_rank": 2, "lora_targets": "q_poj"}, "lora_targets = 'q_poj' does not fit this model"),
    ({"tokenizer": "/nowhere/at/all"}, "does not exist"),
]


@pytest.mark.parametrize("settings, message", WRONG, ids=[message[:30] for _, message in WRONG])
def test_a_wrong_setting_is_refused(load: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(**settings)


def test_a_missing_directory_is_named_with_its_neighbour(load: Any, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"lama does not exist: did you mean 'llama'\?"):
        load(model=str(folder.with_name("lama")))


def test_a_scorer_is_no_writer_and_has_so_many_outputs(load: Any, tmp_path: Path) -> None:
    load(frozenset({"scores"})).save(tmp_path)
    with pytest.raises(ModelError, match="holds a LlamaForSequenceClassification, which scores and does not write"):
        load(model=str(tmp_path))
    with pytest.raises(ModelError, match=r"score_label is 1, but .* has 1 outputs"):
        load(frozenset({"scores"}), model=str(tmp_path), score_label=1)


def test_logits_that_need_more_than_the_head_are_refused(load: Any, tokenizer: Any) -> None:
    class Doubled(transformers.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 2
            return out

    model = Doubled(random_model().config)
    with pytest.raises(ModelError, match="Doubled does more between its trunk and its logits"):
        load(model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["ref_values", "ref_scores", "teacher_values"])
def test_a_column_that_it_does_not_answer_is_refused_before_the_first_step(load: Any, name: str) -> None:
    needs = frozenset({"logprobs", name})
    with pytest.raises(ModelError, match=re.escape(f"needs {name!r}, which the policy 'hf' does not answer")):
        load(needs=needs)
    with pytest.raises(ModelError, match="answers collision, entropy, jsd, kl, logprobs"):
        HF(model="nowhere", device="cpu").check(CheckContext(needs, (), (), online=True, ask=False, earlier={}))
