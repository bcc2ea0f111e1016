"""What a model of the world can do, measured on held-out prompts, and what a base model must be able to do."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from alignzoo import ModelError
from alignzoo_tiny.world import WORLDS

BARS: Mapping[str, float] = {"shop/item_right": 0.75, "shop/gold_greedy": 3.0}
"""The least a base model must reach. One that cannot copy the item makes every alignment method look harmful."""

Written = tuple[str, str, bool]
"""A prompt, a reply, and whether the reply ended by itself."""


@torch.no_grad()
def write_replies(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    seed: int,
    greedy: bool = False,
    most: int = 64,
) -> list[Written]:
    """One reply to each prompt, at temperature 1 or greedy, of at most `most` tokens."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    choose = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=most, **choose
        )
    replies = rows[:, inputs["input_ids"].shape[1] :]
    finished = (replies == tokenizer.eos_token_id).any(1).tolist()
    return list(zip(prompts, tokenizer.batch_decode(replies, skip_special_tokens=True), finished, strict=True))


def measure(model: Any, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, n: int = 300) -> dict[str, float]:
    """Figures of all three tasks, each over `n` held-out prompts; those with the suffix `_greedy` of greedy replies."""
    figures: dict[str, float] = {}
    for name, world in WORLDS.items():
        prompts = world.prompts("heldout")
        prompts = random.Random(f"measure {name} {seed}").sample(prompts, min(n, len(prompts)))
        for suffix in ("", "_greedy"):
            written = write_replies(model, tokenizer, prompts, seed=seed, greedy=suffix == "_greedy")
            figures[f"{name}/gold{suffix}"] = fmean(world.gold(*it) for it in written)
            told = [world.rates(prompt, reply) for prompt, reply, _ in written]
            for rate in {rate: None for each in told for rate in each}:
                figures[f"{name}/{rate}{suffix}"] = fmean(each[rate] for each in told if rate in each)
    return figures


def require(figures: Mapping[str, float], bars: Mapping[str, float] = BARS) -> None:
    """Refuse a model that is below a bar."""
    missed = {name: bar for name, bar in bars.items() if not figures.get(name, math.nan) >= bar}
    if missed:
        said = "; ".join(
            f"{name} is {figures.get(name, math.nan):.2f}, must be {bar:.2f} or more" for name, bar in missed.items()
        )
        raise ModelError(f"The model is not competent enough to be aligned: {said}. Try another seed or more steps.")
