"""What every method learns at its own length: its recipe's settings, three seeds or more, on the task that fits it.

    nice python benchmarks/zoo/learning.py --teacher DIR         # some hours of one core; goes on where it was stopped
    nice python benchmarks/zoo/learning.py --only preference     # of one family

Methods that learn from what they generate are tried on `sort`, whose answers are right or wrong, the others on `shop`,
whose gold score no method sees. The grid beside this one (`run.py`) gives all of a comparison the same operations,
which ends many after twenty steps; here each has the steps of its own recipe. A gain is of held-out prompts, after less
before, paired by prompt; its 95 % interval takes the error over prompts, and over seeds by Student's t with one degree
of freedom less than there are seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
from scipy import stats

import alignzoo
from alignzoo import columns
from alignzoo.registry import Registry
from alignzoo.registry.registrar import needs_of
from alignzoo.traits import traits_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import RESULTS, heading, machine

SEEDS = 3
PLACE = RESULTS / "zoo" / "learning.json"
SETTINGS = ("evaluate.greedy=false", "evaluate.best_of=1", "evaluate.prompts=256")


def methods(registry: Registry, only: list[str]) -> list[tuple[str, str, str]]:
    """The family, name and task of each first-party optimizer that trains a policy."""
    found = []
    for each in registry.list("optimizer"):
        if each.distribution != "alignzoo" or (only and each.family not in only):
            continue
        traits = traits_of(registry.get("optimizer", each.name))
        if traits.trains == "policy":
            verified = traits.online or is_taught(registry, each.name)  # the teacher is one of `sort`
            found.append((each.family, each.name, "sort" if verified else "shop"))
    return sorted(found)


def is_taught(registry: Registry, name: str) -> bool:
    """Whether an optimizer needs a teacher."""
    return "teacher" in columns.roles(needs_of(registry.get("optimizer", name)))


def run(name: str, task: str, seed: int, folder: Path, more: list[str]) -> dict[str, object]:
    """One run: the gold score of each held-out prompt before and after, or what refused it."""
    resume = (folder / "manifest.json").exists()
    try:
        done = alignzoo.run(name, task=task, seed=seed, out=folder, resume=resume, overrides=[*SETTINGS, *more])
    except alignzoo.AlignzooError as error:
        return {"error": str(error)}
    gold: dict[str, dict[int, list[float]]] = {"before": defaultdict(list), "after": defaultdict(list)}
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    first = next(answer["stage"] for answer in answers if answer["when"] == "before")
    of = {"before": first, "after": done.stages[-1].name}  # of rounds, the first and the last
    for answer in answers:
        if answer["stage"] == of.get(answer["when"]) and not answer["greedy"]:
            gold[answer["when"]][answer["prompt"]].append(answer["gold"])
    means = {when: [statistics.fmean(values[prompt]) for prompt in sorted(values)] for when, values in gold.items()}
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return means | {"steps": len(steps), "kl": done.after.get("kl")}


def gain(runs: list[dict[str, list[float]]]) -> tuple[float, float]:
    """The mean gain over seeds and prompts, and half of its 95 % interval."""
    gaps = [[after - before for before, after in zip(each["before"], each["after"], strict=True)] for each in runs]
    by_prompt = [statistics.fmean(column) for column in zip(*gaps, strict=True)]
    by_seed = [statistics.fmean(row) for row in gaps]
    over_prompts = 1.96 * statistics.stdev(by_prompt) / math.sqrt(len(by_prompt))
    if len(runs) < 2:
        return by_seed[0], over_prompts
    quantile = float(stats.t.ppf(0.975, len(runs) - 1))
    over_seeds = quantile * statistics.stdev(by_seed) / math.sqrt(len(runs))
    return statistics.fmean(by_seed), math.hypot(over_prompts, over_seeds)


def table(found: dict[str, object]) -> str:
    """The page."""
    rows = defaultdict(list)
    for each in found["runs"]:  # type: ignore[attr-defined]
        rows[each["family"], each["method"], each["task"]].append(each)
    head = "| family | method | task | seeds | steps | gold before | after | gain, 95 % |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    shown = 0
    for (family, method, task), runs in sorted(rows.items()):
        if errors := [each["error"] for each in runs if "error" in each]:
            lines.append(f"| {family} | `{method}` | {task} | | | | | {errors[0]} |")
            continue
        more, half = gain(runs)
        before, after = (
            statistics.fmean(statistics.fmean(each[when]) for each in runs) for when in ("before", "after")
        )
        shown += more > half
        figures = f"{len(runs)} | {runs[0]['steps']} | {before:.3f} | {after:.3f} | {more:+.3f} ± {half:.3f}"
        lines.append(f"| {family} | `{method}` | {task} | {figures} |")
    told = f"{shown} of {len(rows)} methods gain beyond their interval."
    text = (__doc__ or "").split("\n\n")
    machines = "\n\n".join(map(heading, found["machines"]))  # type: ignore[arg-type]
    return "\n".join([f"# {text[0]}", "", text[2].strip(), "", told, "", *lines, "", machines, ""])


def main() -> None:
    """Run what has no figures yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/zoo-learning"), help="where the runs lie")
    parser.add_argument("--teacher", default="", help="a model for those that learn from a teacher")
    parser.add_argument("--only", nargs="*", default=[], help="families, of which these alone")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry()
    registry.load_all()
    found = json.loads(PLACE.read_text()) if PLACE.exists() else {"machines": [], "runs": []}
    if (here := machine()) not in found["machines"]:
        found["machines"].append(here)
    known = {(each["method"], each["seed"]) for each in found["runs"]}
    for family, name, task in methods(registry, chosen.only):
        taught = is_taught(registry, name)
        if taught and not chosen.teacher:
            continue
        for seed in range(chosen.seeds):
            if (name, seed) in known:
                continue
            more = [f"optimizer.teacher={chosen.teacher}"] if taught else []
            row = run(name, task, seed, chosen.out / name / f"seed-{seed}", more)
            found["runs"].append({"family": family, "method": name, "task": task, "seed": seed} | row)
            PLACE.parent.mkdir(parents=True, exist_ok=True)
            PLACE.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
            PLACE.with_suffix(".md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
