"""The nouns: prompts, completions, scores, groups, and the batch that every loss reads.

Axes, said once: N rows, T tokens (right-padded), V vocabulary. A row is a prompt and one completion; rows of
one group are adjacent. Every (N, T) column speaks about token t given the tokens before it, and is 0 where
`mask` is False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

FloatN: TypeAlias = Tensor
FloatNT: TypeAlias = Tensor
LongN: TypeAlias = Tensor
LongNT: TypeAlias = Tensor
BoolNT: TypeAlias = Tensor

Message: TypeAlias = Mapping[str, str]
"""One turn of a conversation: {"role": "user" | "assistant" | "system", "content": text}."""

Text: TypeAlias = str | tuple[Message, ...]
"""Plain text, tokenised as it stands, or a conversation, tokenised through the model's chat template."""


@dataclass(frozen=True)
class Prompt:
    """What is asked, and what the data already know about answers to it."""

    messages: Text
    """The question: a conversation, or plain text to be continued."""
    completions: tuple[Text, ...] = ()
    """Answers that come with the data: one demonstration, a pair, a ranking."""
    labels: tuple[float, ...] = ()
    """One score per completion, higher is better; only their order matters to most methods."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """The dataset's other columns, handed to rewards: an answer key, a margin, a source."""


@dataclass(frozen=True)
class Completion:
    """One answer, as tokens and as text."""

    tokens: tuple[int, ...]
    text: str
    finished: bool = True
    """It ended by itself; False when it was cut off at a length limit."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each token when it was sampled; None for text that no policy of this run wrote."""
    trail: Mapping[str, str] = field(default_factory=dict)
    """How it came about, in a sampler's own words, for samples.jsonl: which principle, what critique."""
    age: int = 0
    """Steps since it was written: 0 where it is of this step, more where a sampler brings it again."""


@dataclass(frozen=True)
class Score:
    """A reward source's verdict on one completion."""

    value: float | None
    """The reward; None when the source abstained."""
    tokens: tuple[float, ...] | None = None
    """A dense reward, one number per token, beside the whole completion's value."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named components, logged each."""
    note: str = ""
    """The judge's reason."""


@dataclass(frozen=True)
class Question:
    """What a judge is asked."""

    prompt: Text
    """What the answers answer."""
    answers: tuple[str, ...]
    """One: how good is it? Two, in the order in which they are shown: which is better?"""
    criterion: str = ""
    """A rubric, or a principle's own question; empty: overall quality."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """The prompt's other columns; judges that are programs read them."""
    name: str = ""
    """The principle's short name, by which a judge that is a program knows its rule."""
    examples: tuple[tuple[Question, Verdict], ...] = ()
    """Questions like it with the right verdicts, shown to the judge before it is asked."""


@dataclass(frozen=True)
class Verdict:
    """A judge's answer: a value, an abstention, or an error."""

    kind: Literal["value", "abstain", "error"]
    value: float | None = None
    """Of one answer: how good, 0 to 1. Of two: the probability that the one shown first is better."""
    note: str = ""
    """The rationale, or what went wrong."""

    def __post_init__(self) -> None:
        if (self.value is not None) != (self.kind == "value"):
            raise ValueError(f"a verdict of kind {self.kind!r} with the value {self.value}")
        if self.value is not None and not 0 <= self.value <= 1:
            raise ValueError(f"a verdict's value is from 0 to 1, found {self.value}")


