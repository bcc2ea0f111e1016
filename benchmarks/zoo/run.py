"""The zoo's grid: every optimizer on an embedded task that it fits, with controls, several seeds, and equal FLOPs or an
equal KL to the start.

    nice python benchmarks/zoo/run.py                    # everything; some hours of one core
    nice python benchmarks/zoo/run.py --only pairs-1     # one comparison of it
    nice python benchmarks/zoo/run.py --seeds 5          # with more seeds, which are added to those that are there
    nice python benchmarks/zoo/run.py --kl 0.3           # each run ends at 0.3 nats a sequence from its start
    python benchmarks/zoo/table.py                       # docs/zoo.md from what has ended

Large families are split, so that each comparison can be read by itself when it has ended; every part of a family holds
the same anchor, its best-known method. The same command goes on where it was stopped. What a comparison comes to is
published in benchmarks/results/zoo/NAME: report.md without its pictures, results.json without win rates by gold, the
scores of all answers, and a judge's verdicts; `python tests/compare/recompute.py benchmarks/results/zoo/NAME` computes
it all again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from pathlib import Path

import torch

import alignzoo
from alignzoo import columns
from alignzoo.compare.results import CellResult
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.registry.registrar import needs_of
from alignzoo.traits import traits_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import RESULTS, machine

OUT = RESULTS / "zoo"
SEEDS, PROMPTS = 3, 128
FURTHER = 3.0
"""So many times the operations may be spent on the way to a KL: who has not come there by then is marked."""
LOOKS = 11
"""So many evaluations on the way to a KL."""
SLOWER = {"sort": 0.2}
"""The share of their recipes' learning rate with which methods go to a KL on a task where one step goes far."""
TEACHER_STEPS = 60
"""Steps of GRPO on `sort` that make the teacher of distillation."""

OWN = {
    "sppo": "sample.schedule.steps=2",
    "dno": "sample.schedule.steps=2",
    "selm": "sample.schedule.steps=2",
    "bonbon": "sample.schedule.steps=4",
    "a-star-po": "values.schedule.steps=8",
    "prime": "sample.schedule.steps=3,prm.schedule.steps=2",
    "lagrangian-grpo": "optimizer.limit=8",
    "lagrangian-ppo": "optimizer.limit=8",
    "repo": "optimizer.limit=8",
}
"""What is not a recipe's own setting: first stages that alone generate for more than the whole budget do so for fewer
prompts, and what is limited, the tokens of an answer, has a limit that right answers to `sort` keep."""

GROWTH = 5
"""So many algorithms more, each time that a comparison is gone on with."""


