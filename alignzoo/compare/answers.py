"""The final evaluation: a policy's answers to held-out prompts, one by one, and the figures that they come to.

Every algorithm's answers are to the same prompts, drawn with the same seeds and decoding, scored by the same reward,
and their KL is to the same starting policy, whatever reference the algorithm itself had.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignzoo import functional as fn
from alignzoo.batching import answer, collate
from alignzoo.compare.plan import Measure
from alignzoo.compare.results import Figures
from alignzoo.evaluate import Gold, standard_error
from alignzoo.files import line_of, read_lines
from alignzoo.interfaces import Policy
from alignzoo.rewards import WeightedReward, score
from alignzoo.storage import write_text
from alignzoo.types import Completion, Group, Prompt, Text

SHOWN = 16
"""Of the answers to how many prompts every token's log-probabilities are kept, for looking at."""


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
    """Of greedy decoding, else sampled."""
    reward: float | None = None
    """The task's reward; None where there is none, or it abstained."""
    gold: float | None = None
    accuracy: float | None = None
    note: str = ""
    """The judge's reason, where the reward is one."""
    kl: float = 0.0
    """log π(y) - log π_start(y), summed over tokens: the k1 estimate."""
    kl3: float = 0.0
    """The k3 estimate, summed over tokens."""
    entropy: float = 0.0
    """Summed over tokens, in nats."""
    pieces: tuple[str, ...] = ()
    """Each token's text, where the policy can say it; kept for the first prompts only, like the following."""
    logprobs: tuple[float, ...] = ()
    """log π of each token."""
    start_logprobs: tuple[float, ...] = ()
    """log π_start of each token, likewise."""


@dataclass(frozen=True)
class Examiner:
    """What answers are measured by: the same for every cell of a task."""

    prompts: Sequence[Prompt]
    rewards: Sequence[WeightedReward]
    gold: Gold | None
    start: Policy
    """The policy that all algorithms start from."""


def examine(policy: Policy, examiner: Examiner, measure: Measure) -> list[Answer]:
    """The policy's sampled answers, then its greedy ones."""
    asked = examiner.prompts[measure.first : measure.last]
    seeds = fn.seeds(measure.first + len(asked), measure.seed)[measure.first :]
    if measure.best_of:
        drawn = policy.generate(asked, measure.best_of, seeds=seeds)
        return _answers([_best(group) for group in score(drawn, examiner.rewards, policy)], policy, examiner, measure)
    sampled = score(policy.generate(asked, measure.n, seeds=seeds), examiner.rewards, policy)
    greedy = score(policy.generate(asked, 1, seeds=seeds, greedy=True), examiner.rewards, policy)
    return [
        *_answers(sampled, policy, examiner, measure),
        *_answers(greedy, policy, examiner, measure, greedy=True),
    ]


def _answers(
    groups: Sequence[Group], policy: Policy, examiner: Examiner, measure: Measure, *, greedy: bool = False
) -> list[Answer]:
    batch = collate(groups, policy.device, scored=False)
    out = answer(policy, batch, frozenset({"logprobs", "entropy"}))
    start = answer(examiner.start, batch, frozenset({"logprobs"}))["logprobs"]
    ratio = out["logprobs"] - start
    sums = zip(
        ratio.sum(1).tolist(),
        (fn.kl_k3(ratio) * batch.mask).sum(1).tolist(),
        out["entropy"].sum(1).tolist(),
        out["logprobs"],
        start,
        batch.mask,
        strict=True,
    )
    verifiable = next((r for r in examiner.rewards if getattr(r.source, "verifiable", False)), None)
    found = []
    for number, group in enumerate(groups):
        for completion, given in zip(group.completions, group.scores or (), strict=True):
            if not completion.tokens:
                continue  # nothing was written: there is nothing to measure, and no row of the batch
            kl, kl3, entropy, logprobs, start_logprobs, mask = next(sums)
            shown = number < SHOWN
            found.append(
                Answer(
                    prompt=measure.first + number,
                    asked=group.prompt.messages,
                    text=completion.text,
                    tokens=completion.tokens,
                    finished=completion.finished,
                    greedy=greedy,
                    reward=given.value,
                    gold=None if examiner.gold is None else float(examiner.gold(group.prompt, completion)),
                    accuracy=given.parts.get(verifiable.name, 0.0) if verifiable else None,
                    note=given.note,
                    kl=kl,
                    kl3=kl3,
                    entropy=entropy,
                    pieces=_pieces(policy, completion) if shown else (),
                    logprobs=tuple(round(x, 4) for x in logprobs[mask].tolist()) if shown else (),
                    start_logprobs=tuple(round(x, 4) for x in start_logprobs[mask].tolist()) if shown else (),
                )
            )
    return found


