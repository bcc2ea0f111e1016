"""What a GPU would pay for, counted on a CPU: the precision that attention is given, kernels of the head, casts of
weights."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_hf_packed import Case, answered, close, loaded, ragged, random_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from alignzoo import Context, ModelError, Prompt, cost
from alignzoo.decoding import CompleteDecoding
from alignzoo_hf.decode import engine, slots
from alignzoo_hf.decode.engine import Pace, SlotEngine
from alignzoo_hf.decode.engines import ServedModel
from alignzoo_hf.decode.transformers_engines import PagedEngine, TransformersEngine, unfit
from alignzoo_hf.forward import head, packed, trunk
from alignzoo_hf.forward.head import Head, Tiling, head_logprobs
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from alignzoo_hf.reward import ModelReward

VIEWS = {"view", "t", "slice", "select", "expand", "transpose", "unsqueeze", "squeeze", "detach", "alias", "split"}
NO_KERNEL = VIEWS | {"empty", "empty_like", "as_strided", "_unsafe_view", "lift_fresh", "reshape"}


class Calls(TorchDispatchMode):
    """The operations inside, with the shape of what each is given first."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        shape = tuple(given[0].shape) if given and isinstance(given[0], Tensor) else ()
        self.made[function._overloadpacket.__name__, shape] += 1
        return function(*given, **(named or {}))

    def kernels(self) -> int:
        """How many of them a GPU would have to launch."""
        return sum(count for (name, _), count in self.made.items() if name not in NO_KERNEL)


