"""What work costs: floating-point operations and bytes, from a model's shape and the lengths of texts. Pure arithmetic.

An operation is a multiplication or an addition, so a weight costs 2 per token. What is counted is the work that has
to be done: no padding, no recomputation, attention over the past only. Norms, activations and softmaxes are left out,
as everyone leaves them out (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1; PaLM, arXiv:2204.02311, appendix B).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from alignzoo.columns import of_part
from alignzoo.types import Batch, Group

FLOAT32 = 4
"""Bytes."""

LOGPROBS = frozenset({"logprobs"})
"""What a pass answers where it is not said."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only transformer that decide what it costs."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the feed-forward layer that a token goes through; of all the experts it is sent to together."""
    gated: bool
    """Whether the feed-forward layer has a gate, and so three matrices instead of two."""
    vocab: int
    parameters: int
    """All of them, adapters too; a tied head is counted once."""
    trained: int
    """Those that get a gradient."""
    trunk: int
    """Weights that a token is multiplied with from its embedding to its last hidden state, adapters too."""
    tied: bool
    """Whether the head is the embedding."""
    critic: ModelShape | None = None
    """A critic with a trunk of its own, whose `critic` is the next one; None where there is none, or where it is a head
    on this trunk."""
    shared: bool = False
    """Whether its frozen weights lie in memory already: those of a critic with an adapter on the policy's trunk."""

    @property
    def adapted(self) -> bool:
        """Whether only some of the weights are trained: those of adapters."""
        return self.trained < self.parameters

    @property
    def trained_trunk(self) -> int:
        """Weights of the trunk that get a gradient: all, or the adapters', which are all in the trunk."""
        return min(self.trained, self.trunk) if self.adapted else self.trunk

    @property
    def head(self) -> int:
        """Weights of the language-model head."""
        return self.hidden * self.vocab


def dense_trunk(
    layers: int, hidden: int, heads: int, kv_heads: int, head_dim: int, intermediate: int, *, gated: bool = True
) -> int:
    """The trunk's matrices of an ordinary transformer: queries and output, keys and values, feed-forward."""
    attention = 2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim
    return layers * (attention + (3 if gated else 2) * hidden * intermediate)


@dataclass(frozen=True)
class Work:
    """What a pass has to do, whatever the model. Sums of these are themselves work."""

    tokens: int = 0
    """Tokens that go through the trunk."""
    pairs: int = 0
    """(query, key) pairs of attention, one head of one layer: a token looks at itself and at all before it."""
    answers: int = 0
    """Positions at which the language-model head is applied."""

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.pairs + other.pairs, self.answers + other.answers)

    def __mul__(self, times: int) -> Work:
        return Work(self.tokens * times, self.pairs * times, self.answers * times)


# --- lengths -> work --------------------------------------------------------------------------------------------------


def reading(prompt: int, completions: Sequence[int], answers: Sequence[int] | None = None) -> Work:
    """One forward pass over a group: the prompt once, each completion after it, the head where an answer is asked for:
    at so many of a completion's tokens, at all of them where it is not given."""
    work = Work(prompt, _triangle(prompt))
    for length, asked in zip(completions, completions if answers is None else answers, strict=True):
        work += Work(length, length * prompt + _triangle(length), asked)
    return work


def writing(prompt: int, completions: Sequence[int]) -> Work:
    """Decoding a group: the prompt once, then every token but each completion's last, which nothing follows."""
    return _decoding(prompt, [(True,) * length for length in completions])


def _decoding(prompt: int, completions: Sequence[Sequence[bool]]) -> Work:
    """The same of transcripts: which of each one's tokens were generated; the others among them were read."""
    shared = not completions or any(own[0] if own else True for own in completions)
    work = Work(prompt, _triangle(prompt), int(shared))
    for own in completions:
        follow = max((place for place, generated in enumerate(own) if generated), default=0)
        work += Work(follow, follow * prompt + _triangle(follow), sum(own[1:]))
    return work


def reading_batch(batch: Batch) -> Work:
    """A forward pass over a batch in which the prompt is read once for all adjacent rows that share it."""
    prompts, answers = batch.prompt_length.tolist(), batch.mask.sum(1).tolist()
    completions = (batch.attend.sum(1) - batch.prompt_length).tolist()
    work, start = Work(), 0
    for size in torch.unique_consecutive(batch.prompt.cpu(), return_counts=True)[1].tolist():
        rows = slice(start, start + size)
        work += reading(prompts[start], completions[rows], answers[rows])
        start += size
    return work


def writing_groups(groups: Iterable[Group], step: int | None = None) -> Work:
    """Decoding the completions that a policy has generated for this step, counted from 1, or for none yet; texts of the
    data and of other steps are free. What others said between its turns is read."""
    work = Work()
    for group in groups:
        new = [each for each in group.completions if each.logprobs is not None and each.step in (None, step)]
        if new:
            work += _decoding(len(group.prompt_tokens), [each.own or (True,) * len(each.tokens) for each in new])
    return work


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


# --- work -> operations -----------------------------------------------------------------------------------------------


