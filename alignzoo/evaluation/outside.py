"""Evaluation from outside a run: items kept one by one, whoever measures them, and what they come to beside a base."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignzoo.data.packaged import located
from alignzoo.decoding import Decoding
from alignzoo.errors import DataError, RecipeError, RewardError, did_you_mean
from alignzoo.interfaces import Judge, Policy, RewardSource, Task
from alignzoo.judging import prefer
from alignzoo.judging.pairs import answer_text
from alignzoo.types import Group, Prompt, Question

HARNESS = "lm-eval:"
"""What names a task of EleutherAI's LM Evaluation Harness: `lm-eval:gsm8k`."""
GREEDY = Decoding(greedy=True)
AT_ONCE = 32
"""Prompts that are answered, or scored, together."""


@dataclass(frozen=True)
class Item:
    """What was measured on one item of an evaluation."""

    id: str
    metric: str
    value: float


@dataclass(frozen=True)
class Measured:
    """The items of one evaluation of one model."""

    name: str
    """What was evaluated with, as it was asked for."""
    items: tuple[Item, ...]
    lower_is_better: frozenset[str] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)
    """The versions and settings that it depends on."""
    left_out: tuple[str, ...] = ()
    """Metrics that are no number of an item, such as a perplexity of a whole corpus."""

    def metrics(self) -> dict[str, dict[str, float]]:
        """By metric and by item."""
        found: dict[str, dict[str, float]] = {}
        for each in self.items:
            found.setdefault(each.metric, {})[each.id] = each.value
        return found


Kind = Literal["harness", "task", "pairs"]
"""What an evaluation is: a task of the harness, a task of the zoo, or a file of pairs."""


def kind_of(name: str, tasks: Collection[str], option: str) -> Kind:
    """What an evaluation's name stands for, where the zoo has these tasks; `option` is where it was given. Raises
    RecipeError where it is neither a task nor a file."""
    if name.startswith(HARNESS):
        return "harness"
    if name in tasks:
        return "task"
    if not Path(located(name)).exists():
        raise RecipeError(
            f"{option} {name}: neither a task nor a file. {did_you_mean(name, tasks)} A task of the LM Evaluation "
            f"Harness is written {HARNESS}NAME"
        )
    return "pairs"


# --- a task's gold score ----------------------------------------------------------------------------------------------


def by_task(name: str, task: Task, policy: Policy, *, limit: int | None = None) -> Measured:
    """The greedy answers to a task's held-out prompts, by its gold score, and by its rates where it has some."""
    prompts = task.data("prompts", "heldout")[:limit]
    rates: Callable[..., Mapping[str, float]] | None = getattr(task, "rates", None)
    items = []
    for start in range(0, len(prompts), AT_ONCE):
        asked = prompts[start : start + AT_ONCE]
        for place, group in enumerate(policy.generate(asked, 1, seeds=[0] * len(asked), decoding=GREEDY), start):
            prompt, completion = prompts[place], group.completions[0]
            figures = {"gold": task.gold(prompt, completion), **(rates(prompt, completion) if rates else {})}
            items += [Item(str(place), metric, float(value)) for metric, value in figures.items()]
    return Measured(name, tuple(items), about={"prompts": len(prompts), "decoding": "greedy"})


# --- pairs, as RewardBench has them -----------------------------------------------------------------------------------


def check_pairs(prompts: Sequence[Prompt], where: str) -> None:
    """Raise DataError for data that are no pairs of a chosen and a rejected answer."""
    for prompt in prompts:
        if len(prompt.completions) < 2 or len(set(prompt.labels)) < 2:
            raise DataError(
                f"{where}: {str(prompt.messages)[:60]!r} has no better and worse answer: reward models and judges are "
                "evaluated on rows with prompt, chosen, rejected, and subset where there are several"
            )


def by_reward(name: str, prompts: Sequence[Prompt], reward: RewardSource, policy: Any) -> Measured:
    """How often a reward model scores the chosen answer higher: 1, 0, or ½ for equal scores; by subset, too."""
    items: list[Item] = []
    for start in range(0, len(prompts), AT_ONCE):
        some = prompts[start : start + AT_ONCE]
        groups = [_given(prompt) for prompt in some]
        for place, scores in enumerate(reward.score(groups, policy), start):
            prompt = prompts[place]
            values = [score.value for score in scores]
            if any(value is None for value in values):
                raise RewardError(f"{name}: no score for the pair of {str(prompt.messages)[:60]!r}")
            best = max(range(len(values)), key=lambda i: prompt.labels[i])
            others = [values[i] for i in range(len(values)) if i != best]
            items += _accuracy(place, prompt, _right(values[best], others))
    return Measured(name, tuple(items), about={"pairs": len(prompts)})


