"""A stage that trains nothing: it merges the weights of models, measured before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from alignzoo import processes
from alignzoo.errors import ModelError
from alignzoo.evaluation.heldout import Evaluated, scoring, writing
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.recipe.merge import Merge
from alignzoo.training import recording
from alignzoo.training.journal import Ledger
from alignzoo.training.loop import Outcome
from alignzoo.training.stage import Run


def merge(stage: Run, optimizer: Merge, others: Iterable[Policy]) -> Outcome:
    """Put the merged weights into the stage's policy. Raises ModelError where the models have other tensors."""
    rewards = [reward.source for reward in (*stage.rewards, *stage.heldout.rewards)]
    with Ledger(stage.journal, [*rewards, stage.sampler]) as ledger:
        stage.journal.rewind(None)
        processes.of_first(None)  # the others read the journal once the first has rewound it
        batcher = MicroBatcher(stage.policy, rows=stage.schedule.micro_batch, tokens=stage.schedule.micro_tokens)
        before = _measured(stage, batcher)
        stage.journal.write("evaluations", 0, {"before": before.figures, "best_of": {}})
        recording.write_evaluation(stage, 0, "before", before, batcher)
        base = stage.policy.state()
        states = [_same(base, other.state(), name) for name, other in zip(optimizer.models, others, strict=True)]
        stage.policy.restore(optimizer.merged(base, states))
        after = _measured(stage, batcher)
        stage.journal.write("evaluations", 1, {"after": after.figures})
        recording.write_evaluation(stage, 1, "after", after, batcher)
        ledger.write(1, "after")
        return Outcome(before.figures, after.figures, {}, 1, costs=ledger.total())


def _measured(stage: Run, batcher: MicroBatcher) -> Evaluated:
    """The stage's evaluation; there is no objective to tell of."""
    if not stage.heldout.settings.prompts:
        return Evaluated({})
    stage.progress(f"{stage.name}: evaluate", 0, 1, {})
    found = (writing if stage.trains_policy else scoring)(stage.policy, stage.heldout, batcher)
    stage.progress(f"{stage.name}: evaluate", 1, 1, found.figures)
    return found


def _same(base: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
    """A model's tensors, copied, where they are those of the base."""
    shapes, others = ({key: tuple(each.shape) for key, each in state.items()} for state in (base, found))
    if shapes != others:
        differ = sorted(key for key in shapes.keys() | others.keys() if shapes.get(key) != others.get(key))
        key = differ[0]
        raise ModelError(
            f"{name} cannot be merged with the stage's policy: {len(differ)} tensors differ, first {key!r}, of shape "
            f"{others.get(key, 'none')} there and {shapes.get(key, 'none')} here. Merge models of one architecture"
        )
    return {key: each.clone() for key, each in found.items()}