def _pieces(policy: Policy, completion: Completion) -> tuple[str, ...]:
    strings = policy.info().token_strings
    return () if strings is None else tuple(strings(completion.tokens))


def _best(group: Group) -> Group:
    values = [-math.inf if s.value is None else s.value for s in group.scores or ()]
    best = values.index(max(values))
    return replace(group, completions=group.completions[best : best + 1], scores=(group.scores or ())[best : best + 1])


# --- figures ----------------------------------------------------------------------------------------------------------


def figures(answers: Sequence[Answer]) -> Figures:
    """Means over prompts of each prompt's own mean, with standard errors; of greedy answers with `_greedy`."""
    sampled = [each for each in answers if not each.greedy]
    greedy = [each for each in answers if each.greedy]
    found = _outcomes(sampled)
    tokens = max(1, sum(len(each.tokens) for each in sampled))
    found |= _mean("kl", by_prompt(sampled, "kl")) | {"kl/k3": _overall(sampled, "kl3")}
    found |= {"kl/token": sum(each.kl for each in sampled) / tokens}
    found |= {"kl/k3/token": sum(each.kl3 for each in sampled) / tokens}
    found |= {"entropy": sum(each.entropy for each in sampled) / tokens}
    found |= {f"distinct/{n}": distinct([each.tokens for each in sampled], n) for n in (1, 2, 3)}
    if greedy:
        plain = {name: value for name, value in _outcomes(greedy).items() if not name.endswith("_se")}
        found |= {f"{name}_greedy": value for name, value in plain.items()}
    return found


def _outcomes(answers: Sequence[Answer]) -> Figures:
    found: Figures = {}
    for name in ("gold", "accuracy", "reward", "length", "finished"):
        found |= _mean(name, by_prompt(answers, name))
    return found


def by_prompt(answers: Iterable[Answer], name: str) -> dict[int, float]:
    """A figure's mean over each prompt's answers; prompts without one are left out."""
    values: dict[int, list[float]] = {}
    for each in answers:
        value = len(each.tokens) if name == "length" else getattr(each, name)
        if value is not None:
            values.setdefault(each.prompt, []).append(float(value))
    return {prompt: statistics.fmean(mine) for prompt, mine in values.items()}


def _mean(name: str, values: dict[int, float]) -> Figures:
    if not values:
        return {}
    every = list(values.values())
    return {name: statistics.fmean(every), f"{name}_se": standard_error(every)}


def _overall(answers: Sequence[Answer], name: str) -> float:
    return statistics.fmean(by_prompt(answers, name).values())


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Distinct-n: different n-grams of tokens over all n-grams of all answers (Li et al. 2016, arXiv:1510.03055)."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


# --- files ------------------------------------------------------------------------------------------------------------


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """One line each."""
    write_text(path, "".join(line_of(asdict(each)) for each in answers), private=True)


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a cell, sampled and greedy."""
    return map(_answer, read_lines(path))


def _answer(data: dict[str, Any]) -> Answer:
    asked = data["asked"] if isinstance(data["asked"], str) else tuple(data["asked"])
    lists = {name: tuple(data[name]) for name in ("tokens", "pieces", "logprobs", "start_logprobs")}
    return Answer(**{**data, **lists, "asked": asked})
