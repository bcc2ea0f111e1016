"""The contract of engines: what generates a policy's completions, in this process or in another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from alignzoo.decoding import CompleteDecoding
from alignzoo.errors import ModelError

Tokens: TypeAlias = Sequence[int]
"""A prompt, or a prompt with a transcript that goes on."""


class Generated(NamedTuple):
    """One completion as an engine generated it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each token, at the temperature and over the whole vocabulary; empty where the engine only
    knows others."""
    finished: bool
    """Whether it ended by itself, by a stop token or a stop text, and not at the length limit."""


@runtime_checkable
class EngineModel(Protocol):
    """A policy's model, or a role's, as the engine that generates with it sees it.

    Where there are several processes, `weights` and `save` are called on all of them in the same order.
    """

    device: torch.device
    dtype: torch.dtype
    """The precision in which the policy computes."""
    stop_ids: frozenset[int]
    """The tokens that end a completion."""
    longest: int
    """Tokens that a prompt with its completion has at most."""
    at_once: int
    """Completions that the settings allow at once."""
    trust_remote_code: bool
    """Whether the model repository's own code may run."""
    module: Any
    """The live model, for an engine in the same process: of policy `hf` transformers', its adapters included. None
    where there is none, as when weights are elsewhere or sharded."""
    tokenizer: Any
    """The tokenizer, transformers' for policy `hf`; None where there is none."""

    def version(self) -> str:
        """Another text whenever a weight is another: who holds a copy takes the weights anew."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The present weights by the names that a saved model has; adapters are merged in."""
        ...

    def save(self, path: Path) -> None:
        """Write a model directory with the present weights, which others can load."""
        ...

    def logits(self, rows: Sequence[Tokens]) -> Tensor:
        """What the model says of the token after each of these rows, (N, V): a plain forward pass, no cache."""
        ...

    def text(self, tokens: Tokens) -> str:
        """These tokens as text, special tokens included."""
        ...


@runtime_checkable
class HasAdapter(Protocol):
    """An `EngineModel` whose trained weights may be an adapter over weights that stay as they are, for an engine that
    takes the two apart. Where there are several processes, both are written on all of them in the same order."""

    def adapter_rank(self) -> int:
        """The largest rank of the adapter's matrices; 0 where there is none."""
        ...

    def save_adapter(self, path: Path) -> None:
        """Write the adapter alone, a directory as peft has it."""
        ...

    def save_base(self, path: Path) -> None:
        """Write a model directory without the adapter."""
        ...


def adapted(model: EngineModel, setting: str) -> HasAdapter:
    """The model as one with an adapter. Raises ModelError, which names the setting that asks for one, where it has
    none."""
    if isinstance(model, HasAdapter) and model.adapter_rank():
        return model
    raise ModelError(
        f"{setting} hands over an adapter alone, and this policy has none: set policy.lora_rank, or let all weights be "
        "handed over"
    )


class OpenEngine(Protocol):
    """An engine at work with one model."""

    def generate(
        self, prefixes: Sequence[Tokens], n: int, decoding: CompleteDecoding, *, seeds: Sequence[int], at_once: int
    ) -> list[Generated]:
        """`n` continuations of each prefix, prefix by prefix, at most `at_once` of them at the same time, with the
        model's present weights. Each prefix has a seed of its own: what is generated depends on it, on the prefix and
        on the completion's number alone. Raises ModelError for a decoding that it cannot keep to."""
        ...

    def close(self) -> None:
        """Let go of what it holds: weights, processes, connections. Nothing is asked of it afterwards."""
        ...


@runtime_checkable
class Rests(Protocol):
    """An open engine whose memory is the training's while the policy is trained."""

    def rest(self) -> None:
        """Give up what memory it can, until it is asked again. Called before every pass with a gradient, whether it
        rests already or not."""
        ...


@runtime_checkable
class Engine(Protocol):
    """The settings of an engine: a frozen dataclass, `policy.engine = "NAME"` or a table with a name.

    A policy opens it for its model, and for each role that generates, when that is first asked; and closes it at the
    stage's end. Optional: `laws: ClassVar[Mapping[str, str]]`, checks of the conformance kit that do not apply to it,
    each with the reason: {"neighbours": "its kernels round by what else is in the batch"}. And `not_ahead:
    ClassVar[str]`, why a second one cannot generate with a copy of the policy while that is trained (`schedule.ahead`).
    """

    exact: ClassVar[bool]
    """In float32 its log-probabilities are the training forward's, to rounding. Otherwise what is recorded is compared
    with the forward's, and may be corrected for (`schedule.importance_cap`)."""
    separate: ClassVar[bool]
    """It keeps a copy of the weights, of one model: roles beside the policy generate by engine `alignzoo`."""

    def open(self, model: EngineModel) -> OpenEngine:
        """Get ready to generate with this model. Raises ModelError that says what to do where that is impossible."""
        ...


def waived_laws(engine: object) -> Mapping[str, str]:
    """The checks that do not apply to an engine, and why, as it says itself; none of what is no engine."""
    if not isinstance(engine, Engine):
        return {}
    found: Mapping[str, str] = getattr(type(engine), "laws", {})
    return found


def not_ahead(engine: Engine) -> str:
    """Why an engine cannot generate with a copy of the policy while that is trained, as it says itself; else empty."""
    return str(getattr(type(engine), "not_ahead", ""))


def until_stop(found: Generated, stop: Sequence[str], text: Any, *, checked: int = 0) -> Generated:
    """A completion up to the token that completes one of the stop texts; whole where none does. `text` says tokens as
    text, and the first `checked` tokens are known to complete none."""
    end = stopped_at(found.tokens, stop, text, checked=checked)
    return found if end is None else Generated(found.tokens[:end], found.logprobs[:end], True)


def stopped_at(tokens: Tokens, stop: Sequence[str], text: Any, *, checked: int = 0) -> int | None:
    """How many tokens there are up to the first that completes a stop text; None where none does.

    A token is at least a byte, so that a stop text of so many bytes lies within as many tokens, whatever their parts.
    """
    if not stop:
        return None
    reach = max(len(each.encode()) for each in stop) + 1
    for end in range(checked + 1, len(tokens) + 1):
        said = text(tokens[max(0, end - reach) : end])
        if any(each in said for each in stop):
            return end
    return None
