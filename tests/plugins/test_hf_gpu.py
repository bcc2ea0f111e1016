"""What a GPU would pay for, counted on a CPU: the precision that attention is given, kernels of the head, casts of
weights."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hf_packed import Case, answered, close, loaded, ragged, random_model
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer

from alignzoo_hf import engine, head, packed
from alignzoo_hf.engine import Engine
from alignzoo_hf.head import Head, Tiling, head_logprobs
from alignzoo_hf.policy import HFPolicy
from alignzoo_hf.sampling import Sampling
from alignzoo_hf.spec import HF

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
    assert all(policy._packable.values()), "this was the padded path"
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
        writing = Engine(policy.lm, frozenset({VOCABULARY}))
        with Calls() as calls, torch.autocast("cpu", torch.bfloat16):
            writing.write([(5, 6, 7), (9, 8)], 2, Sampling(steps), seed=0, slots=8)
        casts.append({shape: calls.made["_to_copy", shape] for shape in matrices})
    assert casts[0] == casts[1]
    assert sum(casts[0].values()) <= sum(matrices.values())
    assert lora or casts[0] == dict(matrices)