@dataclass(frozen=True)
class Group:
    """A prompt and its completions: the one unit that every method reads."""

    prompt: Prompt
    prompt_tokens: tuple[int, ...]
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...] | None = None
    extra: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Columns that the core does not know: one number per completion each."""


@dataclass(frozen=True)
class Batch:
    """Scored groups as tensors. Immutable: use `dataclasses.replace`."""

    tokens: LongNT
    """Prompt and completion, right-padded with 0."""
    attend: BoolNT
    """True on real tokens, prompt and completion."""
    mask: BoolNT
    """True on completion tokens: what a loss may speak of."""
    group: LongN
    """Which group a row belongs to; equal values are adjacent."""
    rewards: FloatN
    """The combined score of each completion; abstained completions are not in the batch."""
    weights: FloatN | FloatNT
    """What each term counts; `prepare` sets it. The loss is Σ weights·terms / N."""
    token_rewards: FloatNT | None = None
    """Dense rewards, beside `rewards`."""
    parts: Mapping[str, FloatN] = field(default_factory=dict)
    """Each reward source by itself."""
    old_logprobs: FloatNT | None = None
    """Log-probabilities before the first update on this batch."""
    ref_logprobs: FloatNT | None = None
    """Log-probabilities of the frozen reference."""
    old_values: FloatNT | None = None
    """The critic before the first update on this batch: the value of the state before token t."""
    advantages: FloatNT | FloatN | None = None
    """Written by `prepare`: how much better than expected."""
    returns: FloatNT | None = None
    """Written by `prepare`: what the critic should have said."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Columns that the core does not know, (N,) or (N, T) each."""

    def __post_init__(self) -> None:
        shape = tuple(self.tokens.shape)
        if len(shape) != 2:
            raise ValueError(f"tokens must be (N, T), got {shape}")
        for name, column in self._columns():
            if tuple(column.shape) not in (shape, shape[:1]):
                raise ValueError(f"{name} has shape {tuple(column.shape)}, expected {shape[:1]} or {shape}")

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.tokens.shape[0])

    def _columns(self) -> Iterator[tuple[str, Tensor]]:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                yield f.name, value
            elif isinstance(value, Mapping):
                yield from ((f"{f.name}.{key}", column) for key, column in value.items())

    def select(self, rows: Tensor | slice) -> Batch:
        """These rows, every column alike. `rows` is a boolean mask, indices or a slice."""
        chosen: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                chosen[f.name] = value[rows]
            elif isinstance(value, Mapping):
                chosen[f.name] = {key: column[rows] for key, column in value.items()}
        return replace(self, **chosen)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device)
            elif isinstance(value, Mapping):
                moved[f.name] = {key: column.to(device) for key, column in value.items()}
        return replace(self, **moved)

    def split(self, groups: int, *, rng: torch.Generator | None = None) -> Iterator[Batch]:
        """Minibatches of at most `groups` whole groups (0: all in one), in random order when `rng` is given; a single
        one is the batch as it is."""
        sizes = self.group_sizes()
        if not groups or len(sizes) <= groups:
            yield from [self] if len(self) else []
            return
        order = torch.arange(len(sizes)) if rng is None else torch.randperm(len(sizes), generator=rng)
        starts = torch.cumsum(sizes, 0) - sizes
        for chosen in torch.split(order, groups):
            rows = [torch.arange(int(starts[g]), int(starts[g] + sizes[g])) for g in chosen]
            yield self.select(torch.cat(rows).to(self.tokens.device))

    def chunks(self, rows: int = 0, *, tokens: int = 0, couples: str = "group") -> Iterator[Batch]:
        """Micro-batches of at most so many rows and tokens (0: any number), in order, never through what `couples`
        names: "row": anywhere; "group": between groups; "minibatch": not at all.

        What may not be split and is larger stays whole. A group's prompt counts once, since a policy may read it once;
        so a group within the tokens is not split for their sake even where it may be. Of as few micro-batches as the
        tokens allow, the largest is as small as can be: it is what decides how much memory is needed.
        """
        if couples == "minibatch" or not (rows or tokens):
            yield self
            return
        units = list(self._units(rows, tokens, couples))
        ends = _cut(units, rows, tokens)
        if tokens:
            fewest, enough, most = len(ends), 1, tokens
            while enough < most:
                bound = (enough + most) // 2
                enough, most = (enough, bound) if len(_cut(units, rows, bound)) == fewest else (bound + 1, most)
            ends = _cut(units, rows, enough)
        for start, end in zip([0, *ends], ends, strict=False):
            yield self if end - start == len(self) else self.select(slice(start, end))

    def _units(self, rows: int, tokens: int, couples: str) -> Iterator[tuple[int, int]]:
        """What a micro-batch takes or leaves: how many rows each, and how many tokens."""
        own = self.mask.sum(1).tolist()
        shared = (self.attend & ~self.mask).sum(1).tolist()
        start = 0
        for size in self.group_sizes().tolist():
            end = start + size
            weight = max(shared[start:end]) + sum(own[start:end])
            if couples == "row" and (rows or weight > tokens):
                yield from ((1, s + o) for s, o in zip(shared[start:end], own[start:end], strict=True))
            else:
                yield size, weight
            start = end

    def group_sizes(self) -> LongN:
        """How many rows each group has, in order, on the CPU."""
        counts: LongN = torch.unique_consecutive(self.group.cpu(), return_counts=True)[1]
        return counts

    def ungroup(self) -> Batch:
        """Every row a group of its own, for methods whose rows are independent after `prepare`."""
        return replace(self, group=torch.arange(len(self), device=self.group.device))


def _cut(units: Sequence[tuple[int, int]], rows: int, tokens: int) -> list[int]:
    """Where micro-batches of at most so many rows and tokens (0: any number) end, each as large as it may be."""
    ends, start, end, cost = [], 0, 0, 0
    for size, weight in units:
        if end > start and (0 < rows < end + size - start or 0 < tokens < cost + weight):
            ends.append(end)
            start, cost = end, 0
        end, cost = end + size, cost + weight
    return [*ends, end]


@dataclass(frozen=True)
class Forward:
    """What a policy answers about a batch. Only the columns asked for are there."""

    logprobs: FloatNT | None = None
    """log π(token t | tokens before it)."""
    entropy: FloatNT | None = None
    """Entropy of π(· | tokens before t), in nats."""
    values: FloatNT | None = None
    """The critic's value of the state before token t."""
    scores: FloatN | None = None
    """One number for the whole row, read at its last token: a reward model's answer."""


@dataclass(frozen=True)
class Terms:
    """What each token or row costs, before any reduction."""

    loss: FloatNT | FloatN
    metrics: Mapping[str, FloatNT | FloatN] = field(default_factory=dict)
    """The algorithm's own figures, (N, T) or (N,), averaged over the mask or over rows."""


@dataclass(frozen=True)
class Alert:
    """What an observer warns of."""

    kind: str
    """A short word for it, the same every time: "entropy"."""
    message: str
    """A sentence for a person, with its figures."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The figures by name."""


@dataclass(frozen=True)
class StepReport:
    """One step of a run, for observers and for an optimizer's successor."""

    step: int
    """The number of finished steps, counted from 1."""
    steps: int
    """How many there will be."""
    metrics: Mapping[str, float]
    """The shared vocabulary (see the README) and the algorithm's own figures."""
    groups: tuple[Group, ...] = ()
    """What was written and scored in this step."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What the step's rewards and sampler spent: requests, tokens, money."""