def forward(shape: ModelShape, work: Work, columns: frozenset[str] = LOGPROBS) -> int:
    """Operations of a forward pass that answers these columns of `Policy.forward`.

    2·trunk per token, 4·layers·heads·head_dim per attention pair (its score, and its share of the values), and
    2·hidden·V per position whose log-probability is asked for. A critic's own trunk is run, where it has one.
    """
    return sum(
        _weights(part.trunk, work.tokens) + _attention(part, work) + (_weights(part.head, work.answers) if head else 0)
        for part, head in _passes(shape, columns)
    )


def backward(shape: ModelShape, work: Work, columns: frozenset[str] = LOGPROBS) -> int:
    """Operations of the backward pass after `forward`: twice as many where every weight is trained.

    A matrix product has two gradients, each as dear as the product: that of its input, needed to reach what lies
    below, and that of its weights, needed where they are trained. So a frozen weight costs 2 per token instead of 4.
    Attention has no weights of its own, and two gradients for each of its two products.
    """
    total = 0
    for part, head in _passes(shape, columns):
        total += _weights(part.trunk + part.trained_trunk, work.tokens) + 2 * _attention(part, work)
        if head:
            total += _weights(part.head, work.answers) * (1 if part.adapted else 2)
    return total


def decode(shape: ModelShape, work: Work) -> int:
    """Operations of writing, which is a forward pass token by token: see `writing`."""
    return forward(shape, work)


def _passes(shape: ModelShape, columns: frozenset[str]) -> list[tuple[ModelShape, bool]]:
    """The trunks that are run, each with whether its language-model head is."""
    passes = []
    valued = sorted(of_part(columns, "critic")) if shape.critic is not None else []
    if columns - set(valued):
        passes.append((shape, bool(of_part(columns, "language"))))
    return passes + [(critic, False) for critic, _ in zip(critics(shape), valued, strict=False)]


def critics(shape: ModelShape) -> Iterator[ModelShape]:
    """The critics that have trunks of their own."""
    while shape.critic is not None:
        yield (shape := shape.critic)


def _weights(weights: int, tokens: int) -> int:
    return 2 * weights * tokens


def _attention(shape: ModelShape, work: Work) -> int:
    return 4 * shape.layers * shape.heads * shape.head_dim * work.pairs


# --- bytes ------------------------------------------------------------------------------------------------------------


def weight_bytes(shape: ModelShape, frozen: float = FLOAT32) -> int:
    """Trained weights in float32, frozen ones of an adapted model in `frozen` bytes each; a critic's own with them."""
    own = 0 if shape.shared else shape.parameters - shape.trained
    total = FLOAT32 * shape.trained + round(frozen * own)
    return total + (weight_bytes(shape.critic, frozen) if shape.critic else 0)


def frozen_bytes(shape: ModelShape, matrices: int = FLOAT32) -> int:
    """A model that is not trained: its linear layers in `matrices` bytes a weight, and float32 for norms and
    embeddings, those of a tied head too."""
    multiplied = shape.trunk + (0 if shape.tied else shape.head)
    multiplied = min(multiplied, shape.parameters - shape.head)  # embeddings are as many; who scores has no such head
    return FLOAT32 * shape.parameters - (FLOAT32 - matrices) * multiplied


def reference_bytes(shape: ModelShape, matrices: int = FLOAT32) -> int:
    """The frozen copy that answers as before training; an adapted model is its own reference."""
    return 0 if shape.adapted else frozen_bytes(shape, matrices)


def copy_bytes(shape: ModelShape, matrices: int = FLOAT32) -> int:
    """The copy of a policy that generates while it is trained: what is trained, its linear layers in `matrices` bytes a
    weight; frozen weights beneath an adapter are shared."""
    return matrices * shape.trained if shape.adapted else frozen_bytes(shape, matrices)


def gradient_bytes(shape: ModelShape) -> int:
    """One float32 for each trained weight."""
    return FLOAT32 * shape.trained + (gradient_bytes(shape.critic) if shape.critic else 0)


def adamw_bytes(shape: ModelShape) -> int:
    """Two moments for each trained weight (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2)."""
    return 2 * gradient_bytes(shape)


def cache_bytes(shape: ModelShape, tokens: int, width: int = FLOAT32) -> int:
    """Keys and values of so many tokens, all rows together, in `width` bytes each."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * width


def activation_bytes(shape: ModelShape, tokens: int, width: int = FLOAT32) -> int:
    """What a forward pass of so many tokens through the trunk keeps for its backward pass.

    Per token and layer, after Korthikanti et al. 2022 (arXiv:2205.05198) sec. 4 for kernels that keep no (T, T)
    matrix: each norm's input, normalised input and output; queries, keys, values and what attention returns; and the
    feed-forward layer's gate, its activation, the other branch and their product. Layers without a gate are counted
    with the norms that keep two tensors and the five of GPT-2's tanh formula.
    """
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    norms, inner = (6, 4) if shape.gated else (4, 5)
    layer = norms * shape.hidden + attention + inner * shape.intermediate
    return (shape.layers * layer + 3 * shape.hidden) * tokens * width


def recompute_bytes(shape: ModelShape, tokens: int, width: int = FLOAT32) -> int:
    """The same where a layer is computed again on the way back: its input is kept, and everything of one layer."""
    whole = activation_bytes(shape, tokens, width)
    return shape.layers * shape.hidden * tokens * width + whole // shape.layers