@pytest.fixture(scope="module")
def tokenizer(plain_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(plain_model)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2", "GPTNeoX"])
@pytest.mark.parametrize("lora", [0, 3])
def test_queries_keys_and_values_reach_attention_in_the_precision_of_the_computation(
    family: str, lora: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary embeddings lift queries and keys of a model in float32 again, and no flash kernel takes float32."""
    seen = []

    def varlen(query: Tensor, value: Tensor) -> bool:
        seen.append((query.dtype, value.dtype))
        return False

    def masked(self: packed.Packing, window: int | None, like: Tensor) -> Any:
        seen.append((like.dtype, like.dtype))
        return former(self, window, like)

    former = packed.Packing.masked
    monkeypatch.setattr(packed, "_is_varlen", varlen)
    monkeypatch.setattr(packed.Packing, "masked", masked)
    spec = HF(model=random_model(family), tokenizer=tokenizer, device="cpu", dtype="bf16", max_new_tokens=4)
    policy = replace(spec, lora_rank=lora).load(frozenset({"logprobs"}))
    assert isinstance(policy, HFPolicy)
    out = policy.forward(ragged(0), frozenset({"logprobs"}))
    out.logprobs.sum().backward()
    assert policy._packable and all(policy._packable.values()), "this was the padded path"
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}


def rows_apart(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` says it computes, of (T, H, D), one row after the other: queries are
    the last of the keys, and see those within the window."""
    assert query.is_contiguous() and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
    assert enable_gqa or query.shape[1] == key.shape[1]
    bounds = [each.tolist() for each in (cu_seq_q, cu_seq_k)]
    answers = []
    for i in range(len(cu_seq_q) - 1):
        q, k, v = (
            states[at[i] : at[i + 1]].transpose(0, 1)[None]
            for states, at in ((query, bounds[0]), (key, bounds[1]), (value, bounds[1]))
        )
        ahead = torch.arange(k.shape[2]) - (torch.arange(q.shape[2]) + k.shape[2] - q.shape[2])[:, None]
        before, after = window_size
        seen = (ahead <= after if after >= 0 else True) & ((ahead >= -before) if before >= 0 else ahead.eq(ahead))
        answer = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        answers.append(answer[0].transpose(0, 1))
    return torch.cat(answers)


@pytest.mark.parametrize("gqa", [True, False])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral", "GPT2"])
def test_one_kernel_for_all_rows_is_attention_row_by_row(
    family: str, gqa: bool, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With shared beginnings, whose rows have fewer queries than keys, with a window, and with fewer key heads."""
    policy = loaded(Case(family), random_model(family), tokenizer)
    policy.lm.double()
    expected = answered(policy, ragged(3))
    calls = 0

    def varlen(*states: Tensor | int, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return rows_apart(*states, **options)  # type: ignore[arg-type]

    def without_gqa(q: Any, k: Any, v: Any, cq: Any, ck: Any, mq: Any, mk: Any, *, scale: Any, window_size: Any) -> Any:
        return varlen(q, k, v, cq, ck, mq, mk, scale=scale, window_size=window_size)

    known = varlen if gqa else without_gqa
    if gqa:
        known.__signature__ = inspect.signature(rows_apart)  # type: ignore[attr-defined]
    monkeypatch.setattr(packed, "_varlen", known)
    monkeypatch.setattr(packed, "_is_varlen", lambda query, value: True)
    close(answered(policy, ragged(3)), expected, 1e-12)
    assert calls == 2 * 2, "of two layers, with a gradient and without"


# --- the head ---------------------------------------------------------------------------------------------------------

VOCABULARY = 151_936
GIGA = 10**9


@pytest.mark.parametrize(
    ("bytes", "expected"),
    [
        ((70 * GIGA, 80 * GIGA), Tiling(1 << 28, 1 << 28, 2_187_500_000)),
        ((8 * GIGA, 16 * GIGA), Tiling(62_500_000, 62_500_000, 250_000_000)),  # 16e9 / 64 / 4, and 8e9 / 8 / 4
        ((-1, 2 * GIGA), Tiling(1 << 24, 1 << 24, 0)),
    ],
)
def test_tiles_suit_the_card_and_what_is_kept_its_free_memory(bytes: tuple[int, int], expected: Tiling) -> None:
    assert head.on_gpu(*bytes) == expected
    assert head.tiling(torch.device("cpu")) == head.CPU


@pytest.mark.parametrize("free", [0, 8 * GIGA])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_head_launches_less_than_a_kernel_a_token(free: int, mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two tiles of a small card, kept or computed again."""
    monkeypatch.setattr(head, "CPU", head.on_gpu(free, 6 * GIGA))
    rng = torch.Generator().manual_seed(0)
    linear, n = nn.Linear(16, VOCABULARY, bias=False), 200
    assert n // 2 < head.CPU.tile // VOCABULARY < n
    hidden = torch.randn(n, 16, generator=rng, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (n,), generator=rng)
    upstream = torch.randn(2, n, generator=rng)
    with Calls() as forward, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        logprobs, entropy = head_logprobs(Head(linear), hidden, torch.arange(n), targets, 0.7, with_entropy=True)
    with Calls() as backward:
        (torch.stack([logprobs, entropy]) * upstream).sum().backward()
    assert forward.kernels() < n and backward.kernels() < n
    found = [logprobs.detach(), entropy.detach(), hidden.grad, linear.weight.grad]
    hidden.grad = linear.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        logits = linear(hidden)
    every = torch.log_softmax(logits.float() / 0.7, -1)
    plain = torch.stack([every.gather(1, targets[:, None])[:, 0], -(every.exp() * every).sum(1)])
    (plain * upstream).sum().backward()
    expected = [*plain.detach(), hidden.grad, linear.weight.grad]
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, 2e-3 if mixed else 1e-5)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [0, 3])
def test_weights_are_cast_once_however_much_is_written(
    lora: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU has no copy of the weights by columns, which is cast once in any case."""
    monkeypatch.setattr(engine, "column_major", lambda model: contextlib.nullcontext())
    model = random_model("Llama")
    spec = HF(model=model, tokenizer=tokenizer, device="cpu", dtype="bf16", max_new_tokens=9, lora_rank=lora)
    policy = spec.load(frozenset({"logprobs"}))
    assert isinstance(policy, HFPolicy)
    matrices = Counter(tuple(w.shape) for n, w in policy.lm.named_parameters() if w.ndim == 2 and "embed" not in n)
    casts = []
    for steps in (3, 9):
        writing = SlotEngine(ServedModel(HF(), policy.lm, None, frozenset({VOCABULARY})))
        with Calls() as calls, torch.autocast("cpu", torch.bfloat16):
            writing.generate([(5, 6, 7), (9, 8)], 2, CompleteDecoding(steps), seeds=[0, 1], at_once=8)
        casts.append({shape: calls.made["_to_copy", shape] for shape in matrices})
    assert casts[0] == casts[1]
    assert sum(casts[0].values()) <= sum(matrices.values())
    assert lora or casts[0] == dict(matrices)


@pytest.mark.parametrize("family", ["Llama", "Mistral"])
def test_a_cache_that_grows_says_the_same_and_takes_what_is_needed(
    family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(family, initializer_range=0.3)
    taken = []
    former = slots.SlotCache.reach

    def reach(self: slots.SlotCache, width: int) -> None:
        former(self, width)
        taken.append((self.capacity, self.limit))

    monkeypatch.setattr(slots.SlotCache, "reach", reach)
    written = []
    for pace in (Pace(), Pace(steps=3, seats=4, columns=8, page=8)):
        taken.clear()
        writing = SlotEngine(ServedModel(HF(), model, None, frozenset(range(1, 60))))
        writing.pace = pace
        written.append(writing.generate([(200, 201), (202,) * 9], 4, CompleteDecoding(50), seeds=[2, 3], at_once=6))
    assert [each[0] for each in written[0]] == [each[0] for each in written[1]]
    longest = max(9 + len(tokens) for tokens, _, _ in written[0])
    capacities, limit = {capacity for capacity, _ in taken}, taken[0][1]
    assert limit == 64, "59 columns in steps of 8"
    assert longest < 36, "the texts are to end early"
    assert max(capacities) <= longest * 1.5 + 3 + 8 < limit
    assert len(capacities) > 1, "it has grown"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_memory_that_ends_while_generating_halves_how_many_are_generated_at_once(
    error: Exception, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = HF(model=random_model("Llama"), tokenizer=tokenizer, device="cpu", max_new_tokens=6, generate_batch=64)
    policy = spec.load(frozenset({"logprobs"}))
    prompts = [Prompt("one"), Prompt("two")]
    expected = policy.generate(prompts, 6, seeds=range(len(prompts)))
    fits, tried = 4, []

    def said(groups: Any) -> list[tuple[int, ...]]:
        return [completion.tokens for group in groups for completion in group.completions]

    former = SlotEngine.generate

    def generate(self: SlotEngine, asked: Any, n: int, settings: CompleteDecoding, *, seeds: Any, at_once: int) -> Any:
        tried.append(at_once)
        if min(at_once, n * len(asked)) > fits:
            raise error
        return former(self, asked, n, settings, seeds=seeds, at_once=at_once)

    monkeypatch.setattr(SlotEngine, "generate", generate)
    with caplog.at_level("WARNING", "alignzoo"):
        for _ in range(2):
            assert said(policy.generate(prompts, 6, seeds=range(len(prompts)))) == said(expected)
    assert tried == [64, 6, 3, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory while 12 completions were generated at once: it goes on with 6, and half of those where need "
        "be, which changes no text; policy.generate_batch = 6 begins there"
    ]
    fits = 0
    with pytest.raises(ModelError, match=r"out of memory while a single completion was generated: .*max_new_tokens"):
        policy.generate(prompts, 6, seeds=range(len(prompts)))


@pytest.mark.parametrize("chosen", ["generate", "continuous"])
def test_nothing_of_a_generation_config_changes_what_is_generated(chosen: str) -> None:
    """Recorded log-probabilities are of what the policy says, and so must the draws be."""
    model = random_model("Llama")
    own = model.generation_config = GenerationConfig(
        do_sample=True, repetition_penalty=5.0, bad_words_ids=[[7]], suppress_tokens=[9], min_new_tokens=6, top_k=2
    )
    writing = {"generate": TransformersEngine, "continuous": PagedEngine}[chosen](
        ServedModel(HF(), model, None, frozenset({1}))
    )
    written = writing.generate([(5, 6, 7)], 8, CompleteDecoding(8), seeds=[0], at_once=8)
    assert model.generation_config is own
    for tokens, recorded, _ in written:
        logits = model(torch.tensor([(5, 6, 7, *tokens)])).logits[0, 2:-1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(recorded), expected.detach(), rtol=1e-4, atol=1e-4)


# --- what is held -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "tied"), [("Llama", False), ("Qwen2", True), ("GPT2", True), ("Gemma2", True)])
def test_a_reference_in_half_the_memory_answers_to_the_bit(family: str, tied: bool, tokenizer: Any) -> None:
    spec = HF(model=random_model(family), tokenizer=tokenizer, device="cpu", dtype="bf16", max_new_tokens=4)
    policy = spec.load(frozenset({"logprobs", "ref_logprobs"}))
    assert isinstance(policy, HFPolicy)
    reference, columns = policy.roles["ref"].model, frozenset({"logprobs"})
    bf16 = {name for name, weight in reference.named_parameters() if weight.dtype == torch.bfloat16}
    assert not [weight for weight in reference.parameters() if weight.requires_grad]
    assert any("mlp" in name for name in bf16) and ("lm_head.weight" in bf16) is not tied
    assert not [name for name in bf16 if "norm" in name or "embed" in name or "wte" in name or "bias" in name]
    own = policy.forward(ragged(0), columns).logprobs
    with policy.answering("ref"), torch.no_grad():
        assert torch.equal(policy.forward(ragged(0), columns).logprobs, own)
    assert {weight.dtype for weight in policy.lm.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_reward_model_is_not_trained(dtype: Any, tokenizer: Any, tmp_path: Path) -> None:
    random_model("Llama", AutoModelForSequenceClassification, num_labels=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward = ModelReward(str(tmp_path), device="cpu", dtype=dtype)
    scorer, batch, scores = reward.open(Context("rm")), ragged(0), frozenset({"scores"})
    assert isinstance(scorer, HFPolicy)
    assert not any(weight.requires_grad for weight in scorer.scorer.parameters())
    trained = HF(model=str(tmp_path), device="cpu", dtype=dtype, max_new_tokens=1).load(scores)
    assert torch.equal(scorer.forward(batch, scores).scores, trained.forward(batch, scores).scores)
    held = sum(weight.numel() * weight.element_size() for weight in scorer.scorer.parameters())
    outline = reward.outline(frozenset())
    assert outline.shape == scorer.info().shape and outline.shape.trained == 0
    assert cost.frozen_bytes(outline.shape, outline.width) == pytest.approx(held, rel=0.02)
    assert cost.gradient_bytes(scorer.info().shape) == 0


def test_who_learns_from_given_texts_holds_no_reference_while_it_does(
    plain_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("alignzoo_hf.model.policy.time", SimpleNamespace(monotonic=lambda: now[0]))
    batch, columns = ragged(0), frozenset({"logprobs"})

    def reference_of(needs: set[str], **changes: Any) -> list[Any]:
        # one that is named, as the policy would be its own until its first step
        spec = HF(model=str(plain_model), reference=str(plain_model), device="cpu", max_new_tokens=4)
        policy = replace(spec, **changes).load(frozenset(needs))
        assert isinstance(policy, HFPolicy)
        with torch.no_grad(), policy.answering("ref"):
            first = policy.forward(batch, columns).logprobs
        with torch.no_grad():
            policy.forward(batch, columns)
        held = [policy.roles["ref"].is_loaded]
        policy.forward(batch, columns).logprobs.sum().backward()
        held.append(policy.roles["ref"].is_loaded)
        with torch.no_grad(), policy.answering("ref"):
            assert torch.equal(policy.forward(batch, columns).logprobs, first)
        policy.forward(batch, columns).logprobs.sum().backward()
        return [*held, policy.roles["ref"].is_loaded]

    assert reference_of({"logprobs"}) == [True, False, False]
    assert reference_of({"logprobs", "ref_logprobs"}) == [True, False, False], "of given texts its answers are kept"
    assert reference_of({"logprobs", "old_logprobs"}) == [True, True, True], "its KL may be measured in every step"
    monkeypatch.setattr("alignzoo_hf.model.policy.time.monotonic", lambda: now.append(now[-1] + 1) or now[-1])
    assert reference_of({"logprobs"}) == [True, False, True], "it is asked as often as it is learned from"
    live = LlamaForCausalLM.from_pretrained(plain_model)
    tokenizer = AutoTokenizer.from_pretrained(plain_model)
    assert reference_of({"logprobs"}, model=live, tokenizer=tokenizer, reference="") == [True, True, True], (
        "it lies nowhere else"
    )


# --- precision and order ----------------------------------------------------------------------------------------------


def test_a_trunk_in_bf16_is_held_to_what_bf16_is_good_for(caplog: pytest.LogCaptureFixture) -> None:
    for family in ("Llama", "Qwen3"):
        model = random_model(family).bfloat16()
        assert trunk.can_pack(model), caplog.text
        assert not unfit(ServedModel(HF(), model, None, frozenset({1})))


def test_deterministic_algorithms_are_a_setting(plain_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    for chosen in (False, True):
        HF(model=str(plain_model), device="cpu", max_new_tokens=4, deterministic=chosen).load(frozenset())
    assert asked == [True] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
