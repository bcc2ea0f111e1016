"""The nouns: prompts, completions, scores, groups, and the batch that every loss reads.

Axes, said once: N rows, T tokens (right-padded), V vocabulary. A row is a prompt and one completion; rows of
one group are adjacent. Every (N, T) column speaks about token t given the tokens before it, and is 0 where
`mask` is False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from alignzoo.errors import MissingColumn
from alignzoo.transcript import Completion as Completion

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
    chat: Literal["auto", "user", "plain"] | None = None
    """What a text is: a user's turn where the model has a chat template (auto), in any case (user), or a text to be
    continued as it stands (plain; None: the same, but where the model has a template the user is told)."""
    media: Any = None
    """Images or sound that belong to the question, as a policy knows them: a path, a handle. Only the policy reads it,
    and no journal has it."""
    index: int | None = field(default=None, repr=False, compare=False)
    """Its place among the stage's prompts, by which a part that remembers prompts knows it; None elsewhere. It is no
    part of what is asked, and so equal prompts may have different ones."""
    finished: tuple[bool, ...] = ()
    """Which of the completions ended by themselves, where a policy generated them; empty: all of them."""


@dataclass(frozen=True)
class Score:
    """A reward source's verdict on one completion."""

    value: float | None
    """The reward; None when the source abstained."""
    tokens: tuple[float, ...] | None = None
    """A dense reward, one number per token, beside the completion's value: 0 for tokens that are not trained on."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named components, logged each."""
    note: str = ""
    """The judge's reason."""
    sources: Mapping[str, float] = field(default_factory=dict)
    """What each reward of the run gave to a combined score, unweighted, by its name; one that abstained is missing."""


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
    """How good one answer is, 0 to 1; or, for two, the probability that the one shown first is better."""
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
    extra: Mapping[str, tuple[float, ...] | tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """Columns that the core does not know: of each completion a number, or a number for each of its tokens."""


class Columns(dict[str, Any]):
    """Columns by name, as any mapping; one that is not there is told with where columns come from."""

    def __missing__(self, name: str) -> Any:
        raise MissingColumn(
            f"{name!r} is read of Batch.extra, and neither the stage's sampler (Group.extra) nor its data (a column of "
            f"that name) bring it; found: {', '.join(sorted(self)) or 'none'}"
        )


@dataclass(frozen=True)
class Batch:
    """Scored groups as tensors. Immutable: use `dataclasses.replace`."""

    tokens: LongNT
    """Prompt and completion, right-padded with 0."""
    attend: BoolNT
    """True on real tokens, prompt and completion."""
    mask: BoolNT
    """True on the completion tokens that are trained on: what a loss may speak of. There may be holes between."""
    group: LongN
    """What is compared: which group a row belongs to; equal values are adjacent. Minibatches are whole groups."""
    rewards: FloatN
    """The combined score of each completion; abstained completions are not in the batch."""
    weights: FloatN | FloatNT
    """What each term counts; `prepare` sets it. The loss is Σ weights·terms / N."""
    token_rewards: FloatNT | None = None
    """Dense rewards, beside `rewards`."""
    parts: Mapping[str, FloatN] = field(default_factory=dict)
    """Each reward source and its named components, to be logged; 0 where one is missing."""
    sources: Mapping[str, FloatN] = field(default_factory=dict)
    """Each reward of the run by itself, unweighted; NaN where it abstained, so mask before you compute with it."""
    source_weights: Mapping[str, float] = field(default_factory=dict)
    """The recipe's weight of each of `sources`; `rewards` is their weighted sum."""
    old_logprobs: FloatNT | None = None
    """Log-probabilities before the first update on this batch."""
    ref_logprobs: FloatNT | None = None
    """Log-probabilities of the reference."""
    old_values: FloatNT | None = None
    """The critic before the first update on this batch: the value of the state before token t."""
    advantages: FloatNT | FloatN | None = None
    """Written by `prepare`: how much better than expected."""
    returns: FloatNT | None = None
    """Written by `prepare`: what the critic should have said."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Columns that the core does not know, (N,) or (N, T) each."""
    answers: Mapping[str, FloatNT | FloatN] = field(default_factory=dict)
    """What other roles answered and no field above is for, by its column's name: "teacher_logprobs"."""
    prompt: LongN = None  # type: ignore[assignment]  # __post_init__ sets it
    """What is shared: rows with an equal number, which are adjacent, begin with the same prompt, so that a policy may
    compute it once. The group's number where it is not given."""
    row: LongN = None  # type: ignore[assignment]  # __post_init__ sets it
    """Who a row is: its number in the step, which stays with it through `select`, `split` and `prepare`. The place of
    the completion among all completions of the step's groups."""
    own: BoolNT = None  # type: ignore[assignment]  # __post_init__ sets it
    """True on the completion tokens that the policy generated, which may be others than those that are trained on. The
    mask where it is not given."""
    prompt_length: LongN = None  # type: ignore[assignment]  # __post_init__ sets it
    """How many tokens of a row are the prompt's: its completion begins there, whoever speaks first in it. Where it is
    not given, the tokens before the first that is generated or trained on."""
    media: tuple[Any, ...] = ()
    """`Prompt.media` of each row; empty where no prompt has any."""

    def __post_init__(self) -> None:
        shape = tuple(self.tokens.shape)
        if len(shape) != 2:
            raise ValueError(f"tokens must be (N, T), got {shape}")
        object.__setattr__(self, "extra", Columns(self.extra))
        if self.prompt is None:
            object.__setattr__(self, "prompt", self.group)
        if self.row is None:
            object.__setattr__(self, "row", torch.arange(shape[0], device=self.tokens.device))
        if self.own is None:
            object.__setattr__(self, "own", self.mask)
        if self.prompt_length is None:
            object.__setattr__(self, "prompt_length", _before_first(self.mask | self.own, self.attend))
        if self.media and len(self.media) != shape[0]:
            raise ValueError(f"media has {len(self.media)} entries for {shape[0]} rows")
        for name, column in self.columns().items():
            if tuple(column.shape) not in (shape, shape[:1]):
                raise ValueError(f"{name} has shape {tuple(column.shape)}, expected {shape[:1]} or {shape}")

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.tokens.shape[0])

    def __getitem__(self, name: str) -> Tensor:
        """The column that an optimizer names in `needs`: `batch["teacher_logprobs"]`. Raises KeyError where it is not
        there."""
        return _column(self, name)

    def columns(self) -> dict[str, Tensor]:
        """Every tensor by name; those of a mapping with a dot: "extra.finished"."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                found[name] = value
            elif isinstance(value, Mapping):
                found |= {f"{name}.{key}": each for key, each in value.items() if isinstance(each, Tensor)}
        return found

    def with_columns(self, columns: Mapping[str, Tensor | None], *, media: tuple[Any, ...] | None = None) -> Batch:
        """The batch with these columns in the place of its own, named as `columns` names them; and with other media
        where its rows are others."""
        changes: dict[str, Any] = {} if media is None else {"media": media}
        for name, column in columns.items():
            table, _, key = name.partition(".")
            if key:
                changes.setdefault(table, dict(getattr(self, table)))[key] = column
            else:
                changes[name] = column
        return replace(self, **changes)

    def answered(self, columns: Mapping[str, Tensor | None]) -> Batch:
        """The batch with what roles answered, by the names that `needs` has for it; None takes a column away."""
        given = {f.name for f in fields(self)}
        kept = {name: column for name, column in self.answers.items() if name not in columns}
        more = {name: column for name, column in columns.items() if name not in given and column is not None}
        known: dict[str, Any] = {name: column for name, column in columns.items() if name in given}
        return replace(self, answers={**kept, **more}, **known)

    def select(self, rows: Tensor | slice) -> Batch:
        """These rows, every column alike. `rows` is a boolean mask, indices or a slice."""
        found = {name: column[rows] for name, column in self.columns().items()}
        places = torch.arange(len(self), device=self.tokens.device)[rows].tolist() if self.media else []
        return self.with_columns(found, media=tuple(self.media[place] for place in places))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self.with_columns({name: column.to(device) for name, column in self.columns().items()})

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

    def group_sizes(self) -> LongN:
        """How many rows each group has, in order, on the CPU."""
        counts: LongN = torch.unique_consecutive(self.group.cpu(), return_counts=True)[1]
        return counts


def _before_first(flags: BoolNT, attend: BoolNT) -> LongN:
    """How many tokens of each row come before the first flag; all where there is none."""
    found: LongN = torch.where(flags.any(1), flags.long().argmax(1), attend.long().sum(1))
    return found


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
    answers: Mapping[str, FloatNT | FloatN] = field(default_factory=dict)
    """Columns that no field above is for, by name: "teacher_jsd:0.5"."""

    @classmethod
    def of(cls, columns: Mapping[str, Tensor]) -> Forward:
        """These answers by the names of their columns."""
        given = {f.name for f in fields(cls)}
        known: dict[str, Any] = {name: column for name, column in columns.items() if name in given}
        return cls(**known, answers={name: column for name, column in columns.items() if name not in given})

    def __getitem__(self, name: str) -> Tensor:
        """The column that an optimizer names in `needs`: `out["teacher_jsd:0.5"]`. Raises KeyError where it is not
        there."""
        return _column(self, name)

    def columns(self) -> dict[str, Tensor]:
        """Every answer by the name of its column."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: column for name, column in known.items() if isinstance(column, Tensor)} | dict(self.answers)


def _column(table: Batch | Forward, name: str) -> Tensor:
    found = table.answers.get(name, getattr(table, name, None))
    if isinstance(found, Tensor):
        return found
    raise KeyError(f"there is no column {name!r} here: an optimizer sees the columns that its `needs` names")


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
