"""Reward `model`: a trained reward model, or any sequence-classification directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge

from alignzoo import Batch, Completion, Context, Group, Policy, Prompt, Score, live_of, processes
from alignzoo.batching import answer, collate
from alignzoo.interfaces import CheckContext, Outline
from alignzoo.microbatch import MicroBatcher
from alignzoo_hf.model import shards
from alignzoo_hf.model.checks import STAGE, check_reward
from alignzoo_hf.model.models import check_scorer
from alignzoo_hf.model.outline import outline
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

SCORES = frozenset({"scores"})

COMPANY = Group(Prompt(""), (), (Completion((0,), "", False),))
"""What a process scores where it has nothing left to score, and the others' passes need it."""


@dataclass(frozen=True)
class ModelReward:
    """The output of a sequence-classification model on prompt and completion, in the tokens of its own tokenizer."""

    model: str
    """Directory or hub id."""
    label: Annotated[int, Ge(0)] | None = None
    """Which output is the score, for a classifier with several; none: its only one."""
    weights: tuple[float, ...] = ()
    """For a reward model of several attributes, the weight of each output, from the first on: the score is their
    weighted sum, and the attributes are its parts. Empty: one output alone."""
    chat_template: str = ""
    """For conversations, as in policy `hf`; empty: the tokenizer's own."""
    batch: Annotated[int, Ge(1)] = 256
    """Completions scored at once."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: a GPU when there is one."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision, as in policy `hf`."""
    shard: Literal["auto", "none", "fsdp"] = "auto"
    """Who holds its weights where there are several processes, as in policy `hf`."""

    @property
    def collective(self) -> bool:
        """Whether its weights are sharded, so that all processes score at the same time."""
        return shards.is_sharded(self._settings(), SCORES)

    def open(self, context: Context) -> Policy:
        """Load the model, which is not to be trained."""
        self._check_outputs()
        return HFPolicy(self._settings(), self._columns(), frozen=True)

    def _check_outputs(self) -> None:
        check_scorer(self._settings(), self.model, chosen=self.label is not None or bool(self.weights))

    def _columns(self) -> frozenset[str]:
        return frozenset(f"scores:{i}" for i in range(len(self.weights))) or SCORES

    def check(self, context: CheckContext) -> None:
        """Raise ModelError where the model is no scorer, or its template cannot render the first step's prompts."""
        check_reward(self._settings(), context)
        if not self.model.startswith(STAGE):
            self._check_outputs()

    def outline(self, needs: frozenset[str]) -> Outline:
        """The model as it will be, without its weights."""
        return outline(self._settings(), SCORES, frozen=True)

    def _settings(self) -> HF:
        return HF(
            model=self.model,
            max_new_tokens=1,
            chat_template=self.chat_template,
            device=self.device,
            dtype=self.dtype,
            score_label=self.label or 0,
            shard=self.shard,
        )

    def score(self, groups: Sequence[Group], policy: Policy) -> list[tuple[Score, ...]]:
        return self.scores(groups)

    @property
    def _scorer(self) -> Policy:
        scorer: Policy = live_of(self)
        return scorer

    def scores(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """What the model says of each completion, whatever policy wrote it."""
        scorer = self._scorer
        rows = [row for group in groups for row in _encoded(scorer, group)]
        batcher = MicroBatcher(scorer, rows=self.batch)
        parts = list(batcher.cut(collate(rows, scored=False))) if rows else []
        more = max(processes.everyones(len(parts))) - len(parts) if scorer.info().collective else 0
        scores = iter([score for part in parts for score in self._answered(scorer, part, batcher)])
        for _ in range(more):
            self._answered(scorer, collate([COMPANY], scored=False), batcher)  # the others have a pass more
        return [tuple(next(scores) for _ in group.completions) for group in groups]

    def _answered(self, scorer: Policy, batch: Batch, batcher: MicroBatcher) -> list[Score]:
        found = answer(scorer, batch, self._columns(), batcher=batcher)
        if not self.weights:
            return [Score(value) for value in found["scores"].tolist()]
        outputs = [found[f"scores:{i}"].tolist() for i in range(len(self.weights))]
        return [
            Score(
                sum(weight * value for weight, value in zip(self.weights, row, strict=True)),
                parts={f"output {i}": value for i, value in enumerate(row)},
            )
            for row in zip(*outputs, strict=True)
        ]


def _encoded(scorer: Policy, group: Group) -> list[Group]:
    """Each completion in this model's tokens. A cut-off completion is shown without an end, as it is."""
    encoded = scorer.encode(group.prompt, [given.text for given in group.completions])
    rows = []
    for given, completion in zip(group.completions, encoded.completions, strict=True):
        cut = not given.finished and completion.finished  # and so was ended by the encoding
        tokens = encoded.prompt_tokens + (completion.tokens[:-1] if cut else completion.tokens)
        whole = replace(completion, tokens=tokens, own=None, mask=None)  # an empty answer is a row as well
        rows.append(replace(encoded, prompt_tokens=(), completions=(whole,)))
    return rows
