"""docs/zoo.md: every optimizer with its paper, its needs, its size, its oracle, and what the zoo's grid has shown.

    python benchmarks/zoo/table.py

Figures are those of benchmarks/results/zoo, which `benchmarks/zoo/run.py` publishes; what it has not run yet is a dash.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from learning import gain
from orders import section

from alignzoo.registry import Registry
from alignzoo.registry.registrar import needs_of
from alignzoo.schedule import AT_KL

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "zoo"
ORACLES = ROOT / "tests" / "oracle"

WHY: Mapping[str, str] = {
    "self-distillation": "its teacher is the policy shown an answer, and the embedded models cannot read one: shown "
    "the right one, 0.10 of its answers to `sort` are right, and 0.35 without",
    "discopop": "the loss that was found rises with the margin round 0, where a policy starts (arXiv:2406.08414 sec. "
    "5)",
    "apo-down": "it lowers both answers, for a policy that is better than its data, which the one of `shop` is not",
    "unlikelihood": "what bad answers say is unlearnt token by token, and most of it good answers to `shop` say, too",
    "attribute-reward-model": "not on `shop`, whose answers nobody has graded by several attributes",
    "process-reward-model": "not on `shop`, whose rows have two answers, and no steps that are right or wrong",
    "npo": "it unlearns the worse answer, and has nothing that raises the better one",
}
"""Why methods that are not meant to gain here do not, by their names."""

SHORT: Mapping[str, str] = {
    "max-at-k": "what is credited is the lead of a group's best answer, and where answers are right or wrong about a "
    "third of the groups has one right answer alone",
    "gfpo-efficiency": "where answers are right or wrong the most efficient are the right ones, and a group that keeps "
    "no wrong one teaches nothing",
    "a-star-po": "four fifths of its steps estimate the value of the prompts, and 30 train, of one answer each: it "
    "still rises when they end",
    "remax": "one sampled answer of each prompt a step, credited by how it compares with the greedy one",
    "vbon": "what an answer is worth to it has the KL to the start in it",
    "top-k-distillation": "as forward-kd, from given answers",
    "forward-kd": "it learns from given answers what its teacher, which is right in three of four, thinks of them, and "
    "never from its own",
}
"""Why methods end below 0.65 right answers to `sort` with the steps of their recipes."""

KL = "kl-"
"""How the names of comparisons begin whose runs end at a KL."""

ABOUT_KL = """## At a common KL

The same comparisons with runs that end where their KL to the start has reached {kl} nats a sequence, and with three
times the operations, which who has not come there spends. A run ends with the step that passes it; on `sort`, where
one goes far, methods take a fifth of their recipes' learning rates. Steps that generate measure the KL of a few
completions, so that it has an error; who learns from given answers sees it in eleven evaluations on the way. Methods in
rounds are left out: each round measures the KL to its own start.
"""

ABOUT = ("name", "needs", "paper", "lines", "oracle")
FIGURES = ("held-out figure", "start", "better than the start", "KL", "tokens", "seconds", "comparison", "evidence")

HEAD = """# The zoo

Every optimizer of the zoo, by family: what it needs of a batch, its paper, the lines of its file, what its loss is
held against, and what one grid has shown of it on the embedded tasks. The grid is `benchmarks/zoo/run.py`: {seeds}
seeds, equal FLOPs within a comparison, the recipe's own settings, nothing tuned, controls in every comparison. Of six
recipes the stages before the last, which generate for all prompts, would take the whole budget: they do so for fewer;
and three methods have a limit that suits the task. Each figure is of held-out prompts. Intervals are those of the
comparison, over seeds and prompts, and hold together; that three seeds of most had been looked at before, in an
earlier grid, they do not pay for. *Better than the start* is the comparison's own verdict: "no" says that it is not
shown at this budget, not that a method does not learn. The evidence is that comparison's, and after it what the
method gains, after less before, with the steps of its own recipe (`benchmarks/zoo/learning.py`). Budgets differ
between comparisons, and so do tasks: figures of two comparisons are not to be held against each other.

