"""The pipeline and a large model on a GPU: `python benchmarks/gpu.py`, under ten minutes on one device.

Runs `rlhf` on the embedded world, then GRPO steps of a randomly initialised model of Qwen2.5-0.5B's shape in bf16,
and writes benchmarks/results/gpu.json and gpu.md. With `--small` the same script tries itself out on a laptop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, heading, machine
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import alignzoo

SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
SMALL = SHAPE | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def random_model(path: Path, shape: dict[str, Any]) -> int:
    """A random model with a byte-level tokenizer, as a transformers directory. Returns its number of parameters."""
    vocabulary = {token: i for i, token in enumerate(["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**shape, eos_token_id=0, bos_token_id=None, pad_token_id=0))
    model.to(torch.bfloat16).save_pretrained(path)
    fast.save_pretrained(path)
    return sum(parameter.numel() for parameter in model.parameters())


def spread(completions: list[str], **_: Any) -> list[float]:
    """A reward that a random model can have: the share of different characters."""
    return [len(set(text)) / max(1, len(text)) for text in completions]


def grpo(folder: Path, shape: dict[str, Any], prompts: int, tokens: int) -> dict[str, Any]:
    """Three GRPO steps, 8 completions a prompt; figures of the last, when everything is warm."""
    parameters = random_model(folder / "model", shape)
    rows = [{"prompt": f"Tell me about the number {i}."} for i in range(prompts)]
    alignzoo.run(
        "grpo",
        policy={"model": str(folder / "model"), "max_new_tokens": tokens, "dtype": "bf16"},
        data=[*rows, {"prompt": "One prompt more, to be held out."}],
        reward=spread,
        out=folder / "run",
        schedule={"steps": 3, "prompts": prompts, "minibatch": 0, "micro_batch": 16, "lr": 1e-6},
        evaluate={"prompts": 0},
    )
    metrics = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    seconds = json.loads((folder / "run" / "seconds.jsonl").read_text().splitlines()[-1])
    return {
        "parameters": parameters,
        "completions": metrics["completions"],
        "tokens generated": metrics["tokens/generated"],
        "tokens generated per second": round(metrics["tokens/generated"] / seconds["seconds/sample"]),
        "tokens trained per second": round(metrics["tokens/trained"] / seconds["seconds/update"]),
        "peak memory, GB": round(seconds["memory"] / 1e9, 2),
        "loss": metrics["loss"],
        "kl": metrics["kl"],
    } | {name: round(value, 3) for name, value in seconds.items() if name.startswith("seconds/")}


def pipeline(folder: Path) -> dict[str, Any]:
    """`alignzoo run rlhf` on this machine's device."""
    start = time.perf_counter()
    result = alignzoo.run("rlhf", out=folder / "rlhf")
    figures = {name: round(result.after[name], 3) for name in ("gold", "reward", "kl", "entropy")}
    return {"seconds": round(time.perf_counter() - start, 1), "gold before": round(result.before["gold"], 3), **figures}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small model and no results written: to try the script")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as folder:
        shape, prompts, tokens = (SMALL, 2, 16) if small else (SHAPE, 16, 256)
        found = {"grpo step": grpo(Path(folder), shape, prompts, tokens)}
        if not small:
            found["rlhf"] = pipeline(Path(folder))
    facts = machine()
    lines = ["# On a GPU", "", heading(facts) + ".", ""]
    for title, figures in found.items():
        lines += [f"## {title}", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in figures.items()), ""]
    print("\n".join(lines))
    if not small:
        (RESULTS / "gpu.json").write_text(json.dumps({"machine": facts, **found}, indent=1) + "\n")
        (RESULTS / "gpu.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
