"""An algorithm's card: what a step costs, from its needs alone; how it stands with the laws; what it has learnt."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import alignzoo
from alignzoo import columns
from alignzoo.files import read_json

RESULTS = Path(alignzoo.__file__).parents[1] / "benchmarks" / "results"
"""Where a source tree has its benchmarks; an installed package has none."""

ORACLES = Path(alignzoo.__file__).parents[1] / "tests" / "oracle"
"""Where a source tree holds optimizers to other libraries."""

PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")

SYMBOLS = (
    "F a forward pass over the step's batch (a backward pass is about 2 F), E the epochs, W the policy's weights; "
    "F' and W' are the critic's, F(role) and W(role) another policy's. Where the policy writes, both "
    "log-probabilities are there in every step in which the KL is watched (`schedule.kl_every`)."
)


OWN = {columns.OLD: "the log-probabilities before the update", columns.REFERENCE: "those of the frozen reference"}
"""The roles that are the policy's own, of its size, and what a pass of theirs is called."""


def _critic(answer: str) -> str:
    return "the critic" if answer == "values" else f"the critic of {answer!r}"


def papers(doc: str) -> list[str]:
    """The papers that a docstring names, as links."""
    return [f"https://arxiv.org/abs/{number}" for number in dict.fromkeys(PAPER.findall(doc))]


def cost(needs: Iterable[str], epochs: int) -> dict[str, Any]:
    """What a step costs beside writing, and what has to stay in memory, in words and symbols."""
    needs = set(needs)
    trained, asked = columns.trained(needs), columns.by_role(needs)
    critics = sorted(columns.of_part(trained, "critic"))
    speaks, values = bool(trained.difference(critics)), len(critics)
    own = [(role, columns.of_part(asked[role], "critic")) for role in OWN if role in asked]
    passed = [role for role, valued in own if asked[role] - valued]
    lines = [{"what": OWN[role], "cost": "F"} for role in passed]
    old = [name for role, valued in own for name in sorted(valued)]
    lines += [{"what": f"{_critic(name)} before the update", "cost": "F'"} for name in old]
    answering = [role for role in asked if role not in OWN]
    compared = sorted(columns.compared(needs))
    lines += [{"what": f"the log-probabilities of {role!r}", "cost": f"F({role})"} for role in answering]
    if speaks:
        lines.append({"what": "updates of the policy, forward and backward", "cost": "3·E·F"})
    lines += [{"what": f"{role!r}, beside each update's forward pass", "cost": f"E·F({role})"} for role in compared]
    lines += [{"what": f"updates of {_critic(name)}, forward and backward", "cost": "3·E·F'"} for name in critics]
    policy = 3 * epochs * speaks + len(passed)
    critic = 3 * epochs * values + len(old)
    others = [(1, f"F({role})") for role in answering] + [(epochs, f"F({role})") for role in compared]
    total = " + ".join(f"{count} {symbol}" for count, symbol in ((policy, "F"), (critic, "F'"), *others) if count)
    memory = ["4 W: weights, gradients and AdamW's two moments (of an adapter: W and four times the adapter)"]
    if columns.REFERENCE in columns.roles(needs):
        memory.append("1 W: the reference (with an adapter, none: it is the base)")
    memory += [f"4 W': {_critic(name)}, with its own gradients and moments" for name in critics]
    beside = sorted({*answering, *compared} - {columns.REFERENCE})
    memory += [f"1 W({role}): {role!r}, frozen" for role in beside]
    return {"step": lines, "total": f"{total} at E = {epochs}", "memory": memory, "symbols": SYMBOLS}


def conformance(part: Any) -> dict[str, Any]:
    """How a part stands with the laws, tried now."""
    from alignzoo.testing import Given, checks_of, results

    made = list(results(part, checks_of(part), Given()))
    return {
        "checks": len(made),
        "waived": {law: why for law, why in waived_of(part).items() if law in {each.check for each in made}},
        "failed": [f"{each.check} (law {each.law})" for each in made if not each.ok],
        "figures": {name: value for each in made for name, value in each.figures.items()},
    }


def waived_of(part: Any) -> dict[str, str]:
    """The laws that do not apply to an optimizer or an engine, and why, as it says itself; none of other parts."""
    from alignzoo.engines import waived_laws
    from alignzoo.traits import traits_of

    return dict(traits_of(part).laws) if hasattr(part, "loss") else dict(waived_laws(part))


def oracle(name: str, target: str, folder: Path = ORACLES) -> list[str]:
    """The tests that hold an optimizer to another library's numbers, in a source tree."""
    words = re.compile(rf"""["']{re.escape(name)}["']|\b{re.escape(target.rpartition(":")[2])}\b""")
    return [path.name for path in sorted(folder.glob("test_*.py")) if words.search(path.read_text("utf-8"))]


def benchmarks(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """What runs of this name have learnt, a row for each task: means over seeds, from the source tree's results."""
    path = folder / "learning.json"
    if not path.is_file():
        return []
    found = read_json(path)
    runs = [run for run in found["runs"] if run["recipe"] == name]
    rows = []
    for task in dict.fromkeys(run["task"] for run in runs):
        some = [run for run in runs if run["task"] == task]
        figures = {
            "seeds": len(some),
            "gold_before": statistics.fmean(run["before"]["gold"] for run in some),
            "gold_after": statistics.fmean(run["after"]["gold"] for run in some),
            "kl": statistics.fmean(run["after"]["kl"] for run in some),
            "seconds": statistics.fmean(run["seconds"] for run in some),
        }
        machine = f"{found['machine']['processor']}, gpu {found['machine']['gpu']}, {found['machine']['date']}"
        rows.append({"task": task, "machine": machine} | {key: round(value, 3) for key, value in figures.items()})
    return rows


def example(kind: str, name: str, required: Iterable[str]) -> str:
    """A command that shows a part at work in a moment."""
    settings = ", ".join([f'name="{name}"', *(f'{field}="..."' for field in required)])
    table = f"'{{{settings}}}'" if list(required) else name
    return {
        "optimizer": f"alignzoo run {name} task=sort schedule.steps=4 evaluate.prompts=32",
        "reward": f"alignzoo run RECIPE reward={table}",
        "sampler": f"alignzoo run RECIPE sampler={table}",
        "policy": f"alignzoo run RECIPE policy={table}",
        "task": f"alignzoo run RECIPE task={table}",
        "engine": f"alignzoo run RECIPE policy.engine={table}",
        "judge": f"alignzoo run RECIPE reward='{{name=\"judge\", judge={{{settings}}}}}'",
    }[kind]
