"""Costs: by hand, and against torch's own counter."""

from __future__ import annotations

from dataclasses import replace

import torch

from alignzoo import Completion, Group, Prompt, Score, cost
from alignzoo.batching import collate
from alignzoo.cost import ModelShape, Work

# One layer of hidden size 4, 2 heads of 3, 1 key-value head, a gated layer of 5, a vocabulary of 7:
# queries and output 2·4·6 = 48, keys and values 2·4·3 = 24, feed-forward 3·4·5 = 60, in all 132; the head 28.
SHAPE = ModelShape(
    layers=1,
    hidden=4,
    heads=2,
    kv_heads=1,
    head_dim=3,
    intermediate=5,
    gated=True,
    vocab=7,
    parameters=170,
    trained=170,
    trunk=132,
    tied=True,
)
ADAPTED = replace(SHAPE, parameters=190, trained=20, trunk=152)


def test_the_trunk_of_an_ordinary_transformer() -> None:
    assert cost.dense_trunk(1, 4, 2, 1, 3, 5) == 132
    assert cost.dense_trunk(2, 4, 2, 1, 3, 5, gated=False) == 2 * (72 + 40)


def test_reading_a_group_reads_its_prompt_once() -> None:
    # Prompt 3: 6 pairs. Completions 2 and 1: 2·3 + 3 = 9 pairs and 3 + 1 = 4 pairs.
    assert cost.reading(3, [2, 1]) == Work(tokens=6, pairs=19, answers=3)


def test_writing_leaves_out_what_nothing_follows() -> None:
    # The prompt of 3 gives the first token of both; then one token of the first looks at 3 + 1.
    assert cost.writing(3, [2, 1]) == Work(tokens=4, pairs=10, answers=2)


def test_work_of_batches_and_groups() -> None:
    written = tuple(Completion((1,) * n, "", logprobs=(0.0,) * n) for n in (2, 1))
    group = Group(Prompt("p"), (5, 5, 5), written, (Score(0.0), Score(1.0)))
    given = Group(Prompt("p"), (5, 5), (Completion((1, 1), ""),), (Score(0.0),))
    assert cost.reading_batch(collate([group])) == cost.reading(3, [2, 1])
    assert cost.reading_batch(collate([group, given])) == cost.reading(3, [2, 1]) + cost.reading(2, [2])
    assert cost.reading_batch(replace(collate([group]), prompt=torch.arange(2))) == Work(tokens=9, pairs=25, answers=3)
    assert cost.writing_groups([group, given]) == cost.writing(3, [2, 1])
    older = replace(group, completions=tuple(replace(each, policy_version=0, step=1) for each in group.completions))
    assert cost.writing_groups([older]) == Work()  # it was paid for two steps ago


def test_operations_by_hand() -> None:
    work = Work(tokens=10, pairs=20, answers=3)
    # 2·132·10 + 4·1·2·3·20 + 2·28·3 = 2640 + 480 + 168
    assert cost.forward(SHAPE, work) == cost.decode(SHAPE, work) == 3288
    assert cost.backward(SHAPE, work) == 2 * 3288
    assert cost.forward(SHAPE, work, frozenset({"scores"})) == 3120
    assert cost.forward(SHAPE, work, frozenset({"logprobs", "values"})) == 3288  # a head on the same trunk
    assert cost.forward(replace(SHAPE, critic=SHAPE), work, frozenset({"logprobs", "values"})) == 3288 + 3120
    assert cost.forward(replace(SHAPE, critic=SHAPE), work, frozenset({"values"})) == 3120
    assert cost.backward(replace(SHAPE, critic=SHAPE), work, frozenset({"logprobs", "values"})) == 2 * 6408


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    work = Work(tokens=10, pairs=20, answers=3)
    # inputs 2·152·10 = 3040, adapters' weights 2·20·10 = 400, attention 2·480, the head's input 168
    assert cost.backward(ADAPTED, work) == 3040 + 400 + 960 + 168


def test_bytes_by_hand() -> None:
    assert cost.weight_bytes(SHAPE) == cost.reference_bytes(SHAPE) == cost.gradient_bytes(SHAPE) == 680
    assert cost.adamw_bytes(SHAPE) == 1360
    assert cost.weight_bytes(replace(SHAPE, critic=SHAPE)) == 1360
    assert cost.weight_bytes(ADAPTED, frozen=2) == 4 * 20 + 2 * 170
    assert cost.reference_bytes(ADAPTED) == 0
    assert cost.cache_bytes(SHAPE, tokens=10, width=2) == 2 * 3 * 10 * 2
    # (6·4 + 2·3·3 + 4·5) + 3·4 = 74 floats a token
    assert cost.activation_bytes(SHAPE, tokens=10) == 74 * 10 * 4


def test_work_adds_and_multiplies() -> None:
    assert Work(1, 2, 3) + Work(10, 20, 30) == Work(11, 22, 33) and Work(1, 2, 3) * 2 == Work(2, 4, 6)