def _given(prompt: Prompt) -> Group:
    """A group of given answers, for a reward that has a tokenizer of its own."""
    from alignzoo.types import Completion

    for each in prompt.completions:
        if not isinstance(each, str) and len(each) > 1:
            raise DataError(
                f"the pair of {str(prompt.messages)[:60]!r} parts before its last turn, and a reward scores one answer "
                "of the assistant's: leave such pairs out, or let a judge compare them, which is shown all turns"
            )
    texts = [answer_text(each) for each in prompt.completions]
    return Group(prompt, (0,), tuple(Completion((0,), text) for text in texts))


def _right(best: Any, others: Sequence[Any]) -> float:
    """1 where the best has the highest score, its share of a tie where it is not alone, else 0."""
    highest = max(others)
    return 1.0 if best > highest else 0.0 if best < highest else 1 / (1 + sum(each == best for each in others))


def by_judge(name: str, prompts: Sequence[Prompt], judge: Judge) -> Measured:
    """How often a judge prefers the chosen answer, shown in both orders: 1, 0, or ½ where the orders disagree."""
    items: list[Item] = []
    questions: list[Question] = []
    turned: list[bool] = []
    for prompt in prompts:
        order = sorted(range(len(prompt.completions)), key=lambda i: -prompt.labels[i])
        texts = [prompt.completions[i] for i in (order[0], order[-1])]
        answers = tuple(map(answer_text, texts))
        turned.append(len(questions) % 2 == 1)  # so that a judge that likes a place gains nothing
        questions.append(Question(prompt.messages, answers[::-1] if turned[-1] else answers, info=prompt.info))
    failed = 0
    for place, each in enumerate(prefer(judge, questions, None, on_error="drop-sample")):
        if each.value is None:
            failed += 1
            continue
        value = 1 - each.value if turned[place] else each.value
        items += _accuracy(place, prompts[place], 0.5 if value == 0.5 else float(value > 0.5))
    return Measured(name, tuple(items), about={"pairs": len(prompts), "unanswered": failed})


def _accuracy(place: int, prompt: Prompt, value: float) -> Iterable[Item]:
    yield Item(str(place), "accuracy", value)
    if isinstance(subset := prompt.info.get("subset"), str):
        yield Item(str(place), f"accuracy/{subset}", value)


# --- the LM Evaluation Harness ----------------------------------------------------------------------------------------


def harness_for(name: str) -> Any:
    """The module lm_eval, for a task of its by this name. Raises DataError where it is not installed, or says that it
    has no such task."""
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError(
            f"{name}: the package lm_eval is not installed, which runs it: pip install lm_eval (it brings many others)"
        )
    harness, task = importlib.import_module("lm_eval"), name.removeprefix(HARNESS)
    known = importlib.import_module("lm_eval.tasks").TaskManager().all_tasks
    if task not in known:
        near = difflib.get_close_matches(task, known, n=5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`lm_eval --tasks list` names those that it has"
        raise DataError(f"{name}: lm_eval has no task {task!r}. {hint}")
    return harness


def by_harness(name: str, model: str, *, limit: int | None = None) -> Measured:
    """A task of the LM Evaluation Harness on a model directory, item by item. Raises DataError where lm_eval is not
    installed, does not know the task, or says nothing of single items."""
    harness, task = harness_for(name), name.removeprefix(HARNESS)
    try:
        found = harness.simple_evaluate(
            model="hf", model_args={"pretrained": model}, tasks=[task], limit=limit, log_samples=True, bootstrap_iters=0
        )
    except KeyError as error:
        raise DataError(f"{name}: lm_eval finds no data for {task!r} here, or lacks a part of it ({error})") from error
    if not found or not found.get("samples"):
        raise DataError(f"{name}: lm_eval has told nothing of single items, which is what models are compared by")
    items: list[Item] = []
    left_out: set[str] = set()
    lower = set()
    for inner, samples in found["samples"].items():
        better = found.get("higher_is_better", {}).get(inner, {})
        for sample in samples:
            kind = sample.get("filter", "none")
            for metric in sample["metrics"]:
                label = (f"{inner}/" if inner != task else "") + (metric if kind == "none" else f"{metric},{kind}")
                value = sample[metric]
                if not isinstance(value, bool | int | float):
                    left_out.add(label)
                    continue
                items.append(Item(f"{inner}:{sample['doc_id']}", label, float(value)))
                if better.get(metric) is False:
                    lower.add(label)
    about = {"lm_eval": getattr(harness, "__version__", ""), "versions": found.get("versions", {}), "limit": limit}
    about |= {"n-shot": found.get("n-shot", {})}
    return Measured(name, tuple(items), frozenset(lower), about, tuple(sorted(left_out)))
