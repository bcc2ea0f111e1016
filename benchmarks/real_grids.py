"""A comparison on a real instruct model, SmolLM2-135M-Instruct: an hour of one core.

    nice python benchmarks/real_grids.py problems MODEL                # verifiable answers
    nice python benchmarks/real_grids.py problems MODEL --seeds 5      # with more seeds, added to those that are there

`problems`: sums in words, as GSM8K has them, of one step and small numbers, written here from a seed. Their answers are
checked by `match`. All methods start from the model after SFT on worked ones, which shows it the form; it solves some.

The same command goes on where it was stopped. What a comparison comes to is published as the zoo's is.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import alignzoo

sys.path.insert(0, str(Path(__file__).parent / "zoo"))
from machine import RESULTS
from run import publish

SEEDS = 3
PEOPLE = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kate", "Liam")
THINGS = ("apples", "books", "coins", "stamps", "pencils", "marbles", "shells", "cards", "buttons", "plums")
FORMS: Sequence[tuple[str, str, Callable[[random.Random], tuple[int, int]]]] = (
    ("{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?", "+", lambda r: _two(r, 2, 12)),
    ("{who} finds {a} {what} on Monday and {b} on Tuesday. How many is that together?", "+", lambda r: _two(r, 2, 12)),
    ("{who} had {a} {what} and gave away {b} of them. How many {what} are left?", "-", lambda r: _less(r)),
    ("{who} wants {a} {what} and has {b} so far. How many {what} are missing?", "-", lambda r: _less(r)),
    ("Each box holds {a} {what}, and {who} has {b} boxes. How many {what} are there?", "*", lambda r: _two(r, 2, 9)),
)
"""A problem's words, what is to be done, and its numbers."""
RESULT = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
WORKED, ASKED = 112, 400
"""So many problems with their solutions, and so many others without."""


def _two(draw: random.Random, low: int, high: int) -> tuple[int, int]:
    return draw.randint(low, high), draw.randint(low, high)


def _less(draw: random.Random) -> tuple[int, int]:
    left, gone = draw.randint(1, 10), draw.randint(1, 9)
    return left + gone, gone


def problems(number: int, seed: int) -> list[dict[str, str]]:
    """Different problems, each with its sum as a solution, and the right answer."""
    draw, found = random.Random(seed), {}
    while len(found) < number:
        words, sign, numbers = draw.choice(FORMS)
        a, b = numbers(draw)
        question = words.format(who=draw.choice(PEOPLE), what=draw.choice(THINGS), a=a, b=b)
        right = RESULT[sign](a, b)
        found[question] = {"prompt": question, "completion": f"{a} {sign} {b} = {right}", "answer": str(right)}
    return list(found.values())


def write(path: Path, rows: Sequence[dict[str, str]], *keys: str) -> Path:
    """These columns of rows, as JSON lines."""
    path.write_text("".join(json.dumps({key: row[key] for key in keys}) + "\n" for row in rows))
    return path


def on_problems(model: Path, folder: Path, seeds: int, jobs: int) -> None:
    """GRPO, RLOO and online DPO, of which every answer is right or wrong."""
    rows = problems(WORKED + ASKED, seed=0)
    worked = write(folder / "worked.jsonl", rows[:WORKED], "prompt", "completion")
    asked = write(folder / "problems.jsonl", rows[WORKED:], "prompt", "answer")
    start = folder / "start"
    if not (start / "result.json").exists():
        settings = ["schedule.prompts=16", "schedule.lr=5e-5", "data.heldout=0.1", "evaluate.prompts=6"]
        resume = (start / "manifest.json").exists()
        alignzoo.run("sft", policy=str(model), data=str(worked), out=start, resume=resume, overrides=settings)
    data = ["policy.model=" + str(start / "models" / "sft"), f"data.path={asked}", "data.heldout=0.16"]
    size = ["policy.max_new_tokens=12", "sampler.n=8", "schedule.prompts=8", "schedule.steps=20", "schedule.lr=2e-5"]
    scored = ['reward={name="match", mode="numeric"}', "schedule.evaluations=2", "evaluate.prompts=16"]
    alignzoo.compare(
        "grpo", "rloo", "online-dpo", out=folder / "compare", seeds=seeds, jobs=jobs, prompts=64,
        overrides=[*data, *size, *scored],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["problems"])
    parser.add_argument("model", type=Path, help="the folder of SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=Path("runs/real-grids"), help="where the runs go")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.out / asked.which
    folder.mkdir(parents=True, exist_ok=True)
    on_problems(asked.model.resolve(), folder.resolve(), asked.seeds, asked.jobs)
    publish(asked.which, folder / "compare", RESULTS / "real")


if __name__ == "__main__":
    main()
