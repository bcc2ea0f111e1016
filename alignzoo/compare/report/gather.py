"""What a report shows beyond results.json, read from the cells' folders: curves, samples, warnings, cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignzoo.compare.results import CellResult, Compared, Results
from alignzoo.errors import PluginError
from alignzoo.files import read_json, read_lines
from alignzoo.recipe.fields import fields_of, paragraphs
from alignzoo.registry import Registry
from alignzoo.registry.registrar import needs_of

Line = dict[str, Any]

PROMPTS = 8
"""The number of prompts of which also what was answered on the way is shown, and at least so many are shown at all."""

LETTERS = 1_500_000
"""So much text of answers a task's browser holds at most: of long answers fewer prompts are shown."""

TRAINED = 6
"""How many samples of training are shown of each algorithm and task."""


@dataclass(frozen=True)
class Mark:
    """An evaluation on the way, and what had been spent by then."""

    stage: str
    step: int
    tokens: float
    seconds: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Curve:
    """A run's evaluations, in order."""

    cell: CellResult
    marks: tuple[Mark, ...]
    own_reward: bool = False
    """Whether its recipe brings a reward of its own, by which it is measured on the way, and not by the task's."""

    @property
    def algorithm(self) -> str:
        return self.cell.algorithm

    def gains(self, metric: str) -> list[tuple[Mark, float]]:
        """The figure less that of the start, on the same prompts with the same draws."""
        known = [(mark, mark.figures[metric]) for mark in self.marks if metric in mark.figures]
        return [(mark, value - known[0][1]) for mark, value in known]

    @property
    def from_the_start(self) -> bool:
        """Whether its KL is one to the policy that all start from: later stages count theirs from their own start."""
        return len({mark.stage for mark in self.marks}) == 1


def curves(folder: Path, results: Results) -> list[Curve]:
    """The learning curve of every cell that trained, over what all stages so far have spent."""
    found = []
    rewards = {cell.id: _reward(folder / cell.folder) for cell in results.cells}
    tasks_own = {cell.task: reward for cell in results.cells if (reward := rewards[cell.id])[0] == "evaluator"}
    for cell in results.cells:
        if cell.role in ("algorithm", "random"):
            marks = tuple(_marks(folder / cell.folder / "run"))
            whose, reward = rewards[cell.id]
            if marks:
                own = whose == "online" and reward != tasks_own.get(cell.task, ("", reward))[1]
                found.append(Curve(cell, marks, own))
    return found


def _reward(cell: Path) -> tuple[str, Any]:
    """The reward of a cell's last stage, and who it is: the recipe that measures all cells, another that writes, or one
    that learns from given answers."""
    plan, manifest = cell / "plan.json", cell / "run" / "manifest.json"
    if not (plan.exists() and manifest.exists()):
        return "", None
    cells_plan, stages = (read_json(path) for path in (plan, manifest))
    reward = stages["recipe"]["stage"][-1].get("reward")
    if cells_plan["recipe"] == cells_plan["evaluator"] and cells_plan["role"] == "algorithm":
        return "evaluator", reward
    lines = read_lines(cell / "run" / "metrics.jsonl")
    return "online" if lines and lines[-1].get("tokens/generated") else "given", reward


def _marks(run: Path) -> Iterator[Mark]:
    seconds = {(line["stage"], line["step"]): line for line in read_lines(run / "seconds.jsonl")}
    spent: dict[tuple[str, int], tuple[float, float]] = {}
    tokens = clock = 0.0
    for line in read_lines(run / "metrics.jsonl"):
        key = (line["stage"], line["step"])
        spent.setdefault((line["stage"], 0), (tokens, clock))
        tokens += line.get("tokens/generated", 0.0) + line.get("tokens/trained", 0.0)
        clock += sum(value for name, value in seconds.get(key, {}).items() if name.startswith("seconds/"))
        spent[key] = (tokens, clock)
    for line in read_lines(run / "evaluations.jsonl"):
        figures = line.get("before") or line.get("during") or line.get("after") or {}
        key = (line["stage"], line["step"])
        if "length" in figures and key in spent:
            yield Mark(line["stage"], line["step"], *spent[key], figures)


