"""The least that a step must cost: its operations, by `alignzoo.cost`, at the machine's rate of matrix products.

Every layer is counted for every token, also where a system finds that it can do without.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import workload
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from alignzoo import cost
from alignzoo.cost import ModelShape, Work
from alignzoo_hf.forward.shape import shape_of

TOKENS, WHILE = 1024, 0.5
"""Rows of the product that is timed, and for how many seconds."""

LOGPROBS, SCORES, VALUES = frozenset({"logprobs"}), frozenset({"scores"}), frozenset({"values"})


def pace(size: workload.Size) -> float:
    """Operations of a model's widest product per CPU second of this thread, on one core: the mean over a while, as the
    seconds of a step are a sum over a while in which the core is now faster and now slower."""
    torch.set_num_threads(1)
    left, right = torch.randn(TOKENS, size.hidden), torch.randn(size.intermediate, size.hidden).T
    out, done = torch.mm(left, right), 0
    start = time.thread_time()
    while (passed := time.thread_time() - start) < WHILE:
        torch.mm(left, right, out=out)
        done += 1
    return done * 2 * TOKENS * size.hidden * size.intermediate / passed


def shape(size: workload.Size) -> ModelShape:
    """A size's shape, without its weights; with a critic of the same size."""
    config = workload.config(size, num_labels=1)
    with torch.device("meta"):
        critic = shape_of(AutoModelForSequenceClassification.from_config(config))
        return shape_of(AutoModelForCausalLM.from_config(config), critic)


def operations(method: str, size: workload.Size, folder: Path, length: float = 0.0, group: int = 8) -> dict[str, int]:
    """Operations of a step by phase. Rollouts are counted with completions of their mean `length` each."""
    sizes = shape(size)
    kind = {"sft": "sft", "reward-model": "pairs", "dpo": "pairs", "ppo": "many"}.get(method, "prompts")
    rows = [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]
    prompts = [len(row["prompt"].split()) for row in rows]
    if method in ("sft", "reward-model", "dpo"):
        answers = [[1 + len(text.split()) for side, text in row.items() if side != "prompt"] for row in rows]
        columns = SCORES if method == "reward-model" else LOGPROBS
        return {"update": _both(replace(sizes, critic=None), _reading(prompts, answers), columns)}
    n = 1 if method == "ppo" else group
    answers = [[round(length)] * n for _ in prompts]
    reading = _reading(prompts, answers)
    sampled = cost.decode(sizes, sum((cost.writing(p, a) for p, a in zip(prompts, answers, strict=True)), Work()))
    if method == "rloo":
        fill = cost.forward(sizes, reading, LOGPROBS)  # the reference
        return {"sample": sampled, "fill": fill, "update": _both(replace(sizes, critic=None), reading, LOGPROBS)}
    if method != "ppo":
        return {"sample": sampled, "update": _both(replace(sizes, critic=None), reading, LOGPROBS)}
    score = cost.forward(sizes, reading, SCORES)
    fill = cost.forward(sizes, reading, LOGPROBS) + cost.forward(sizes, reading, VALUES)  # reference and critic
    return {"sample": sampled, "score": score, "fill": fill, "update": 4 * _both(sizes, reading, LOGPROBS | VALUES)}


def _reading(prompts: Sequence[int], answers: Sequence[Sequence[int]]) -> Work:
    return sum((cost.reading(prompt, each) for prompt, each in zip(prompts, answers, strict=True)), Work())


def _both(sizes: ModelShape, work: Work, columns: frozenset[str]) -> int:
    return cost.forward(sizes, work, columns) + cost.backward(sizes, work, columns)
