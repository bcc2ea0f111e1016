"""One method of each family on a real instruct model, with the defaults of real models: ten steps of few, short rows.

    python benchmarks/families_real.py MODEL_DIR            # writes results/families_real.json and .md

Every step sees the same two prompts, so that a loss that falls is what was trained, and not other rows. The loss of a
method that samples its own answers says nothing; there the start's own answers are asked: of two answers to a prompt,
how often has the one with the higher reward gained log-probability on the other since the start (0.5: no better than a
coin). Memory is the peak of a process of its own, beside what `alignzoo plan` says before it begins.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from machine import RESULTS, heading, machine

import alignzoo
from alignzoo.files import read_json, read_lines
from alignzoo.planning.estimate import plan
from alignzoo.recipe import load
from alignzoo.registry import Registry

STEPS = 10

ASKED = ("Name a colour.", "What is two plus two?")
GOOD = ("Blue is a colour.", "Two plus two is four.")
BAD = ("No.", "It is a fish, I think.")
MIDDLE = ("A colour, yes.", "Four or five.")


def rows(shape: str) -> list[dict[str, Any]]:
    """Two prompts, as data of this shape."""
    several = list(zip(ASKED, GOOD, MIDDLE, BAD, strict=True))
    return {
        "demonstrations": [{"prompt": q, "completion": good} for q, good, _, _ in several],
        "pairs": [{"prompt": q, "chosen": good, "rejected": bad} for q, good, _, bad in several],
        "labels": [
            {"prompt": q, "completion": text, "label": text in GOOD} for q, *texts in several for text in texts[::2]
        ],
        "rankings": [{"prompt": q, "completions": texts, "ranks": [1, 2, 3]} for q, *texts in several],
        "prompts": [{"prompt": q} for q in ASKED],
    }[shape]


REWARD = '''
def short_words(completions, **columns):
    """The share of short words, of at most four letters."""
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [sum(len(word) <= 4 for word in text.split()) / max(1, len(text.split())) for text in texts]


def characters(completions, **columns):
    """The length, in hundreds of characters."""
    return [len(c[0]["content"] if isinstance(c, list) else c) / 100 for c in completions]
'''

ANSWERS = 32
"""The start's answers to each prompt, by which a method that samples is judged."""

SAMPLED = ["reward={long}", "sampler.n=8", "policy.max_new_tokens=24"]

FAMILIES: dict[str, tuple[str, str, list[str]]] = {
    # family: method, shape of its data, further settings
    "imitation": ("sft", "demonstrations", []),
    "preference": ("dpo", "pairs", []),
    "lists and scores": ("rrhf", "rankings", []),
    "unpaired labels": ("kto", "labels", []),
    "reward models": ("reward-model", "pairs", []),
    "distillation": ("forward-kd", "demonstrations", ["optimizer.teacher={sft}"]),
    "distillation, on policy": ("gkd", "prompts", ["optimizer.teacher={sft}"]),
    "policy gradient": ("grpo", "prompts", SAMPLED),
    "policy gradient, with a critic": ("ppo", "prompts", SAMPLED),
    "self-play": ("rebel", "prompts", SAMPLED),
    "constraints": ("lagrangian-grpo", "prompts", ["reward=[{long},{short}]", *SAMPLED[1:], "optimizer.limit=0.9"]),
}


def filled(setting: str, **values: str) -> str:
    """A setting with its places filled in."""
    for name, value in values.items():
        setting = setting.replace(f"{{{name}}}", value)
    return setting


def settings(family: str, model: str, folder: Path) -> list[str]:
    """The settings of one family's run, its data written."""
    _, shape, more = FAMILIES[family]
    data = folder / f"{shape}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows(shape))), encoding="utf-8")
    trained = folder / "sft" / "models" / "sft"
    teacher = trained if trained.is_dir() else model
    rewards = folder / "rewards.py"
    rewards.write_text(REWARD, encoding="utf-8")
    named = {
        name: f'{{name="python", function="{rewards}:{function}"}}'
        for name, function in (("short", "short_words"), ("long", "characters"))
    }
    return [
        *(
            f"policy.model={model}",
            f"data.path={data}",
            "data.heldout=0",
            "evaluate.prompts=0",
            f"schedule.steps={STEPS}",
        ),
        *("schedule.prompts=4" if shape == "labels" else "schedule.prompts=2", "policy.max_length=256"),
        *("policy.max_new_tokens=16", *(filled(each, sft=str(teacher), **named) for each in more)),
    ]


