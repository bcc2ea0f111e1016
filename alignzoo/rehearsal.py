"""A first step without its model: what would be written and read, and how long a small model of the same widths takes.

Nothing is loaded but configurations and the data. What the policy would write has the length that is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alignzoo import cost
from alignzoo.collate import collate, only, trim
from alignzoo.cost import ModelShape, Work
from alignzoo.errors import RunError
from alignzoo.interfaces import HasCosts, HasOutline, Outline
from alignzoo.material import data_of
from alignzoo.probe import Clock
from alignzoo.recipe import Stage
from alignzoo.types import Batch, Completion, Group, Prompt, Score, Text

FORWARD = frozenset({"logprobs", "entropy", "values", "scores"})
"""The columns that an update answers."""

TRIALS = (2, 4)
"""Layers of the policies that are timed; a model of no more is timed whole."""

REPEATS = 3
"""Of each timing, after one that warms up; the fastest counts."""

ROWS = 128
"""Completions that a trial writes at once, at most."""

Count = Callable[[ModelShape], int]
"""Operations, for a model of any number of layers."""


class _StandIn:
    """In a policy's place: it encodes as the policy does, and writes nothing, at the length that is asked about."""

    def __init__(self, outline: Outline, length: int) -> None:
        self.device = torch.device("cpu")
        self.written = Work()
        self.tokens = self.rows = self.cached = 0
        self._outline, self._length = outline, min(length or outline.longest, outline.longest)

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        return self._outline.encode(prompt, texts)

    def generate(self, prompts: Sequence[Prompt], n: int, *, seed: int, greedy: bool = False) -> list[Group]:
        groups = [replace(self.encode(prompt, []), completions=self._completions(n)) for prompt in prompts]
        self.written += cost.writing_groups(groups)
        self.tokens += len(groups) * n * self._length
        rows = min(len(groups) * n, self._outline.slots)
        width = max(len(group.prompt_tokens) for group in groups) + self._outline.longest
        self.rows, self.cached = max(self.rows, rows), max(self.cached, rows * width)
        return groups

    def _completions(self, n: int) -> tuple[Completion, ...]:
        """Different from their first token on: what rows have in common, a policy need not compute for each."""
        length, vocab = self._length, self._outline.shape.vocab
        return tuple(Completion((i % vocab,) * length, "", False, (0.0,) * length) for i in range(n))


