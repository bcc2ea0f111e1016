"""A first step without its model: what would be written and read, and how long a small model of the same widths takes.

Nothing is loaded but configurations and the data. What the policy would write has the length that is asked about.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch

from alignzoo import columns, cost
from alignzoo import functional as fn
from alignzoo.batching import collate, trim
from alignzoo.cost import ModelShape, Work
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.errors import RunError
from alignzoo.evaluation.answers import at_once
from alignzoo.interfaces import Context, HasCosts, HasOutline, Outline, PolicyInfo
from alignzoo.lifecycle import opened, repeats_the_data
from alignzoo.microbatch import cut
from alignzoo.planning.speed import Clock
from alignzoo.recipe import Stage
from alignzoo.requirements import from_data, generated_per_prompt
from alignzoo.rewards import source_weights
from alignzoo.roles import moving, specs_of
from alignzoo.runs.sizing import amount
from alignzoo.runs.stage_data import data_of
from alignzoo.torch_optimizers import torch_optimizer
from alignzoo.training.passes import STALENESS, WATCHED, Facts, Pass, passes
from alignzoo.traits import traits_of
from alignzoo.types import Batch, Completion, Group, Prompt, Score, Text

TRIALS = (2, 4)
"""Layers of the policies that are timed; a model of no more is timed whole."""

REPEATS = 3
"""Repetitions of each timing, after one that warms up; the fastest counts."""

ROWS = 128
"""Completions that a trial writes at once, at most."""

EXAMPLES = 16
"""Prompts whose lengths stand for those of the held-out ones."""

EVALUATE = "evaluate"
"""The phase of all evaluations of a stage, beside those of a step."""

Count = Callable[[ModelShape], int]
"""Operations, for a model of any number of layers."""


class _StandIn:
    """In a policy's place: it encodes as the policy does, and writes nothing, at the length that is asked about."""

    def __init__(self, outline: Outline, length: int) -> None:
        self.device = torch.device("cpu")
        self.written = Work()
        self.tokens = self.rows = self.cached = 0
        self._outline, self._length = outline, min(length or outline.longest, outline.longest)

    def info(self) -> PolicyInfo:
        return PolicyInfo()

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        return self._outline.encode(prompt, texts)

    def generate(
        self, prompts: Sequence[Prompt], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[Group]:
        groups = [self.encode(prompt, []) for prompt in prompts]
        found = self.go_on([group.prompt_tokens for group in groups], n, seeds=seeds, decoding=decoding)
        return [replace(group, completions=tuple(each)) for group, each in zip(groups, found, strict=True)]

    def go_on(
        self, prefixes: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], decoding: Decoding = AS_SET
    ) -> list[list[Completion]]:
        groups = [Group(Prompt(""), tuple(prefix), self._completions(n)) for prefix in prefixes]
        self.written += cost.writing_groups(groups)
        self.tokens += len(groups) * n * self._length
        rows = min(len(groups) * n, self._outline.slots)
        width = max(len(group.prompt_tokens) for group in groups) + self._outline.longest
        self.rows, self.cached = max(self.rows, rows), max(self.cached, rows * width)
        return [list(group.completions) for group in groups]

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
        if length > self.outline.longest:
            warnings.warn(
                f"{stage.name}: --length {length} is above the limit of a completion, {self.outline.longest} tokens, "
                "which is planned for: raise policy.max_new_tokens where longer ones are meant",
                RuntimeWarning,
                stacklevel=2,
            )
        self.roles = {
            name: spec.outline(frozenset())
            for name, spec in specs_of(stage.optimizer).items()
            if isinstance(spec, HasOutline)
        }
        self.rewards = [
            each.source.outline(frozenset({"scores"})) for each in stage.rewards if isinstance(each.source, HasOutline)
        ]
        (data, heldout, shown), size = data_of(stage), stage.schedule.prompts
        self.evaluation = amount(stage, len(data), len(heldout), len(shown))
        self._length = length
        self.steps = stage.schedule.total(len(data))
        self.prompts = [data[i * len(data) // size % len(data)] for i in range(size)]  # spread over the data
        self.writer = _StandIn(self.outline, length)
        groups = self._sampled(length)
        weights = source_weights(stage.rewards)
        parts = {name: values[0] for name, values in traits_of(stage.optimizer).columns.items()}
        self.groups = [group if group.scores is not None else _scored(group, weights, parts) for group in groups]
        self.batch = collate(self.groups, source_weights=weights)
        zeros = {name: self._zeros(name) for name in columns.filled(self.needs)}
        self.prepared = stage.optimizer.prepare(self.batch.answered(zeros))

    def _zeros(self, name: str) -> torch.Tensor:
        per_token = columns.column(name).answer.per == "token"
        return torch.zeros(self.batch.tokens.shape if per_token else self.batch.tokens.shape[:1])

    def _sampled(self, length: int) -> list[Group]:
        """What the sampler returns; where an earlier stage will have generated the data, completions like its own."""
        stage, prompts, seeds = self.stage, self.prompts, fn.seeds(len(self.prompts), 0)
        if stage.origin is not None:
            n = generated_per_prompt(stage.origin.sampler) or max(2, traits_of(stage.optimizer).completions)
            if from_data(stage.sampler):
                return _StandIn(self.outline, length).generate(prompts, n, seeds=seeds)
            prompts = [replace(each, completions=("",) * n, labels=tuple(map(float, range(n)))) for each in prompts]
        with opened(stage.sampler, Context(stage.name)) as sampler:
            return sampler.sample(prompts, self.writer, seeds=seeds)  # type: ignore[arg-type]

    def micro_batches(self, tokens: int = 0, *, minibatch: bool = True) -> Iterator[Batch]:
        """What goes through at once in an update, or in a pass over the whole batch, where it is so many tokens."""
        schedule, couples = self.stage.schedule, traits_of(self.stage.optimizer).couples
        tokens = tokens or schedule.micro_tokens or self.outline.tokens_per_pass
        for part in self.prepared.split(schedule.minibatch if minibatch else 0):
            yield from cut(part, schedule.micro_batch, tokens=tokens, couples=couples)

    def at_once(self, tokens: int = 0) -> tuple[int, int]:
        """Tokens of the largest micro-batch, and at how many of them the head is applied."""
        work = [cost.reading_batch(each) for each in self.micro_batches(tokens)]
        return max(((each.tokens, each.answers) for each in work), default=(0, 0))

    def work(self) -> dict[str, Count]:
        """Operations of each phase of a step."""
        reading, learning = cost.reading_batch(self.batch), cost.reading_batch(self.prepared)
        answers, epochs, filled = columns.trained(self.needs), self.stage.optimizer.epochs, self.filled()
        phases: dict[str, Count] = {}
        if self.writer.written.tokens:
            phases["sample"] = lambda shape: cost.decode(shape, self.writer.written)
        if self.rewards:
            rows, scored = cost.reading_batch(_alone(self.batch)), frozenset({"scores"})
            phases["score"] = lambda shape: sum(
                cost.forward(replace(each.shape, layers=shape.layers), rows, scored) for each in self.rewards
            )
        if filled:
            phases["fill"] = lambda shape: sum(
                cost.forward(self.shape_of(each.role, shape), reading, each.answers) for each in filled
            )
        if epochs:
            phases["update"] = lambda shape: (
                epochs
                * (
                    cost.forward(shape, learning, answers)
                    + sum(cost.forward(self.shape_of(role, shape), learning) for role in columns.compared(answers))
                    + cost.backward(shape, learning, answers)
                )
            )
        return phases

    @cached_property
    def evaluated(self) -> tuple[Work, Work]:
        """What all evaluations generate, and what each policy reads of it and of given completions."""
        some = self.prompts[:EXAMPLES]
        writer = _StandIn(self.outline, self._length)
        groups = writer.generate(some, 1, seeds=fn.seeds(len(some), 0)) if self.evaluation.answers else []
        lengths = [(len(group.prompt_tokens), [len(each.tokens) for each in group.completions]) for group in groups]
        times = self.evaluation.answers / max(1, len(some))
        answers = _times(sum((cost.reading(prompt, each) for prompt, each in lengths), Work()), times)
        given = _times(cost.reading_batch(self.batch), self.evaluation.read / max(1, len(self.batch)))
        return _times(writer.written, times), answers + given

    def written_at_once(self, outline: Outline) -> tuple[tuple[int, int], tuple[int, int]]:
        """In a step, and in an evaluation: completions that are generated at once, and the tokens whose keys and values
        are held meanwhile, with another outline's slots."""
        step, held_out = min(self.writer.rows, outline.slots), 0
        width = max((len(outline.encode(each, []).prompt_tokens) for each in self.prompts[:EXAMPLES]), default=0)
        if self.evaluation.answers:
            how = self.stage.evaluate
            asked = self.evaluation.prompts * max(how.n, how.best_of)
            held_out = min(asked, at_once(outline.shape, outline.device), outline.slots)
        cached = self.writer.cached * step // max(1, self.writer.rows)
        return (step, cached), (held_out, held_out * (width + outline.longest))

    def evaluating(self, shape: ModelShape) -> int:
        """Operations of all evaluations: completions are generated, and the policy and its reference read them."""
        written, read = self.evaluated
        return cost.decode(shape, written) + self.readers * cost.forward(shape, read)

    @property
    def readers(self) -> int:
        """How many models read what is evaluated: a policy and its reference, or a reward model alone."""
        return 2 if traits_of(self.stage.optimizer).trains == "policy" else 1

    @property
    def speaks(self) -> bool:
        """Whether the update goes through the language-model head."""
        return bool(columns.of_part(columns.trained(self.needs), "language"))

    def shape_of(self, role: str, policy: ModelShape) -> ModelShape:
        """The sizes of a role beside a policy of these sizes."""
        return self.roles[role].shape if role in self.roles else policy

    @cached_property
    def passes(self) -> tuple[Pass, ...]:
        """The step's forward passes, as the loop will plan them."""
        schedule, generates = self.stage.schedule, bool(self.writer.tokens)
        watches = generates and traits_of(self.stage.optimizer).trains == "policy" and schedule.kl_every == 1
        moves = columns.REFERENCE in moving(self.stage.optimizer, self.steps)
        again = repeats_the_data(self.stage.sampler) and not schedule.has_budget
        facts = Facts(
            groups=len(self.groups),
            watched=WATCHED if watches else STALENESS if generates and schedule.ahead else frozenset(),
            remembered=frozenset({"ref_logprobs"}) if again and not moves else frozenset(),
            recorded=generates and self.outline.exact_samples and not schedule.ahead,
            one_piece=next(self.micro_batches(minibatch=False)) is self.prepared,
        )
        return passes(self.stage.optimizer, schedule, facts)

    def filled(self) -> list[Pass]:
        """The passes without gradient."""
        return [each for each in self.passes if each.role and each.how == "own"]

    def seconds(self) -> dict[str, float]:
        """The seconds of each phase, extrapolated from trials of two depths to the model's own."""
        layers = self.outline.shape.layers
        if layers <= TRIALS[-1]:
            return _Trial(self, layers).seconds()
        first, last = (_Trial(self, depth).seconds() for depth in TRIALS)
        times = (layers - TRIALS[0]) / (TRIALS[1] - TRIALS[0])
        return {phase: first[phase] + max(0.0, last[phase] - first[phase]) * times for phase in first}


def _times(work: Work, times: float) -> Work:
    """So many times the work, in whole numbers."""
    return Work(round(work.tokens * times), round(work.pairs * times), round(work.answers * times))


class _Trial:
    """A policy with a few layers, timed on as much of the step as goes through at once."""

    def __init__(self, of: Rehearsal, layers: int) -> None:
        self.of, self.clock = of, Clock(of.outline.device)
        self.policy = of.outline.trial(layers)
        self.columns = frozenset(  # what compares is timed as its two halves, the policy's here and the role's apart
            "logprobs" if columns.column(name).answer.compares else name for name in columns.trained(of.needs)
        )
        part = max(of.micro_batches(), key=lambda each: int(each.attend.sum()))
        self.part = trim(part).to(self.policy.device)
        self.tokens = cost.reading_batch(part).tokens
        self._wrote: tuple[float, Work] | None = None

    def seconds(self) -> dict[str, float]:
        """The seconds of each phase of the whole step, in proportion to its tokens."""
        of, found = self.of, {}
        if of.writer.written.tokens:
            found["sample"] = self.writing(of.writer.written)
        if of.rewards:
            ratio = sum(each.shape.trunk for each in of.rewards) / of.outline.shape.trunk
            rows = _alone(self.part)
            found["score"] = ratio * self.share(_alone(of.batch), rows) * self.answering(rows, self.scored())
        if of.filled():
            asked = [self.answering(self.part, each.answers) * self.times(each.role) for each in of.filled()]
            found["fill"] = self.share(of.batch, self.part) * sum(asked)
        if of.stage.optimizer.epochs:
            found["update"] = of.stage.optimizer.epochs * self.learning()
            for role in columns.compared(of.needs):
                times = of.stage.optimizer.epochs * self.share(of.prepared, self.part) * self.times(role)
                found["update"] += times * self.answering(self.part, cost.LOGPROBS)
        return found | {EVALUATE: self.evaluating()}

    def evaluating(self) -> float:
        """All evaluations of the stage."""
        written, read = self.of.evaluated
        found = self.writing(written) if written.tokens else 0.0
        if read.tokens:
            once = self.answering(self.part, self.scored() if self.of.readers == 1 else cost.LOGPROBS)
            found += self.of.readers * once * read.tokens / max(1, self.tokens)
        return found

    def times(self, role: str) -> float:
        """How many times the work of the policy a role's is, by the weights that a token goes through."""
        shape = self.of.outline.shape
        return self.of.shape_of(role, shape).trunk / shape.trunk

    def share(self, whole: Batch, part: Batch) -> float:
        return cost.reading_batch(whole).tokens / max(1, cost.reading_batch(part).tokens)

    def scored(self) -> frozenset[str]:
        """What is like a score: a pass whose head hardly counts."""
        heads = columns.of_part(self.columns, "scorer") or columns.of_part(self.columns, "critic")
        like = min(heads, default="logprobs")
        return frozenset({like})

    def writing(self, written: Work) -> float:
        """So much generated, drawn out by operations from what is tried."""
        n = max(1, len(self.of.batch) // len(self.of.prompts))
        prompts = self.of.prompts[: max(1, ROWS // n)]
        groups: list[Group] = []

        def write() -> None:
            groups[:] = self.policy.generate(prompts, n, seeds=fn.seeds(len(prompts), 0))

        if not self._wrote:
            self._wrote = self.clock.best(write, REPEATS), cost.writing_groups(groups)
        seconds, tried = self._wrote
        shape = self.of.outline.shape
        return seconds * cost.decode(shape, written) / cost.decode(shape, tried)

    def answering(self, part: Batch, columns: frozenset[str]) -> float:
        def answer() -> None:
            with torch.no_grad():
                self.policy.forward(part, columns)

        return self.clock.best(answer, REPEATS)

    def learning(self) -> float:
        """One pass over the step's batch, with its updates of the weights."""
        schedule = replace(self.of.stage.schedule, lr=0.0)
        optimizer = torch_optimizer(schedule, self.policy.device, self.policy.parameters())
        watched = self.columns | {"entropy"} if "logprobs" in self.columns else self.columns

        def learn() -> None:
            out = self.policy.forward(self.part, frozenset(watched))
            total = sum((out[name].sum() for name in self.columns), torch.zeros(()))
            total.backward()  # type: ignore[no-untyped-call]

        size = self.of.stage.schedule.minibatch or len(self.of.groups)
        updates = max(1, -(-len(self.of.groups) // size))
        learned = self.share(self.of.prepared, self.part) * self.clock.best(learn, REPEATS)
        return learned + updates * self.clock.best(optimizer.step, REPEATS)


def _alone(batch: Batch) -> Batch:
    """Every row with a prompt of its own, as a reward model reads it."""
    return replace(batch, prompt=torch.arange(len(batch), device=batch.tokens.device))


def _scored(group: Group, rewards: Iterable[str], parts: Mapping[str, float]) -> Group:
    """With the data's own labels, or any scores that differ, from each of these rewards; all of these parts."""
    labels = group.prompt.labels
    scores = labels if len(labels) == len(group.completions) else range(len(group.completions))
    given = (Score(float(v), parts=parts, sources=dict.fromkeys(rewards, float(v))) for v in scores)
    return replace(group, scores=tuple(given))
