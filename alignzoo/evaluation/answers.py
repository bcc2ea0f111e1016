"""A policy's answers to held-out prompts, one by one, and the figures that they come to.

Every algorithm's answers are to the same prompts, with the same seeds and decoding, scored by the same reward. Each
prompt is answered and scored by one process alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo import processes
from alignzoo.batching import answer_jointly, collate
from alignzoo.cost import ModelShape
from alignzoo.decoding import AS_SET, Decoding
from alignzoo.files import line_of, read_lines
from alignzoo.gathering import apart
from alignzoo.interfaces import Policy
from alignzoo.microbatch import MicroBatcher
from alignzoo.rewards import WeightedReward, score
from alignzoo.storage import write_text
from alignzoo.types import Batch, Completion, Group, Prompt, Text

Figures = dict[str, float]
Gold = Callable[[Prompt, Completion], float]
Rates = Callable[[Prompt, Completion], Mapping[str, float]]
Start = Callable[[Batch], Tensor]
"""The log-probabilities (N, T) of the policy to which the KL is taken."""


Seen = Callable[[int], None]
"""Told of so many completions that have been generated, or read, since it was last told."""

WORK, FEWEST, SAFE = {"cpu": 2**33, "gpu": 2**40}, 8, 256
"""Completions times weights between two signs of life, some twenty seconds: fewer at once would
take nearly as long, as each token waits for all weights to be read; completions at least; and of a policy that tells no
sizes."""


@dataclass(frozen=True)
class Answer:
    """One completion of a held-out prompt."""

    prompt: int
    """The number of the prompt among the held-out ones: equal numbers are the same prompt for every algorithm."""
    asked: Text
    text: str
    tokens: tuple[int, ...]
    finished: bool
    greedy: bool
    """Whether it was decoded greedily, else sampled."""
    reward: float | None = None
    """The task's reward; None where there is none, or it abstained."""
    gold: float | None = None
    accuracy: float | None = None
    note: str = ""
    """The judge's reason, where the reward is one."""
    own: int | None = None
    """The number of tokens that the policy generated, which is its length; None: all."""
    measured: int | None = None
    """The number of these over which the following three are summed; None: all."""
    kl: float = 0.0
    """log π(y) - log π_start(y), summed over tokens: the k1 estimate."""
    kl3: float = 0.0
    """The k3 estimate, summed over tokens."""
    entropy: float = 0.0
    """Summed over tokens, in nats."""
    pieces: tuple[str, ...] = ()
    """Each token's text, where the policy can say it; kept for the first prompts only, like the following."""
    logprobs: tuple[float | None, ...] = ()
    """log π of each token."""
    start_logprobs: tuple[float | None, ...] = ()
    """log π_start of each token, likewise."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """What the task tells of it by name, where it applies."""
    preference: float | None = None
    """For a prompt with given answers: 1 where the policy has raised the better one more than the worse, against the
    policy that it started from; 0 where less; 0.5 where alike."""
    nll: float | None = None
    """Likewise, -log π of the better given answer, a token."""


@dataclass(frozen=True)
class Measures:
    """What answers are measured by."""

    rewards: Sequence[WeightedReward]
    gold: Gold | None = None
    rates: Rates | None = None


@dataclass(frozen=True)
class Decoded:
    """How the held-out prompts are answered."""

    n: int
    """Completions of each prompt."""
    seeds: Sequence[int]
    """The seed of each prompt."""
    decoding: Decoding = AS_SET
    best: bool = False
    """Only the best of each prompt's n by the reward."""


