"""How completions are generated: one dataclass for policies, engines, samplers, evaluation and the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from annotated_types import Ge, Gt, Le

Positive = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class Decoding:
    """How completions are generated. What is left out (None) is as the policy's own settings have it.

    Which seeds are drawn from is no part of it: each prompt has one, by its place in the step, so that a text depends
    neither on the other prompts of a call nor on the number of processes.
    """

    max_new_tokens: Positive | None = None
    """Length limit of a completion, in tokens."""
    temperature: Annotated[float, Gt(0)] | None = None
    """Sampling temperature; recorded log-probabilities are those of the tempered distribution."""
    top_k: Count | None = None
    """Sample among the k most likely tokens; 0: all."""
    top_p: Annotated[float, Gt(0), Le(1)] | None = None
    """Sample among the fewest tokens whose probabilities add up to p."""
    min_p: Annotated[float, Ge(0), Le(1)] | None = None
    """Sample among the tokens that are at least min_p times as likely as the likeliest; 0: all."""
    greedy: bool | None = None
    """Always take the most likely token."""
    stop: tuple[str, ...] | None = None
    """Texts that end a completion: with the token that completes one of them, which stays, as it was generated."""
    stop_tokens: tuple[Count, ...] | None = None
    """Token ids that end a completion, beside the model's own end tokens."""
    mix: tuple[tuple[str, float], ...] | None = None
    """Roles with which the policy generates together, each with its exponent w: tokens come from π^(1-Σw)·Π role^w,
    normalised. (("ref", 0.125),) leans to the reference, a negative w away from it."""

    def over(self, own: CompleteDecoding) -> CompleteDecoding:
        """Everything that is said here, and the rest as in `own`."""
        said = {f.name: getattr(self, f.name) for f in fields(Decoding) if getattr(self, f.name) is not None}
        return CompleteDecoding(**{f.name: getattr(own, f.name) for f in fields(Decoding)} | said)


@dataclass(frozen=True)
class CompleteDecoding(Decoding):
    """How completions are generated, with nothing left out: what an engine is given. A mixture is the
    policy's own affair: engines are given none."""

    max_new_tokens: Positive = 128
    temperature: Annotated[float, Gt(0)] = 1.0
    top_k: Count = 0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    greedy: bool = False
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[Count, ...] = ()
    mix: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not all(self.stop):
            raise ValueError(
                "stop holds an empty text, which would end every completion before it begins: leave it out"
            )

    @property
    def filters(self) -> bool:
        """Whether a part of the distribution is left out, so that tokens are not drawn from all of it."""
        return bool(self.top_k) or self.top_p < 1 or self.min_p > 0


AS_SET = Decoding()
"""As the policy's own settings have it."""