@dataclass(frozen=True)
class Warned:
    """What observers warned of in the runs of an algorithm on a task: one kind."""

    task: str
    algorithm: str
    kind: str
    steps: Sequence[int]
    """After which steps."""
    warned: int
    """In how many runs, ..."""
    runs: int
    """... of so many that took a step."""
    message: str
    """That of the first."""


def warnings(folder: Path, results: Results) -> list[Warned]:
    """What observers warned of while the runs went on, the same of all seeds together."""
    runs: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str, str], list[Line]] = {}
    for cell in results.cells:
        if cell.role == "trial":
            continue
        run = folder / cell.folder / "run"
        key = (cell.task, cell.algorithm)
        runs[key] = runs.get(key, 0) + (run / "metrics.jsonl").exists()
        for line in read_lines(run / "warnings.jsonl"):
            found.setdefault((*key, line["kind"]), []).append({**line, "cell": cell.id})
    return [
        Warned(
            task,
            algorithm,
            kind,
            steps=[line["step"] for line in lines],
            warned=len({line["cell"] for line in lines}),
            runs=runs[task, algorithm],
            message=lines[0]["message"],
        )
        for (task, algorithm, kind), lines in found.items()
    ]


# --- samples ----------------------------------------------------------------------------------------------------------


def samples(folder: Path, results: Results) -> dict[str, Any]:
    """For the browser of samples: of each task the held-out prompts, and what every algorithm answered to each at each
    checkpoint; and some of what was sampled in training. Of each algorithm's first seed that has figures."""
    found: dict[str, Any] = {}
    for task in results.tasks:
        shown = _first_cells(results, task)
        prompts: dict[str, int] = {}
        answers: list[Line] = []
        trained: list[Line] = []
        for cell in shown:
            answers += [_answer(line, cell, prompts) for line in _held_out(folder / cell.folder)]
            trained += list(_trained(folder / cell.folder, cell))
        shown_prompts = _fit(answers, len(prompts))
        kept = [a for a in answers if a["prompt"] < shown_prompts and (a["prompt"] < PROMPTS or a["when"] == "end")]
        found[task] = {
            "metric": results.metric[task],
            "asked": len(prompts),
            "prompts": list(prompts)[:shown_prompts],
            "algorithms": [{"label": cell.algorithm, "seed": cell.seed, "role": cell.role} for cell in shown],
            "answers": kept,
            "training": trained,
        }
    return found


def _fit(answers: Sequence[Line], prompts: int) -> int:
    """So many prompts' final answers are no more text than a page should hold."""
    letters = [0] * prompts
    for each in answers:
        if each["when"] == "end":
            letters[each["prompt"]] += len(each["text"])
    total = 0
    for number, size in enumerate(letters):
        total += size
        if total > LETTERS and number >= PROMPTS:
            return number
    return prompts


def _first_cells(results: Results, task: str) -> list[CellResult]:
    """One cell of each algorithm and control."""
    found: dict[str, CellResult] = {}
    for cell in results.cells:
        if cell.task == task and cell.role != "trial" and cell.has_figures:
            found.setdefault(cell.algorithm, cell)
    return list(found.values())


def _held_out(cell: Path) -> Iterator[Line]:
    """Answers to held-out prompts: those on the way, then the final ones, each with its checkpoint's name."""
    lines = read_lines(cell / "run" / "samples.jsonl")
    last = lines[-1]["stage"] if lines else ""
    for line in lines:
        if line["when"] == "during" and line["stage"] == last:
            yield {**line, "asked": line["prompt"], "text": line["completion"], "when": f"step {line['step']}"}
    for line in read_lines(cell / "answers.jsonl"):
        columns = {"ref_logprobs": line.get("start_logprobs"), "tokens": line.get("pieces")}
        yield {**line, **columns, "when": "end, greedy" if line["greedy"] else "end"}


def _answer(line: Line, cell: CellResult, prompts: dict[str, int]) -> Line:
    """One answer as the page takes it."""
    return {
        "algorithm": cell.algorithm,
        "prompt": prompts.setdefault(spoken(line["asked"]), len(prompts)),
        "when": line["when"],
        "text": line["text"],
        "finished": line["finished"],
        **_judged(line),
        **_tokens(line),
    }