The order of methods on so small a world says nothing about their order elsewhere.
"""


@dataclass(frozen=True)
class Shown:
    """What a comparison has shown of an optimizer."""

    comparison: str
    task: str
    budget: str
    figure: str
    start: str
    better: str
    kl: str
    tokens: str
    seconds: str
    why: str


def comparisons() -> Iterator[tuple[str, dict[str, Any]]]:
    """Those that have ended, by name."""
    for path in sorted(RESULTS.glob("*/results.json")):
        yield path.parent.name, json.loads(path.read_text())


def shown(name: str, results: Mapping[str, Any], algorithm: str) -> Shown | None:
    """What a comparison has shown of an algorithm; None where it is not in it."""
    compared = next((a for a in results["algorithms"] if a["name"] == algorithm and a["role"] == "algorithm"), None)
    if compared is None:
        return None
    label, (task, metric) = compared["label"], next(iter(results["metric"].items()))
    rows = {s["algorithm"]: s for s in results["standings"] if (s["task"], s["metric"]) == (task, metric)}
    start = next(a["label"] for a in results["algorithms"] if a["role"] == "start")
    pair = next((p for p in results["pairs"] if (p["a"], p["b"]) == (label, start)), None)
    cells = [c for c in results["cells"] if c["algorithm"] == label and c["after"]]
    row = rows.get(label)
    better = "failed" if row is None else "-"
    if pair is not None and pair["low"] is not None:
        better = "yes" if pair["shown"] and pair["difference"] > 0 else "worse" if pair["shown"] else "no"
    return Shown(
        comparison=name,
        task=task,
        budget=", ".join(
            f"{amount:.3g} {currency}" for currency, amount in (results["settings"]["budget"] or {}).items()
        ),
        figure=interval(row, metric),
        start=f"{rows[start]['mean']:.2f}" if start in rows else "-",
        better=better,
        kl=f"{fmean(c['after']['kl'] for c in cells):.2f}" if cells else "-",
        tokens=f"{fmean(c['costs']['tokens'] for c in cells) / 1e3:.1f}k" if cells else "-",
        seconds=f"{fmean(results['timings'][c['id']]['seconds'] for c in cells):.0f}" if cells else "-",
        why=why(algorithm, better, pair, cells, results, label),
    )


def interval(row: Mapping[str, Any] | None, metric: str) -> str:
    """0.71 [0.60, 0.80] gold."""
    return "-" if row is None else f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}] {metric}"


def why(algorithm: str, better: str, pair: Any, cells: list[Any], results: Mapping[str, Any], label: str) -> str:
    """The evidence where it is not better than the start."""
    if better == "failed":
        errors = [c["error"] for c in results["cells"] if c["algorithm"] == label and c["error"]]
        told = errors[0][:160] if errors else "no run has ended"
        return f"{told}; {WHY[algorithm]}" if algorithm in WHY else told
    if better not in ("no", "worse"):
        return ""
    steps = fmean(cell["steps"] for cell in cells) if cells else 0
    told = f"after {steps:.0f} steps the difference is {pair['difference']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]"
    return f"{told}; {WHY[algorithm]}" if algorithm in WHY else told


def learnt() -> dict[str, str]:
    """What methods gain with the steps of their own recipes, by name: `benchmarks/zoo/learning.py`."""
    path = RESULTS / "learning.json"
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in json.loads(path.read_text())["runs"] if path.exists() else ():
        if "error" not in run:
            runs.setdefault(run["method"], []).append(run)
    told = {}
    for name, several in runs.items():
        more, half = gain(several)
        after = fmean(fmean(each["after"]) for each in several)
        seeds = f"{len(several)} seeds" if len(several) > 1 else "one seed"
        told[name] = (
            f"its recipe's {several[0]['steps']} steps on {several[0]['task']}: {more:+.2f} ± {half:.2f}, {seeds}"
        )
        if several[0]["task"] == "sort":
            told[name] += f", to {after:.2f} right"
            told[name] += f"; {SHORT[name]}" if after < 0.65 and name in SHORT else ""
    return told


def reward_models() -> dict[str, str]:
    """Agreement with held-out labels, by name."""
    path = RESULTS / "reward-models.json"
    found: dict[str, list[dict[str, Any]]] = {}
    for run in json.loads(path.read_text())["runs"] if path.exists() else ():
        found.setdefault(run["algorithm"], []).append(run)
    told = {}
    for name, runs in found.items():
        values = [run["after"]["accuracy"] for run in runs if "after" in run]
        told[name] = (
            f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f}) of held-out pairs"
            if values else WHY.get(name) or runs[0].get("error", "")
        )  # fmt: skip
    return told


def paper(cls: Any) -> str:
    """The first arXiv number of its docstring, and what stands before it."""
    text = " ".join(inspect.getdoc(cls).split()) if inspect.getdoc(cls) else ""
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", text)
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})" if found else ""


def oracle(name: str) -> str:
    """What its loss is held against in the tests."""
    texts = [path.read_text() for path in ORACLES.glob("test_trl_*.py")]
    return "TRL" if any(f'"{name}"' in text for text in texts) else "by hand"


def page() -> str:
    """The whole page."""
    registry = Registry()
    registry.load_all()
    ended = list(comparisons())
    known = [(name, results) for name, results in ended if not name.startswith(KL)]
    at_kl = [(name.removeprefix(KL), results) for name, results in ended if name.startswith(KL)]
    scores, lengths = reward_models(), learnt()
    families: dict[str, list[Any]] = {}
    for each in registry.list("optimizer"):
        if each.family and each.distribution == "alignzoo":
            families.setdefault(each.family, []).append(each)
    seeds = sorted({str(results["settings"]["seeds"]) for _, results in known})
    lines = [HEAD.format(seeds=" or ".join(seeds) or "some")]
    if known:
        lines += [f"Comparisons that have ended: {', '.join(name for name, _ in known)}.", ""]
    else:
        lines += ["No comparison of the grid has ended yet.", ""]
    for family in sorted(families):
        rows = [_row(each, registry, known, scores, lengths) for each in sorted(families[family], key=lambda r: r.name)]
        width = max(map(len, rows))
        columns = [*ABOUT, *FIGURES][:width]
        lines += [f"## {family.capitalize()}", "", _line(columns), _line(["---"] * width)]
        lines += [_line([*row, *["-"] * (width - len(row))]) for row in rows] + [""]
    if at_kl:
        lines += _at_kl(at_kl)
    if known:
        lines += section(known, at_kl)
    return "\n".join(lines).rstrip() + "\n"


def _at_kl(known: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Every comparison of runs that end at the same KL, the best first."""
    limits = {limit for _, results in known for limit in [_limit(results)]}
    yield ABOUT_KL.format(kl=" or ".join(sorted(limits)))
    yield _line(
        ["comparison", "name", "held-out figure", "start", "better than the start", "KL", "ended at it", "FLOPs"]
    )
    yield _line(["---"] * 8)
    for name, results in known:
        metric = next(iter(results["metric"].values()))
        labels = {each["label"] for each in results["algorithms"] if each["role"] == "algorithm"}
        ranks = [row for row in results["standings"] if row["metric"] == metric and row["algorithm"] in labels]
        for row in sorted(ranks, key=lambda row: -row["mean"]):
            found = shown(name, results, row["algorithm"])
            if found is None:
                continue
            cells = [c for c in results["cells"] if c["algorithm"] == row["algorithm"] and c["after"]]
            ended = sum(c["stopped"].startswith(AT_KL) or c["after"]["kl"] >= float(_limit(results)) for c in cells)
            spent = f"{fmean(cell['costs']['flops'] for cell in cells):.2g}"
            told = [found.figure, found.start, found.better, found.kl, f"{ended} of {len(cells)}", spent]
            yield _line([f"{name}: {found.task}", f"`{row['algorithm']}`", *told])
    yield ""


