"""A real instruct model beside TRL: `python benchmarks/real.py MODEL HH.jsonl.gz [--steps 5] [--only dpo] [--bf16]`.

One core, float32; with --bf16 both compute in bf16 autocast, TRL's default. SFT learns from 8 answers a step and DPO
from 8 pairs, dialogues of Anthropic's HH of 60 to 256 tokens in the model's chat template; GRPO from 4 of their prompts
with 8 answers of at most 64 tokens. TRL takes 16 rows at once: the 32 of GRPO took it more than 18 GB. The reference
of DPO is computed beforehand on both sides. The sides take steps in turn, so that what else the machine does meets
both alike; before they are timed they have to agree on the first step's loss, or on log-probabilities. Each method's
row is written to benchmarks/results/real_peers.json and .md as soon as it is measured, beside the rows that are
there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peers
from machine import RESULTS, heading, machine
from transformers import AutoTokenizer

from alignzoo.data import Data, read

METHODS = ("sft", "dpo", "grpo")
ROWS, PROMPTS, N, CAP, AT_ONCE = 8, 4, 8, 64, 16
SHORTEST, LONGEST = 60, 256
BF16_AWAY = 0.1
"""How far the losses and gradient norms of two systems may be apart in bf16, as a share."""


def rendered(words: Any, file: Path) -> list[dict[str, str]]:
    """The first dialogues of the right length, each prompt as the model's template writes it before an answer."""
    found = []
    for prompt in read(Data(str(file), limit=400)):
        asked = [dict(turn) for turn in prompt.messages] if not isinstance(prompt.messages, str) else []
        answers = [text if isinstance(text, str) else text[0]["content"] for text in prompt.completions]
        if not asked or len(answers) != 2:
            continue
        text = words.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        lengths = [len(words(text + answer)["input_ids"]) + 1 for answer in answers]
        if all(SHORTEST <= length <= LONGEST for length in lengths):
            better, worse = answers if prompt.labels[0] > prompt.labels[1] else answers[::-1]
            found.append({"prompt": text, "chosen": better, "rejected": worse})
        if len(found) == ROWS:
            return found
    raise SystemExit(f"{file} has {len(found)} dialogues of {SHORTEST} to {LONGEST} tokens, and {ROWS} are needed")


def make(folder: Path, model: Path, file: Path, *, bf16: bool) -> None:
    """The folder that both sides read: the model, rows for each method, and what they are run with."""
    words = AutoTokenizer.from_pretrained(model)
    (folder / "writer").symlink_to(model.resolve())
    rows = rendered(words, file)
    sft = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    data = {"sft": sft, "pairs": rows, "prompts": [{"prompt": row["prompt"]} for row in rows[:PROMPTS]]}
    tokens = {}
    for name, lines in data.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        answers = [line["prompt"] + line[key] for line in lines for key in line if key != "prompt"]
        tokens[name] = sum(len(words(text)["input_ids"]) + 1 for text in answers)
    job = {"cap": CAP, "n": N, "rows": AT_ONCE, "chat": "plain", "tokens": tokens, "bf16": bf16}
    (folder / "job.json").write_text(json.dumps(job))


def systems(method: str) -> list[peers.System]:
    """Ourselves, and TRL with the reference computed beforehand."""
    variant = "precompute" if method == "dpo" else ""
    return [peers.System("alignzoo", "ours.py"), peers.System("TRL", "trl_now.py", variant)]


def measure(method: str, folder: Path, steps: int, *, bf16: bool) -> dict[str, Any]:
    """Both sides, step by step in turn."""
    sides: list[peers.Side] = []
    if method in peers.ONLINE and not bf16:
        peers.check_logprobs(folder, folder, systems(method)[1:])
    try:
        peers.start(sides, folder, method, systems(method))
        for _ in range(steps + 1):  # the first one warms up
            for side in sides:
                side.step()
        if method not in peers.ONLINE:
            peers.check_first(sides, BF16_AWAY if bf16 else peers.AWAY)
        for side in sides:
            side.end()
    finally:
        for side in sides:
            side.close()
    return {side.system.name: side.figures() for side in sides}


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| method | steps | tokens per CPU second | TRL | times | peak GB | TRL | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, row in found.items():
        ours, theirs = row["alignzoo"], row["TRL"]
        rates = [each["tokens_per_cpu_second"] for each in (ours, theirs)]
        peaks = [each["peak_bytes"] / 1e9 for each in (ours, theirs)]
        lines.append(
            f"| {method} | {ours['steps']} | {rates[0]:,.0f} | {rates[1]:,.0f} | {rates[0] / rates[1]:.2f} | "
            f"{peaks[0]:.2f} | {peaks[1]:.2f} | {peaks[0] / peaks[1]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def write(model: str, found: dict[str, dict[str, Any]]) -> None:
    """The rows, and the file that shows them."""
    headings = sorted({heading(row["machine"]) for row in found.values()})
    known = {"model": model, "methods": found}
    (RESULTS / "real_peers.json").write_text(json.dumps(known, indent=2) + "\n")
    lines = [f"# A real model beside TRL\n\n{model}, made by `benchmarks/real.py`.\n\n{table(found)}", *headings]
    (RESULTS / "real_peers.md").write_text("\n".join(lines) + "\n")


def known(model: str) -> dict[str, dict[str, Any]]:
    """The rows that are written already, of the same model."""
    path = RESULTS / "real_peers.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    return dict(told.get("methods", {})) if told.get("model") == model else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a directory with a chat template, SmolLM2-135M-Instruct say")
    parser.add_argument("data", type=Path, help="Anthropic's HH, as a .jsonl or .jsonl.gz file")
    parser.add_argument("--name", default="", help="what the results call the model")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side, after one that warms up")
    parser.add_argument("--only", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--bf16", action="store_true", help="compute in bf16 on both sides")
    parser.add_argument("--dry", action="store_true", help="measure and print, and write nothing")
    asked = parser.parse_args()
    os.environ["ALIGNZOO_REFERENCES"] = "off"  # each run computes its reference's answers, as the peer does
    name = asked.name or asked.model.resolve().name
    found = known(name)
    for method in asked.only:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), asked.model, asked.data, bf16=asked.bf16)
            row = measure(method, Path(folder), asked.steps, bf16=asked.bf16)
        label = f"{method}, bf16" if asked.bf16 else method
        found[label] = row | {"machine": machine() | {"threads": "1", "trl": version("trl")}}
        sys.stdout.write(table({label: found[label]}))
        sys.stdout.flush()
        if not asked.dry:
            write(name, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
