"""One method of each family on a real instruct model, with the defaults of real models: ten steps of few, short rows.

    python benchmarks/families_real.py MODEL_DIR            # writes results/families_real.json and .md

Every step sees the same two prompts, so that a loss that falls is what was trained, and not other rows. Of a method
that samples its own answers the loss says nothing; ten steps tell that it runs and that every figure is finite. Memory
is the peak of a process of its own, beside what `alignzoo plan` says of one that has just begun.
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


FAMILIES: dict[str, tuple[str, str, list[str]]] = {
    # family: method, shape of its data, further settings
    "imitation": ("sft", "demonstrations", []),
    "preference": ("dpo", "pairs", []),
    "reward models": ("reward-model", "pairs", []),
    "policy gradient": ("grpo", "prompts", ["reward=length", "sampler.n=2", "policy.max_new_tokens=8"]),
    "distillation": ("forward-kd", "demonstrations", ["optimizer.teacher={sft}"]),
    "lists and scores": ("rrhf", "rankings", []),
    "unpaired labels": ("kto", "labels", []),
    "self-play": ("rebel", "prompts", ["reward=length", "sampler.n=2", "policy.max_new_tokens=8"]),
}


def settings(family: str, model: str, folder: Path) -> list[str]:
    """The settings of one family's run, its data written."""
    _, shape, more = FAMILIES[family]
    data = folder / f"{shape}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows(shape))), encoding="utf-8")
    trained = folder / "sft" / "models" / "sft"
    teacher = trained if trained.is_dir() else model
    return [
        *(
            f"policy.model={model}",
            f"data.path={data}",
            "data.heldout=0",
            "evaluate.prompts=0",
            f"schedule.steps={STEPS}",
        ),
        *("schedule.prompts=4" if shape == "labels" else "schedule.prompts=2", "policy.max_length=256"),
        *("policy.max_new_tokens=16", *(each.format(sft=teacher) for each in more)),
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
    return {
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


def table(found: dict[str, Any]) -> str:
    """The page."""
    head = "| family | method | rate | loss, first step | tenth | GB planned | GB measured |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for each in found["runs"]:
        first, last = (f"{loss:.4f}" for loss in each["loss"])
        sizes = " | ".join(f"{each[size] / 1e9:.2f}" if size in each else "" for size in ("planned", "measured"))
        lines.append(f"| {each['family']} | `{each['method']}` | {each['lr']:g} | {first} | {last} | {sizes} |")
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