def _limit(results: Mapping[str, Any]) -> str:
    return next(each.partition("=")[2] for each in results["settings"]["overrides"] if "kl_stop=" in each)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(
    each: Any,
    registry: Registry,
    known: Sequence[tuple[str, dict[str, Any]]],
    scores: Mapping[str, str],
    lengths: Mapping[str, str],
) -> list[str]:
    """The columns of ABOUT, and those of FIGURES where the grid has any."""
    cls = registry.get("optimizer", each.name)
    real = cls if inspect.isclass(cls) else type(cls)
    lines = len(Path(inspect.getfile(real)).read_text().splitlines())
    needs = ", ".join(sorted(map(str, needs_of(cls))))
    row = [f"`{each.name}`", needs, paper(real), str(lines), oracle(each.name)]
    found = next((s for name, results in known if (s := shown(name, results, each.name)) is not None), None)
    if found is not None:
        where = f"{found.comparison}: {found.task}, {found.budget}"
        evidence = "; ".join(filter(None, (found.why, lengths.get(each.name))))
        row += [found.figure, found.start, found.better, found.kl, found.tokens, found.seconds, where, evidence]
    elif each.name in scores:
        row += [scores[each.name], "0.50", "-", "-", "-", "-", "reward-models: shop", ""]
    elif each.name in lengths:
        row += [*["-"] * 7, lengths[each.name]]
    return row


if __name__ == "__main__":
    (ROOT / "docs" / "zoo.md").write_text(page())
    sys.stdout.write(str(ROOT / "docs" / "zoo.md") + "\n")