@dataclass(frozen=True)
class Part:
    """One comparison of the grid."""

    name: str
    task: str
    algorithms: tuple[str, ...]
    budget: str
    overrides: tuple[str, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    """Settings of single algorithms, by their names."""


def optimizers(registry: Registry) -> dict[str, list[str]]:
    """First-party optimizers by family, in the order of their names."""
    found: dict[str, list[str]] = {}
    for each in registry.list("optimizer"):
        if each.family and each.distribution == "alignzoo":
            found.setdefault(each.family, []).append(each.name)
    return {family: sorted(names) for family, names in found.items()}


def trains_policy(registry: Registry, name: str) -> bool:
    """Whether what is trained can answer a prompt: a reward model cannot."""
    return traits_of(registry.get("optimizer", name)).trains == "policy"


def has_limit(optimizer: type) -> bool:
    """Whether it holds a cost to a limit; others of its family make one reward of several."""
    return "limit" in {each.name for each in fields(optimizer)}


def parts(registry: Registry, teacher: str) -> Iterator[Part]:
    """The comparisons, by family."""
    zoo = optimizers(registry)
    gradient = zoo["policy gradient"]
    critics = [name for name in gradient if "values" in needs_of(registry.get("optimizer", name))]
    few = ("schedule.evaluations=2",)
    pairs = (*few, "schedule.prompts=16")
    asked = [name for name in gradient if "teacher" in columns.roles(needs_of(registry.get("optimizer", name)))]
    for part in split("policy-gradient", "sort", [n for n in gradient if n not in critics], "grpo", "flops=5e10", few):
        yield replace(part, algorithms=tuple(name for name in part.algorithms if name not in asked))
    three = [name for name in zoo["preference"] if traits_of(registry.get("optimizer", name)).completions > 2]
    for part in split("pairs", "shop", zoo["preference"], "dpo", "flops=6e10", pairs):
        yield replace(part, algorithms=tuple(name for name in part.algorithms if name not in three))
    yield Part("unpaired", "shop", tuple(zoo["unpaired labels"]), "flops=6e10", pairs)
    own = ("bond", "j-bond", "self-distillation", "vbon")  # which are their own teachers
    taught = tuple(name for name in zoo["distillation"] if name not in own)
    yield Part("distillation", "sort", (*taught, *asked), "flops=6e10", (*few, f"optimizer.teacher={teacher}"))
    yield Part("critics", "sort", (*critics, "grpo"), "flops=1.5e11", few)
    yield Part("self-play", "shop", (*zoo["self-play"], "online-dpo"), "flops=8e10", few)
    implicit = tuple(name for name in zoo["reward models"] if trains_policy(registry, name))
    yield Part("imitation", "shop", (*own, *zoo["imitation"], *implicit), "flops=6e10", pairs)
    lists = (*few, "sampler.name=policy", "sampler.n=4", "reward=rules", "schedule.prompts=8")
    yield Part("lists", "safe", (*zoo["lists and scores"], *three), "flops=6e10", lists)
    # Letters in order, in few tokens: right answers have eight at most. MODPO's margin is of rows of pairs.
    costly = 'reward=[{name="match", answer="answer", mode="exact"}, {name="length", weight=-0.02}]'
    limited = tuple(name for name in zoo["constraints"] if has_limit(registry.get("optimizer", name)))
    yield Part("constraints", "sort", (*limited, "grpo", "ppo"), "flops=1.5e11", (*few, costly))


def at_kl(part: Part, kl: float, registry: Registry) -> Part:
    """The same comparison, of runs that end at this KL; who learns from given answers, also beside its own, sees it in
    evaluations alone. Not of methods in rounds: each of theirs measures the KL to its own start."""
    asked = [*part.overrides, f"task={part.task}"]
    stages = {name: load(name, asked, registry=registry).stages for name in part.algorithms}
    algorithms = [name for name, some in stages.items() if not any(stage.round for stage in some)]
    currency, amount = part.budget.split("=")
    further = f"{currency}={float(amount) * FURTHER:g}"
    overrides = (*part.overrides, f"schedule.evaluations={LOOKS}", f"schedule.kl_stop={kl}")
    share = SLOWER.get(part.task, 1.0)
    last = {name: stages[name][-1] for name in algorithms} if share < 1 else {}
    own = {name: f"{stage.name}.schedule.lr={share * stage.schedule.lr:g}" for name, stage in last.items()}
    return replace(
        part, name=f"kl-{part.name}", algorithms=tuple(algorithms), budget=further, overrides=overrides, own=own
    )


def split(
    name: str, task: str, algorithms: Sequence[str], anchor: str, budget: str, overrides: tuple[str, ...]
) -> Iterator[Part]:
    """A large family as parts of some fifteen, each with the anchor."""
    others = [each for each in algorithms if each != anchor]
    number = ceil(len(others) / 14)
    for i in range(number):
        yield Part(f"{name}-{i + 1}", task, (anchor, *others[i::number]), budget, overrides)


def grown(whole: Sequence[Part]) -> Iterator[Part]:
    """Each comparison with some of its algorithms, then with more, its cells kept: something of every family is there
    early, and in the end the whole is."""
    for size in range(GROWTH, max(len(part.algorithms) for part in whole) + GROWTH, GROWTH):
        for part in whole:
            if len(part.algorithms) > size - GROWTH:
                yield replace(part, algorithms=part.algorithms[:size])


def fitted(name: str, part: Part) -> str:
    """An algorithm as it is compared: by its name, and with settings of its own where the recipe's would not do."""
    own = [settings[name] for settings in (OWN, part.own) if name in settings]
    return f"{name}[{','.join([f'label={name}', *own])}]" if own else name


def teacher(out: Path) -> Path:
    """The model that distillation is taught by, trained once."""
    folder = out / "teacher"
    if not (folder / "result.json").exists():
        alignzoo.run(
            "grpo", task="sort", seed=99, out=folder, resume=(folder / "manifest.json").exists(),
            overrides=[f"schedule.steps={TEACHER_STEPS}"],
        )  # fmt: skip
    return folder / "models" / "grpo"


def reward_models(registry: Registry, out: Path, seeds: int) -> None:
    """Reward models answer no prompt: their figure is how often they agree with held-out labels and with gold."""
    rows = []
    for name in optimizers(registry)["reward models"]:
        if trains_policy(registry, name):
            continue
        for seed in range(seeds):
            folder = out / "reward-models" / name / f"seed-{seed}"
            told = folder / "zoo.json"
            if not told.exists():
                row = {"algorithm": name, "seed": seed, **reward_model(name, seed, folder)}
                told.parent.mkdir(parents=True, exist_ok=True)
                told.write_text(json.dumps(row))
                print(json.dumps(row), flush=True)
            rows.append(json.loads(told.read_text()))
    OUT.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine(), "task": "shop", "steps": 40, "runs": rows}
    (OUT / "reward-models.json").write_text(json.dumps(facts, indent=1) + "\n")