def answered(
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Decoded,
    by: Measures,
    *,
    first: int = 0,
    seen: Seen = lambda completions: None,
) -> tuple[list[Group], list[Answer]]:
    """The prompts answered and scored, each on one process alone, and gathered; `first` is the first prompt's number.
    The groups, and their completions' records in order."""
    mine, seeds = processes.dealt(prompts), processes.dealt(how.seeds)
    numbers = processes.dealt(range(first, first + len(prompts)))
    groups: list[Group] = []
    size = max(1, at_once(policy.info().shape, policy.device) // how.n)
    with apart(policy, by.rewards, generates=True):
        for start in range(0, -(-len(prompts) // processes.count()), size):  # as often on every process
            part, own = mine[start : start + size], seeds[start : start + size]
            groups += policy.generate(part, how.n, seeds=own, decoding=how.decoding)
            seen(len(part) * how.n * processes.count())
        groups = score(groups, by.rewards, policy)
    if how.best:
        groups = [best(group) for group in groups]
    share = [(group, _records(group, number, how, by)) for number, group in zip(numbers, groups, strict=True)]
    everything = processes.gather(share)
    return [group for group, _ in everything], [each for _, records in everything for each in records]


def at_once(shape: ModelShape | None, device: torch.device) -> int:
    """Completions that an evaluation generates between two signs of life: of a large model fewer."""
    work = WORK["cpu" if device.type == "cpu" else "gpu"]
    return SAFE if shape is None else max(FEWEST, work // max(1, shape.trunk))


def _records(group: Group, number: int, how: Decoded, by: Measures) -> list[Answer]:
    verifiable = next((r for r in reversed(by.rewards) if getattr(r.source, "verifiable", False)), None)
    return [
        Answer(
            prompt=number,
            asked=group.prompt.messages,
            text=completion.text,
            tokens=completion.tokens,
            own=completion.n_own,
            finished=completion.finished,
            greedy=bool(how.decoding.greedy),
            reward=given.value,
            gold=None if by.gold is None else float(by.gold(group.prompt, completion)),
            accuracy=given.sources.get(verifiable.name) if verifiable else None,
            note=given.note,
            rates={} if by.rates is None else dict(by.rates(group.prompt, completion)),
        )
        for completion, given in zip(group.completions, group.scores or (), strict=True)
    ]


def best(group: Group) -> Group:
    """The group with the best of its completions alone, the first of equals; who abstained is the worst."""
    values = [-math.inf if s.value is None else s.value for s in group.scores or ()]
    place = values.index(max(values))
    return replace(group, completions=(group.completions[place],), scores=(group.scores or ())[place : place + 1])


def with_distributions(
    policy: Policy,
    groups: Sequence[Group],
    answers: Sequence[Answer],
    start: Start,
    batcher: MicroBatcher,
    *,
    shown: int = 0,
    seen: Seen = lambda completions: None,
) -> list[Answer]:
    """The groups' records with KL and entropy, each row computed by one process; of the first prompts shown, token by
    token, too."""
    batch = collate(groups, policy.device, scored=False)
    out = answer_jointly(policy, batch, frozenset({"logprobs", "entropy"}), batcher=batcher, seen=seen)
    reference, own = start(batch), batch.mask & batch.own
    ratio = torch.where(own, out["logprobs"] - reference, 0.0)
    columns = (ratio, fn.kl_k3(ratio) * own, out["entropy"] * own)
    sums, measured = [column.sum(1).tolist() for column in columns], own.sum(1).tolist()
    filled = list(answers)
    for row, number in enumerate(batch.row.tolist()):  # whatever has no tokens has no row, and sums of 0
        kl, kl3, entropy = (column[row] for column in sums)
        filled[number] = replace(filled[number], kl=kl, kl3=kl3, entropy=entropy, measured=measured[row])
        if filled[number].prompt - answers[0].prompt < shown:
            filled[number] = replace(
                filled[number],
                pieces=_pieces(policy, filled[number].tokens),
                logprobs=_by_token(out["logprobs"], batch, row),
                start_logprobs=_by_token(reference, batch, row),
            )
    return filled


def _pieces(policy: Policy, tokens: Sequence[int]) -> tuple[str, ...]:
    strings = policy.info().token_strings
    return () if strings is None else tuple(strings(tokens))


def _by_token(column: Tensor, batch: Batch, row: int) -> tuple[float | None, ...]:
    """The number of each token of a row's completion; None where it is not trained on."""
    span = slice(int(batch.prompt_length[row]), int(batch.attend[row].sum()))
    pairs = zip(column[row, span].tolist(), batch.mask[row, span].tolist(), strict=True)
    return tuple(round(x, 4) if known else None for x, known in pairs)


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(answers: Sequence[Answer]) -> Figures:
    """Means over prompts of each prompt's own mean, with standard errors; of greedy answers with `_greedy`."""
    greedy = outcomes([each for each in answers if each.greedy])
    sampled = [each for each in answers if not each.greedy]
    found = outcomes(sampled) | distributions(sampled)
    return found | {f"{name}_greedy": value for name, value in greedy.items() if not name.endswith("_se")}


def outcomes(answers: Sequence[Answer]) -> Figures:
    """What came out: length, finished, gold, reward, accuracy, preference, nll, and the task's rates as `rate/NAME`."""
    found: Figures = {}
    for name in ("length", "finished", "gold", "reward", "accuracy", "preference", "nll"):
        found |= mean_of(name, by_prompt(answers, name))
    for name in sorted({name for each in answers for name in each.rates}):
        found |= mean_of(f"rate/{name}", _by_prompt((each.prompt, each.rates.get(name)) for each in answers))
    return found


def distributions(answers: Sequence[Answer]) -> Figures:
    """KL to the starting policy (k1 and k3; per sequence and per token) and entropy per token."""
    if not answers:
        return {}
    tokens = max(1, sum(len(each.tokens) if each.measured is None else each.measured for each in answers))
    found = mean_of("kl", by_prompt(answers, "kl"))
    found |= {"kl/k3": statistics.fmean(by_prompt(answers, "kl3").values())}
    found |= {"kl/token": sum(each.kl for each in answers) / tokens}
    found |= {"kl/k3/token": sum(each.kl3 for each in answers) / tokens}
    return found | {"entropy": sum(each.entropy for each in answers) / tokens}


def by_prompt(answers: Iterable[Answer], name: str) -> dict[int, float]:
    """A figure's mean over each prompt's answers; prompts without one are left out."""
    if name == "length":
        return _by_prompt((each.prompt, len(each.tokens) if each.own is None else each.own) for each in answers)
    return _by_prompt((each.prompt, getattr(each, name)) for each in answers)


def _by_prompt(numbers: Iterable[tuple[int, float | None]]) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for prompt, value in numbers:
        if value is not None:
            values.setdefault(prompt, []).append(float(value))
    return {prompt: statistics.fmean(mine) for prompt, mine in values.items()}


def mean_of(name: str, values: Mapping[int, float]) -> Figures:
    """The mean over prompts and its standard error, which one prompt alone does not tell; nothing where there are
    none."""
    every = list(values.values())
    mean = {name: statistics.fmean(every)} if every else {}
    return mean | ({f"{name}_se": standard_error(every)} if len(every) > 1 else {})


def standard_error(values: Sequence[float]) -> float:
    """sd/√n, of two values at least."""
    return statistics.stdev(values) / math.sqrt(len(values))


# --- files ------------------------------------------------------------------------------------------------------------


LISTS = ("tokens", "pieces", "logprobs", "start_logprobs")
NEEDED = ("prompt", "asked", "text", "finished", "greedy", *LISTS)
"""What every line has."""


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """One line each."""
    write_text(path, "".join(line_of(asdict(each)) for each in answers), private=True)


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers that `write_answers` wrote, or an evaluation of a run in its answers.jsonl."""
    return map(_answer, read_lines(path, *NEEDED))


def _answer(data: dict[str, Any]) -> Answer:
    known = {name: value for name, value in data.items() if name not in ("stage", "step", "when")}
    asked = data["asked"] if isinstance(data["asked"], str) else tuple(data["asked"])
    lists = {name: tuple(data[name]) for name in LISTS}
    return Answer(**{**known, **lists, "asked": asked})
