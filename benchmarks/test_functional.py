"""The kernels of `alignzoo.functional`, and the head's, beside TRL's where TRL has the same function.

Where two are compared, they are seen to agree first. What TRL has only inside a trainer is compared with the formula
written out plainly, which says what a vectorised one is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scipy.optimize
import torch
import workload
from torch import Tensor
from transformers import AutoModelForCausalLM

from alignzoo import Batch
from alignzoo import functional as fn
from alignzoo_hf.forward.head import head_logprobs
from alignzoo_hf.model import models

utils = pytest.importorskip("trl.trainer.utils", reason="TRL is not installed: pip install trl==1.16.0")

ROWS, TOKENS = 64, 256
VOCABULARIES = (4096, 50_000)
SIDES = ("alignzoo", "other")

Kernel = Callable[[], Any]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def compared(benchmark: Any, side: str, ours: Kernel, other: Kernel) -> None:
    """Both are run once and seen to agree; then the one that is asked about is timed."""
    torch.testing.assert_close(ours(), other(), rtol=1e-4, atol=1e-5)
    benchmark(ours if side == "alignzoo" else other)


def ragged() -> Tensor:
    """A mask of completions of different lengths after prompts of different lengths."""
    starts, ends = torch.randint(1, 64, (ROWS, 1)), torch.randint(80, TOKENS + 1, (ROWS, 1))
    where = torch.arange(TOKENS)
    return (where >= starts) & (where < ends)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.benchmark(group="log-probabilities and entropy of 512 positions; other: TRL's")
def test_token_logprobs(benchmark: Any, vocab: int, side: str) -> None:
    logits, targets = torch.randn(512, vocab), torch.randint(vocab, (512,))
    compared(
        benchmark,
        side,
        lambda: fn.token_logprobs(logits, targets),
        lambda: utils.selective_log_softmax_and_entropy(logits, targets, entropy_requires_grad=False),
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.benchmark(group="a layer and the head, forward and backward, 512 tokens; other: TRL's fused head")
def test_head(benchmark: Any, vocab: int, side: str) -> None:
    """Both on half of the positions, as of prompts and completions."""
    size = workload.Size(256, 1, 768, 4, 2, vocab)
    model = AutoModelForCausalLM.from_config(workload.config(size)).eval()
    tokens = torch.randint(3, vocab, (4, 128))
    labels = tokens.masked_fill(torch.arange(128) < 64, -100)
    where = labels[:, 1:] != -100
    index = (torch.arange(4)[:, None] * 128 + torch.arange(127))[where]

    def ours() -> dict[str, Tensor]:
        states = model.base_model(tokens, use_cache=False).last_hidden_state.flatten(0, 1)
        found, _ = head_logprobs(models.head(model), states, index, labels[:, 1:][where], 1.0, with_entropy=False)
        return learned(found.sum())

    utils.add_fused_lm_head(model)

    def other() -> dict[str, Tensor]:
        return learned(model(tokens, labels=labels, fused_lm_head=True).log_probs.sum())

    def learned(total: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        return {"total": total.detach()} | {name: each.grad for name, each in model.named_parameters()}

    compared(benchmark, side, ours, other)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="advantages of 64 groups of 8; other: TRL's nanstd by rows of a table")
def test_group_advantages(benchmark: Any, side: str) -> None:
    rewards, group = torch.randn(512), torch.arange(512) // 8
    mask = torch.ones(512, 2, dtype=torch.bool)
    batch = Batch(mask.long(), mask, mask, group, rewards, torch.ones(512))

    def other() -> Tensor:
        table = rewards.view(-1, 8)
        spread = utils.nanstd(table, dim=1, keepdim=True)
        return ((table - table.nanmean(1, keepdim=True)) / (spread + 1e-4)).flatten()

    compared(benchmark, side, lambda: fn.group_advantages(batch), other)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="GAE of 64 rows of 256 tokens; other: row by row, as the formula is written")
def test_gae(benchmark: Any, side: str) -> None:
    mask = ragged()
    rewards, values = torch.randn(ROWS, TOKENS) * mask, torch.randn(ROWS, TOKENS) * mask

    def other() -> tuple[Tensor, Tensor]:
        found = torch.zeros_like(rewards)
        for row, (r, v, m) in enumerate(zip(rewards.tolist(), values.tolist(), mask.tolist(), strict=True)):
            running = following = 0.0
            for t in reversed(range(TOKENS)):
                if m[t]:
                    running = r[t] + following - v[t] + 0.95 * running
                    found[row, t], following = running, v[t]
        return found, (found + values) * mask

    compared(benchmark, side, lambda: fn.gae(rewards, values, mask, gamma=1.0, lam=0.95), other)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="whitening of 64 x 256; other: on the values that are left in a copy")
def test_whiten(benchmark: Any, side: str) -> None:
    mask = ragged()
    values = torch.randn(ROWS, TOKENS)

    def other() -> Tensor:
        kept = values[mask]
        return torch.zeros_like(values).masked_scatter(mask, (kept - kept.mean()) * torch.rsqrt(kept.var() + 1e-8))

    compared(benchmark, side, lambda: fn.whiten(values, mask), other)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(group="strengths of 16 players; other: scipy's BFGS on the same objective")
def test_bradley_terry(benchmark: Any, side: str) -> None:
    wins = torch.randint(0, 5, (16, 16)).double().fill_diagonal_(0)

    def other() -> Tensor:
        def objective(strengths: Any) -> tuple[float, Any]:
            s = torch.tensor(strengths, requires_grad=True)
            lost = -(wins * torch.nn.functional.logsigmoid(s[:, None] - s)).sum() + 0.05 * (s * s).sum()
            lost.backward()  # type: ignore[no-untyped-call]
            return float(lost.detach()), s.grad.numpy()  # type: ignore[union-attr]

        return torch.from_numpy(scipy.optimize.minimize(objective, torch.zeros(16).double().numpy(), jac=True).x)

    compared(benchmark, side, lambda: fn.bradley_terry(wins, 0.1), other)


@pytest.mark.parametrize("name", ["clipped_surrogate", "clipped_value_loss", "kl_k3", "log_ratio", "weigh", "scatter"])
@pytest.mark.benchmark(group="losses and weightings of 64 x 256")
def test_elementwise(benchmark: Any, name: str) -> None:
    mask = ragged()
    first, second, third = (torch.randn(ROWS, TOKENS) for _ in range(3))
    ratio, weights, few = torch.exp(first * mask), fn.sequence_mean(mask), first[mask]
    kernels: dict[str, Kernel] = {
        "clipped_surrogate": lambda: fn.clipped_surrogate(ratio, second),
        "clipped_value_loss": lambda: fn.clipped_value_loss(first, second, third),
        "kl_k3": lambda: fn.kl_k3(first),
        "log_ratio": lambda: fn.log_ratio(first, second, mask),
        "weigh": lambda: fn.weigh(first, weights, mask),
        "scatter": lambda: fn.scatter(few, mask),
    }
    assert torch.isfinite(torch.as_tensor(kernels[name]())).all()
    benchmark(kernels[name])
