"""How many tokens a pass takes, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alignzoo import cost
from alignzoo.cost import ModelShape
from alignzoo.microbatch import MicroBatcher
from alignzoo_hf.forward import memory
from alignzoo_hf.model.spec import HF

SHAPE = ModelShape(
    layers=12, hidden=512, heads=8, kv_heads=4, head_dim=64, intermediate=1408, gated=True, vocab=8192,
    parameters=40_000_000, trained=40_000_000, trunk=36_000_000, tied=True,
)  # fmt: skip
GIB = 1 << 30


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1408, 2048),  # 2^25 bytes / (4 · 1408) = 5957 tokens: more would gain nothing
        (8192, 1024),  # 2^25 / (4 · 8192) = 1024
        (12_000, 512),  # 699, the power of two below
        (30_000, 256),  # 279
        (500_000, 256),  # 16, but never so few that matrix products suffer
    ],
)
def test_on_the_cpu_the_widest_tensor_of_a_layer_stays_small(width: int, expected: int) -> None:
    assert memory.on_cpu(replace(SHAPE, layers=1, intermediate=width)) == expected


def test_on_the_cpu_activations_are_bounded_and_the_heads_probabilities_kept() -> None:
    # A token of 6 layers keeps 4 · (6 · 10240 + 3 · 512) = 251904 bytes, so 640 MB hold 2540; of 12 layers 1286, of
    # 24 layers 647.
    assert memory.on_cpu(replace(SHAPE, layers=6)) == 2048
    assert memory.on_cpu(SHAPE) == 1024
    assert memory.on_cpu(replace(SHAPE, layers=24)) == 512
    assert memory.on_cpu(replace(SHAPE, layers=48)) == 512  # no fewer for that
    assert memory.on_cpu(replace(SHAPE, layers=1, vocab=100_000)) == 512  # 2^26 / 100000 = 671


def test_on_the_cpu_gradients_that_take_long_to_add_up_are_added_up_less_often() -> None:
    assert memory.on_cpu(replace(SHAPE, layers=1, trained=8_388_609)) == 2048  # of 4 bytes each, just above 2^25
    assert memory.on_cpu(replace(SHAPE, layers=1, trained=8_388_608)) == 1024


def test_on_a_gpu_free_memory_is_for_gradients_moments_and_then_activations() -> None:
    # A token keeps, in 2 bytes each, 12 layers of 6·512 + 2·(8+4)·64 + 4·1408 = 10240 numbers and 3·512 more: 248832
    # bytes. Gradients and moments take 12 bytes for each of 40 million weights.
    assert cost.activation_bytes(SHAPE, 1, 2) == 248_832
    free = 480_000_000 + 10 * GIB
    assert memory.on_gpu(SHAPE, free, width=2) == 16_384  # of 0.6 · 10 GiB / 248832 = 25890 tokens
    assert memory.on_gpu(SHAPE, free, width=4) == 8_192
    assert memory.on_gpu(SHAPE, 500 * GIB, width=2) == 65_536


def test_a_gpu_that_is_nearly_full_is_tried_with_a_few() -> None:
    assert memory.on_gpu(SHAPE, 0, width=2) == 1024
    # 12 bytes of 40 million weights, an eighth of them on each of eight; two layers of 3 million and twice the 4
    # million of the embeddings are gathered, in 2 bytes.
    spared = 480_000_000 - 60_000_000 - 2 * (2 * 3_000_000 + 2 * 4_000_000)
    for free in range(GIB, 20 * GIB, GIB // 2):
        assert memory.on_gpu(SHAPE, free, width=2, shards=8) == memory.on_gpu(SHAPE, free + spared, width=2)


def test_a_policy_says_what_suits_it(plain_model: Path) -> None:
    policy = HF(model=str(plain_model), device="cpu").load(frozenset({"logprobs"}))
    assert policy.info().tokens_per_pass == 1024  # of a tiny model: more would gain nothing
    assert MicroBatcher(policy).tokens == 1024 and MicroBatcher(policy, tokens=7).tokens == 7