class Rehearsal:
    """One step of one stage."""

    def __init__(self, stage: Stage, length: int) -> None:
        self.stage, self.needs = stage, stage.optimizer.needs
        if not isinstance(stage.policy, HasOutline):
            name = type(stage.policy).__name__
            raise RunError(f"{stage.name}: the policy {name} cannot be planned with: it has no `outline`")
        if isinstance(stage.sampler, HasCosts) and stage.sampler.costs():
            raise RunError(f"{stage.name}: its sampler asks a service that costs something, so no step can be planned")
        self.outline = stage.policy.outline(self.needs)
        self.rewards = [
            each.source.outline(frozenset({"scores"})) for each in stage.rewards if isinstance(each.source, HasOutline)
        ]
        data, size = data_of(stage)[0], stage.schedule.prompts
        self.steps, self.whole = stage.schedule.total(len(data)), len(data)
        self.prompts = [data[i * len(data) // size % len(data)] for i in range(size)]  # spread over the data
        self.writer = _StandIn(self.outline, length)
        groups = stage.sampler.sample(self.prompts, self.writer, seed=0)  # type: ignore[arg-type]
        self.groups = [_scored(group) for group in groups]
        self.batch = collate(self.groups)
        zeros = torch.zeros(self.batch.tokens.shape)
        filled = replace(self.batch, old_logprobs=zeros, ref_logprobs=zeros, old_values=zeros)
        self.prepared = stage.optimizer.prepare(only(filled, self.needs))

    def micro_batches(self, room: int = 0) -> Iterator[Batch]:
        """What goes through at once in an update, where there is so much room."""
        schedule, couples = self.stage.schedule, getattr(self.stage.optimizer, "couples", "group")
        tokens = room or schedule.micro_tokens or self.outline.room
        for minibatch in self.prepared.split(schedule.minibatch):
            yield from minibatch.chunks(schedule.micro_batch, tokens=tokens, couples=couples)

    def at_once(self, room: int = 0) -> tuple[int, int]:
        """Tokens of the largest micro-batch, and at how many of them the head is applied."""
        work = [cost.reading_batch(each) for each in self.micro_batches(room)]
        return max(((each.tokens, each.answers) for each in work), default=(0, 0))

    def work(self) -> dict[str, Count]:
        """Operations of each phase of a step."""
        reading, learning = cost.reading_batch(self.batch), cost.reading_batch(self.prepared)
        columns, epochs, filled = self.needs & FORWARD, self.stage.optimizer.epochs, self.filled()
        phases: dict[str, Count] = {}
        if self.writer.written.tokens:
            phases["sample"] = lambda shape: cost.decode(shape, self.writer.written)
        if self.rewards:
            rows, scored = cost.reading_batch(self.batch.ungroup()), frozenset({"scores"})
            phases["score"] = lambda shape: sum(
                cost.forward(replace(each.shape, layers=shape.layers), rows, scored) for each in self.rewards
            )
        if filled:
            phases["fill"] = lambda shape: sum(cost.forward(shape, reading, each) for each in filled)
        phases["update"] = lambda shape: (
            epochs * (cost.forward(shape, learning, columns) + cost.backward(shape, learning, columns))
        )
        return phases

    def filled(self) -> list[frozenset[str]]:
        """The passes without gradient: the reference, but for data whose answers are kept; and the policy as it was
        before the update, which the update's own pass tells where there is only one."""
        schedule, optimizer = self.stage.schedule, self.stage.optimizer
        referred = "ref_logprobs" in self.needs
        online = bool(self.writer.tokens) and "scores" not in self.needs and (referred or schedule.kl_every == 1)
        anew = referred and self.steps * schedule.prompts < self.whole
        passes = [frozenset({"logprobs"})] if online or anew else []
        once = optimizer.epochs == 1 and (not schedule.minibatch or len(self.groups) <= schedule.minibatch)
        old = frozenset(name.removeprefix("old_") for name in self.needs if name.startswith("old_"))
        return [*passes, old] if old and not once else passes

    def seconds(self) -> dict[str, float]:
        """Of each phase: trials of two depths, drawn out to the model's own."""
        layers = self.outline.shape.layers
        if layers <= TRIALS[-1]:
            return _Trial(self, layers).seconds()
        first, last = (_Trial(self, depth).seconds() for depth in TRIALS)
        times = (layers - TRIALS[0]) / (TRIALS[1] - TRIALS[0])
        return {phase: first[phase] + max(0.0, last[phase] - first[phase]) * times for phase in first}


class _Trial:
    """A policy with a few layers, timed on as much of the step as goes through at once."""

    def __init__(self, of: Rehearsal, layers: int) -> None:
        self.of, self.clock = of, Clock(of.outline.device)
        self.policy = of.outline.trial(layers)
        self.columns = of.needs & FORWARD
        part = max(of.micro_batches(), key=lambda each: int(each.attend.sum()))
        self.part = trim(part).to(self.policy.device)
        self.tokens = cost.reading_batch(part).tokens

    def seconds(self) -> dict[str, float]:
        """Of each phase of the whole step, by its tokens."""
        of, found = self.of, {}
        if of.writer.written.tokens:
            found["sample"] = self.writing()
        if of.rewards:
            ratio = sum(each.shape.trunk for each in of.rewards) / of.outline.shape.trunk
            rows = self.part.ungroup()
            found["score"] = ratio * self.share(of.batch.ungroup(), rows) * self.answering(rows, self.scored())
        if of.filled():
            asked = [self.answering(self.part, each) for each in of.filled()]
            found["fill"] = self.share(of.batch, self.part) * sum(asked)
        found["update"] = of.stage.optimizer.epochs * self.learning()
        return found

    def share(self, whole: Batch, part: Batch) -> float:
        return cost.reading_batch(whole).tokens / max(1, cost.reading_batch(part).tokens)

    def scored(self) -> frozenset[str]:
        """What is like a score: a pass whose head hardly counts."""
        like = next((name for name in ("scores", "values") if name in self.columns), "logprobs")
        return frozenset({like})

    def writing(self) -> float:
        """Drawn out to the step's writing by operations."""
        n = max(1, len(self.of.batch) // len(self.of.prompts))
        prompts = self.of.prompts[: max(1, ROWS // n)]
        groups: list[Group] = []

        def write() -> None:
            groups[:] = self.policy.generate(prompts, n, seed=0)

        seconds = self.clock.best(write, REPEATS)
        shape, written = self.of.outline.shape, self.of.writer.written
        return seconds * cost.decode(shape, written) / cost.decode(shape, cost.writing_groups(groups))

    def answering(self, part: Batch, columns: frozenset[str]) -> float:
        def answer() -> None:
            with torch.no_grad():
                self.policy.forward(part, columns)

        return self.clock.best(answer, REPEATS)

    def learning(self) -> float:
        """One pass over the step's batch, with its updates of the weights."""
        parameters = [each for group in self.policy.parameters() for each in group["params"]]
        adamw = torch.optim.AdamW(parameters, lr=0.0)
        watched = self.columns | {"entropy"} if "logprobs" in self.columns else self.columns

        def learn() -> None:
            out = self.policy.forward(self.part, frozenset(watched))
            total: Tensor = sum(getattr(out, name).sum() for name in self.columns)
            total.backward()  # type: ignore[no-untyped-call]

        size = self.of.stage.schedule.minibatch or len(self.of.groups)
        updates = max(1, -(-len(self.of.groups) // size))
        learned = self.share(self.of.prepared, self.part) * self.clock.best(learn, REPEATS)
        return learned + updates * self.clock.best(adamw.step, REPEATS)


def _scored(group: Group) -> Group:
    """With the data's own labels, or any scores that differ."""
    labels = group.prompt.labels
    scores = labels if len(labels) == len(group.completions) else range(len(group.completions))
    return replace(group, scores=tuple(Score(float(value)) for value in scores))
