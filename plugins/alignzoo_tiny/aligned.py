"""The assets that the project's own runner makes: the starting policy, samples of it to compare, a reward model."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import alignzoo
from alignzoo import functional as fn
from alignzoo.evaluation.heldout import Heldout, writing
from alignzoo.microbatch import MicroBatcher
from alignzoo.registry import Registry
from alignzoo.schedule import Evaluation
from alignzoo.types import Prompt
from alignzoo_tiny import data, shop
from alignzoo_tiny.tasks import Safe, Shop, Sort, mixed_demonstrations
from alignzoo_tiny.world import question

SFT = {"steps": 200, "prompts": 32, "lr": 1e-3, "warmup": 0.05, "decay": "cosine", "final_lr": 0.1}
"""The starting policy's schedule; embedded worlds learn at rates that would ruin a large model."""

PAIRS = {"train": 3200, "heldout": 400}
"""How many prompts get two samples each."""


def make_sft(out: Path, seed: int) -> dict[str, float]:
    """`sft/`: the base after supervised fine-tuning on demonstrations of all three tasks."""
    _train("sft", out / "base", mixed_demonstrations(seed), seed, SFT, out / "sft")
    return _competence(out / "sft")


def _competence(model: Path) -> dict[str, float]:
    """Gold on held-out prompts, sampled and greedy."""
    policy = Registry().get("policy", "hf")(model=str(model), max_new_tokens=40).load(frozenset({"logprobs"}))
    figures = {}
    for name, task in {"shop": Shop(), "sort": Sort(), "safe": Safe()}.items():
        heldout = Heldout(Evaluation(prompts=256), task.data("prompts", "heldout"), (), (), task.gold)
        measured = writing(policy, heldout, MicroBatcher(policy)).figures
        figures |= {f"{name} gold": measured["gold"], f"{name} gold, greedy": measured["gold_greedy"]}
    return figures


def make_pairs(out: Path, seed: int) -> dict[str, float]:
    """`pairs.jsonl.gz`: two different samples of the starting policy for each prompt of `shop`."""
    policy = Registry().get("policy", "hf")(model=str(out / "sft"), max_new_tokens=40).load(frozenset({"logprobs"}))
    rows = []
    for split, n in PAIRS.items():
        prompts = Shop(seed=seed, n_prompts=10 * n).data("prompts", split)
        wanted = [prompts[i % len(prompts)] for i in range(n)]
        for group in policy.generate(wanted, 4, seeds=fn.seeds(len(wanted), seed)):
            texts = list(dict.fromkeys(completion.text for completion in group.completions))
            if len(texts) > 1:
                rows.append({"prompt": question(group.prompt), "a": texts[0], "b": texts[1]})
    with gzip.GzipFile(out / "pairs.jsonl.gz", "wb", mtime=0) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    return {"pairs": float(len(rows))}


def make_reward(out: Path, seed: int) -> dict[str, float]:
    """`reward/`: the reward model of `shop`, from the raters' labels of those pairs."""
    rng = data.dice("shop", "comparisons", "train", seed)
    pairs = [pair for pair in data.read_pairs(out / "pairs.jsonl.gz") if shop.understand(pair[0]).split == "train"]
    compared = [Shop(seed=seed)._compare(*pair, rng) for pair in pairs]
    schedule = {"epochs": 2.0, "steps": 0, "prompts": 32, "lr": 7e-4, "warmup": 0.05, "decay": "cosine"}
    return _train("reward-model", out / "sft", compared, seed, schedule, out / "reward")


def _train(
    recipe: str, start: Path, prompts: Sequence[Prompt], seed: int, schedule: dict[str, Any], model: Path
) -> dict[str, float]:
    """Run a recipe, and keep its model in half precision."""
    out = _scratch()
    result = alignzoo.run(recipe, policy=str(start), data=list(prompts), seed=seed, out=out, schedule=schedule)
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(result.model, model)
    (model / "README.md").unlink(missing_ok=True)
    weights = load_file(model / "model.safetensors")
    halves = {name: tensor.to(torch.float16) for name, tensor in weights.items()}
    save_file(halves, model / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(out)
    return {name: value for name, value in result.after.items() if not name.endswith("_se")}


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="alignzoo-")) / "run"