def _trained(folder: Path, cell: CellResult) -> Iterator[Line]:
    """Some samples of the last step of training that was written down."""
    lines = [line for line in read_lines(folder / "run" / "samples.jsonl") if line["when"] == "training"]
    for line in [line for line in lines if line["step"] == lines[-1]["step"]][:TRAINED]:
        yield {
            "algorithm": cell.algorithm,
            "asked": spoken(line["prompt"]),
            "when": f"step {line['step']}",
            "text": line["completion"],
            "finished": line["finished"],
            **_judged(line),
            **_tokens(line),
        }


def _judged(line: Line) -> Line:
    """What was said of it: numbers by name, and the judge's note."""
    said = {name: line[name] for name in ("gold", "accuracy", "reward", "preference") if line.get(name) is not None}
    return {"said": {name: round(value, 3) for name, value in said.items()}, "note": line.get("note", "")}


def _tokens(line: Line) -> Line:
    """Tokens and their columns, where they are all there: None of tokens that were not trained on; and which tokens are
    not the policy's own."""
    tokens = line.get("tokens") or ()
    if not tokens or not all(isinstance(each, str) for each in tokens):
        return {}
    named = {"logprob": "logprobs", "reference": "ref_logprobs", "advantage": "advantages"}
    columns = {short: line.get(name) for short, name in named.items()}
    whole = {short: values for short, values in columns.items() if values and len(values) == len(tokens)}
    found = {short: [None if v is None else round(v, 3) for v in values] for short, values in whole.items()}
    own = line.get("own")  # of training, one truth value a token; of an evaluation, how many there are
    foreign = [place for place, ours in enumerate(own) if not ours] if isinstance(own, list) else []
    return {"tokens": list(tokens), **found, **({"foreign": foreign} if foreign else {})}


def spoken(messages: Any) -> str:
    """A prompt as one text."""
    if isinstance(messages, str):
        return messages
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


# --- cards ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """An algorithm as it ran here."""

    compared: Compared
    title: str
    """The optimizer's name."""
    owner: str
    doc: str
    needs: Sequence[str]
    fields: Sequence[Mapping[str, Any]]
    """Each setting with its value here, its default and its meaning."""
    rest: Mapping[str, Any]
    """The other parts of its last stage: policy, sampler, reward, schedule."""


def cards(folder: Path, results: Results, registry: Registry) -> list[Card]:
    """The card of every algorithm that was run, by the manifest of its first cell."""
    found = []
    for compared in results.algorithms:
        cells = [cell for cell in results.cells if cell.algorithm == compared.label and cell.role == compared.role]
        manifests = [folder / cell.folder / "run" / "manifest.json" for cell in cells]
        path = next((path for path in manifests if path.exists()), None)
        if compared.role == "algorithm" and path is not None:
            found.append(_card(compared, read_json(path), registry))
    return found


def _card(compared: Compared, manifest: Mapping[str, Any], registry: Registry) -> Card:
    stage = manifest["recipe"]["stage"][-1]
    optimizer = stage["optimizer"] if isinstance(stage["optimizer"], dict) else {"name": stage["optimizer"]}
    settings = {key: value for key, value in optimizer.items() if key != "name"}
    name = str(optimizer["name"])
    rest = {key: stage[key] for key in ("policy", "sampler", "reward", "data", "schedule") if key in stage}
    try:
        cls: Any = registry.get("optimizer", name)
    except PluginError:  # the report may be written where its plugin is no longer installed
        rows = [{"name": key, "value": value, "default": None, "meaning": ""} for key, value in settings.items()]
        return Card(compared, name, "not installed here", "", (), rows, rest)
    cls = cls if isinstance(cls, type) else type(cls)
    plain = name.rpartition("/")[2]
    owner = next((each.owner for each in registry.list("optimizer") if each.name == plain), "")
    rows = [
        {"name": f.name, "value": settings.get(f.name, f.default), "default": f.default, "meaning": f.meaning}
        for f in fields_of(cls)
    ]
    return Card(compared, name, owner, paragraphs(cls.__doc__ or ""), sorted(needs_of(cls)), rows, rest)