def tried(family: str, model: str, folder: Path, registry: Registry) -> dict[str, Any]:
    """The figures of one family's run."""
    method, shape, _ = FAMILIES[family]
    given = settings(family, model, folder)
    recipe = load(method, given, registry=registry)
    planned = plan(recipe, timed=False)[-1].peak  # before it runs: what a run leaves would be counted
    run = alignzoo.run(method, overrides=given, out=folder / method, registry=registry)
    status = Path("/proc/self/status").read_text()
    steps = [step for file in sorted(run.out.rglob("metrics.jsonl")) for step in read_lines(file)]
    online = SAMPLED[1] in FAMILIES[family][2]
    moved = raised(next((run.out / "models").iterdir()), model, folder) if online else {}
    return moved | {
        "family": family,
        "method": method,
        "data": shape,
        "lr": recipe.stages[-1].schedule.lr,
        "steps": len(steps),
        "finite": all(math.isfinite(value) for step in steps for value in step.values() if isinstance(value, float)),
        "loss": [steps[0]["loss"], steps[-1]["loss"]],
        "planned": planned,
        "measured": int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024,  # type: ignore[index]
    }


def raised(trained: Path, model: str, folder: Path) -> dict[str, Any]:
    """How often, of two of the start's answers, the trained model has raised the better one more than the worse."""
    scorer: dict[str, Any] = {}
    exec(REWARD, scorer)
    asked, pairs = folder / "prompts.jsonl", folder / "answers.jsonl"
    said = command("generate", model, f"--prompts={asked}", "-n", str(ANSWERS), "--max-new-tokens=24", "--json")
    with pairs.open("w", encoding="utf-8") as file:
        for line in said.splitlines():
            said_to = json.loads(line)
            texts = [each["text"] for each in said_to["completions"]]
            scored = sorted(zip(scorer["characters"](texts), texts, strict=True))
            for (low, worse), (high, better) in zip(scored[: ANSWERS // 2], scored[ANSWERS // 2 :], strict=True):
                if high > low:
                    row = {"prompt": said_to["prompt"][-1]["content"], "chosen": better, "rejected": worse}
                    file.write(json.dumps(row) + "\n")
    found = json.loads(command("evaluate", str(trained), f"--with={pairs}", f"--against={model}", "--json"))
    return {"raised": found}


def command(*words: str) -> str:
    """What an `alignzoo` command prints, run in a process of its own."""
    program = [str(Path(sys.executable).parent / "alignzoo"), *words]
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout


def table(found: dict[str, Any]) -> str:
    """The page."""
    head = "| family | method | rate | loss, first step | tenth | better answers raised | GB planned | GB measured |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for each in found["runs"]:
        first, last = (f"{loss:.4f}" for loss in each["loss"])
        sizes = " | ".join(f"{each[size] / 1e9:.2f}" for size in ("planned", "measured"))
        moved = next((line for line in each.get("raised", ()) if line["metric"] == "preference"), None)
        share = f"{moved['mean']:.2f} [{moved['low']:.2f}, {moved['high']:.2f}] of {moved['items']}" if moved else ""
        lines.append(
            f"| {each['family']} | `{each['method']}` | {each['lr']:g} | {first} | {last} | {share} | {sizes} |"
        )
    finite = all(each["finite"] and each["steps"] == STEPS for each in found["runs"])
    said = "every figure of every step was finite" if finite else "not every figure of every step was finite"
    text = (__doc__ or "").split("\n\n", 2)
    return "\n".join(
        [
            f"# {text[0]}",
            "",
            text[2].strip(),
            "",
            *lines,
            "",
            f"{STEPS} steps each; {said}.",
            "",
            heading(found["machine"]),
            "",
        ]
    )


def main(model: str, family: str = "", folder: str = "") -> None:
    """Run the families that have no figures yet, each in a process of its own and kept when it is finished."""
    if family:  # such a process, which answers by one line
        registry = Registry()
        registry.load_all()
        warnings.simplefilter("ignore")
        sys.stdout.write("\n" + json.dumps(tried(family, model, Path(folder), registry)))
        return
    place = RESULTS / "families_real.json"
    found = read_json(place) if place.is_file() else {"machine": machine(), "model": Path(model).name, "runs": []}
    with tempfile.TemporaryDirectory() as made:
        for name in FAMILIES:
            if name not in {each["family"] for each in found["runs"]}:
                command = [sys.executable, __file__, model, name, made]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found["runs"].append(json.loads(said.splitlines()[-1]))
                place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                (RESULTS / "families_real.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
