"""Comparisons on a real instruct model, SmolLM2-135M-Instruct: an hour of one core each.

    nice python benchmarks/real_grids.py problems MODEL                     # verifiable answers
    nice python benchmarks/real_grids.py preferences MODEL --pairs FILE     # people's preferences, and a judge
    nice python benchmarks/real_grids.py problems MODEL --seeds 5           # more seeds, added to those that are there

`problems`: sums in words, as GSM8K has them, of one step and small numbers, written here from a seed. Their answers are
checked by `match`. All methods start from the model after SFT on worked ones, which shows it the form; it solves some.

`preferences`: the short pairs of a file of `chosen` and `rejected`, as Anthropic's HH, harmless, test. Methods learn
from those of at most 240 characters a text. The judge is a reward model that was trained on the longer ones, up to 420.

The same command goes on where it was stopped. What a comparison comes to is published as the zoo's is.
"""

from __future__ import annotations

import argparse
import gzip
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
SHORT, LONG = 240, 420
"""Characters of a text: of the pairs that are learnt from, and of those that the judge learns from."""
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


def on_preferences(model: Path, folder: Path, pairs: Path, seeds: int, jobs: int) -> None:
    """DPO, ORPO and SFT on the better answers, by the accuracy on held-out pairs and by a judge."""
    rows = [json.loads(line) for line in lines(pairs)]
    longest = [max(len(row["chosen"]), len(row["rejected"])) for row in rows]
    short = [row for row, length in zip(rows, longest, strict=True) if length <= SHORT]
    longer = [row for row, length in zip(rows, longest, strict=True) if SHORT < length <= LONG]
    learnt = write(folder / "pairs.jsonl", short, "chosen", "rejected")
    judged = write(folder / "judge.jsonl", longer, "chosen", "rejected")
    judge = folder / "judge"
    if not (judge / "result.json").exists():
        settings = ["schedule.prompts=16", "schedule.lr=1e-5", "data.heldout=0.05", "schedule.epochs=1"]
        resume = (judge / "manifest.json").exists()
        alignzoo.run("reward-model", policy=str(model), data=str(judged), out=judge, resume=resume, overrides=settings)
    # After so few steps its margins are thousandths: the verdict is nearly the margin's sign.
    scorer = f"model[model={judge / 'models' / 'reward-model'},temperature=0.0001]"
    data = [f"policy.model={model}", f"data.path={learnt}", "data.heldout=0.2", "policy.max_new_tokens=32"]
    size = ["schedule.prompts=8", "schedule.steps=30", "schedule.lr=5e-6", "schedule.evaluations=2"]
    alignzoo.compare(
        "dpo", "orpo", "sft", out=folder / "compare", seeds=seeds, jobs=jobs, prompts=48, judge=scorer,
        overrides=[*data, *size, "evaluate.prompts=32"],
    )  # fmt: skip


def lines(path: Path) -> list[str]:
    """The lines of a text file, packed by gzip or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return file.readlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["problems", "preferences"])
    parser.add_argument("model", type=Path, help="the folder of SmolLM2-135M-Instruct")
    parser.add_argument("--pairs", type=Path, help="the file of preferences, JSON lines or those packed by gzip")
    parser.add_argument("--out", type=Path, default=Path("runs/real-grids"), help="where the runs go")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.out / asked.which
    folder.mkdir(parents=True, exist_ok=True)
    if asked.which == "problems":
        on_problems(asked.model.resolve(), folder.resolve(), asked.seeds, asked.jobs)
    elif asked.pairs is None:
        parser.error("preferences: --pairs FILE says which")
    else:
        on_preferences(asked.model.resolve(), folder.resolve(), asked.pairs, asked.seeds, asked.jobs)
    publish(asked.which, folder / "compare", RESULTS / "real", asked.model)


if __name__ == "__main__":
    main()