def reward_model(name: str, seed: int, folder: Path) -> dict[str, object]:
    """One run: held-out figures before and after, or what stopped it."""
    resume = (folder / "run" / "manifest.json").exists()
    settings = ["schedule.steps=40", "evaluate.prompts=200", "schedule.lr=7e-4", "schedule.evaluations=1"]
    try:
        found = alignzoo.run(name, task="shop", seed=seed, out=folder / "run", resume=resume, overrides=settings)
    except alignzoo.AlignzooError as error:
        return {"error": str(error)}
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    names = ("tokens/trained", "flops/forward", "flops/backward")
    costs = {each: sum(line.get(each, 0.0) for line in lines) for each in names}
    clock = [json.loads(line) for line in (folder / "run" / "seconds.jsonl").read_text().splitlines()]
    spent = sum(value for line in clock for key, value in line.items() if key.startswith("seconds/"))
    return {"before": found.before, "after": found.after, "costs": costs, "seconds": spent}


def publish(name: str, folder: Path, out: Path = OUT, model: Path | None = None) -> None:
    """The report and the data of one comparison, for the repository; without the places of its files and its model."""
    places = [folder, folder.parent, Path.cwd()] if model is None else [folder, folder.parent, Path.cwd(), model]
    target = out / name
    target.mkdir(parents=True, exist_ok=True)
    text = (folder / "report.md").read_text()
    text = re.sub(r"^!\[.*\]\(.*\)\n+", "", text, flags=re.M)
    (target / "report.md").write_text(anywhere(text, places))
    data = json.loads((folder / "results.json").read_text())
    data["improvements"], data["profiles"] = [], []
    verdicts = folder / "verdicts.jsonl"
    if verdicts.exists():
        pack(verdicts.read_text(), target / "verdicts.jsonl.gz")
    else:
        data["win_rates"] = []
    data["timings"] = json.loads((folder / "timings.json").read_text())
    lines = [line for cell in data["cells"] for line in scored(folder, cell["id"])]
    pack("".join(json.dumps(line) + "\n" for line in lines), target / "answers.jsonl.gz")
    (target / "results.json").write_text(anywhere(json.dumps(rounded(data), separators=(",", ":")), places) + "\n")


def pack(text: str, path: Path) -> None:
    """By gzip, equal texts as equal bytes."""
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write(text.encode())


def scored(folder: Path, cell: str) -> Iterator[dict[str, object]]:
    """The scores of a cell's sampled answers, from which every figure can be computed again."""
    path = folder / "cells" / cell / "answers.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        answer = json.loads(line)
        if not answer["greedy"]:
            of_pairs = ("preference",) if answer.get("preference") is not None else ()
            names = ("prompt", "greedy", "gold", "accuracy", "reward", *of_pairs)
            yield {"cell": cell, **{name: answer[name] for name in names}}


def rounded(value: object) -> object:
    """Figures with ten digits: as many as the independent computation is held to."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def anywhere(text: str, places: Sequence[Path]) -> str:
    """Without folders of the machine."""
    for path in places:
        text = text.replace(str(path.resolve()), path.name).replace(str(path), path.name)
    return text


def tell(cell: CellResult, done: int, total: int) -> None:
    """A line for each cell that has ended."""
    gold = f"gold {cell.after['gold']:.3f}" if "gold" in cell.after else cell.error[:100]
    print(f"  [{done}/{total}] {cell.id}  {cell.status}  {gold}", flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="where the runs lie, to go on with")
    parser.add_argument("--only", nargs="*", default=[], help="names of comparisons, of which these alone")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many of each algorithm")
    parser.add_argument("--kl", type=float, default=0.0, help="end each run at this KL, nats per sequence")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    registry = Registry()
    registry.load_all()
    model = str((chosen.out / "teacher" / "models" / "grpo").resolve())
    for part in grown(list(parts(registry, model))):
        if chosen.only and part.name not in chosen.only:
            continue
        print(f"{part.name}: {len(part.algorithms)} on {part.task}, {part.budget}", flush=True)
        if part.name == "distillation":
            teacher(chosen.out)
        part = at_kl(part, chosen.kl, registry) if chosen.kl else part
        folder = chosen.out / part.name
        alignzoo.compare(
            *(fitted(name, part) for name in part.algorithms), task=part.task, seeds=chosen.seeds, budget=part.budget,
            prompts=PROMPTS, out=folder, overrides=part.overrides, progress=tell,
        )  # fmt: skip
        publish(part.name, folder)
    if not chosen.kl and (not chosen.only or "reward-models" in chosen.only):
        reward_models(registry, chosen.out, chosen.seeds)


if __name__ == "__main__":
    main()
