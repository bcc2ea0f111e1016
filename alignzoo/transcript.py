"""A transcript: what a policy has answered, token by token, with what others said in between."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

NO_AGE = (
    "a completion has no `age`: it has `policy_version`, the number of steps that the policy had finished when it "
    "generated it, and `step`, the one that it was generated for; the run notes both"
)


@dataclass(frozen=True)
class Completion:
    """One answer, as tokens and as text: a transcript, in which a tool or another speaker may have turns as well."""

    tokens: tuple[int, ...]
    """All of it: what the policy generated, and what others said between its turns."""
    text: str
    finished: bool = True
    """It ended by itself; False when it was cut off at a length limit."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each token when it was sampled, 0 of the tokens that are not the policy's own; None for text
    that no policy of this run generated."""
    trail: Mapping[str, str] = field(default_factory=dict)
    """How it came about, in a sampler's own words, for samples.jsonl: which principle, what critique."""
    own: tuple[bool, ...] | None = None
    """Which tokens are the policy's own, or the assistant's in given answers; None: all. The others are context."""
    mask: tuple[bool, ...] | None = None
    """Which tokens are trained on; None: its own."""
    turns: tuple[int, ...] = ()
    """The places of the tokens with which turns begin; empty where there is one turn."""
    policy_version: int | None = None
    """How many steps the policy had finished when it generated this; where several versions did, of the oldest. None:
    the present version, which the run then notes here."""
    step: int | None = None
    """The step, counted from 1, that it was generated for, which the run notes. Whoever brings it again in a later step
    does not generate it anew."""
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a checkpoint's fields are these

    def __new__(cls, *given: object, **named: object) -> Completion:
        if "age" in named:
            raise TypeError(NO_AGE)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("logprobs", "own", "mask"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.tokens):
                raise ValueError(f"{name} has {len(given)} entries for {len(self.tokens)} tokens: one each is expected")
        if list(self.turns) != sorted(set(self.turns)) or not all(0 <= turn < len(self.tokens) for turn in self.turns):
            raise ValueError(f"turns are {self.turns}, expected ascending places among {len(self.tokens)} tokens")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(NO_AGE if name == "age" else f"Completion has no attribute {name!r}")

    @classmethod
    def observation(cls, tokens: Sequence[int], text: str) -> Completion:
        """A turn that is not the policy's: a tool's answer, another speaker's words."""
        return cls(tuple(tokens), text, False, (0.0,) * len(tokens), own=(False,) * len(tokens))

    @property
    def n_own(self) -> int:
        """How many tokens are the policy's own."""
        return len(self.tokens) if self.own is None else sum(self.own)

    @property
    def trained(self) -> tuple[bool, ...]:
        """For each token, whether it is trained on."""
        found = self.own if self.mask is None else self.mask
        return (True,) * len(self.tokens) if found is None else found

    def then(self, *parts: Completion) -> Completion:
        """The transcript that goes on with these turns, and ends as the last of them does."""
        whole = [each for each in (self, *parts) if each.tokens]
        starts = itertools.accumulate((len(each.tokens) for each in whole), initial=0)
        begins = ((start, each.turns or (0,)) for start, each in zip(starts, whole, strict=False))
        own = tuple(flag for each in whole for flag in each.own or (True,) * len(each.tokens))
        mask = tuple(flag for each in whole for flag in each.trained)
        known = all(each.logprobs is not None for each in whole)
        versions = [each.policy_version for each in whole if each.policy_version is not None]
        return replace(
            self,
            tokens=tuple(token for each in whole for token in each.tokens),
            text="".join(each.text for each in whole),
            finished=(self, *parts)[-1].finished,
            logprobs=tuple(number for each in whole for number in each.logprobs or ()) if known else None,
            trail={name: note for each in whole for name, note in each.trail.items()},
            own=None if all(own) else own,
            mask=None if mask == own else mask,
            turns=tuple(start + turn for start, turns in begins for turn in turns),
            policy_version=min(versions, default=None),
        )

    def cut(self, length: int) -> Completion:
        """Its first tokens alone, which do not end by themselves. The text stays."""
        return replace(
            self,
            tokens=self.tokens[:length],
            finished=False,
            logprobs=None if self.logprobs is None else self.logprobs[:length],
            own=None if self.own is None else self.own[:length],
            mask=None if self.mask is None else self.mask[:length],
            turns=tuple(turn for turn in self.turns if turn < length),
        )

    def generated_for(self, step: int, version: int | None = None) -> Completion:
        """With the step, counted from 1, and the policy's `version`, where they are not noted and the policy has
        generated it. Where no version is given, it is the one that the policy has as that step begins."""
        if self.logprobs is None or self.step is not None:
            return self
        version = step - 1 if version is None else version
        return replace(self, step=step, policy_version=version if self.policy_version is None else self.policy_version)
