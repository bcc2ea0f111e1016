"""Every number and sentence of a comparison, from its raw files, by numpy and scipy alone: nothing of alignzoo is used.

    python tests/compare/recompute.py DIR     # says what differs from DIR/results.json

Formulas are written out for one pair of algorithms at a time, as docs/compare.md has them.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

PRIOR, FLOOR = 2.5, 0.1
FIGURES = ("gold", "accuracy", "reward", "preference")


def lines(path: Path) -> list[dict[str, Any]]:
    """Those of a file of JSON lines, packed by gzip or not; none of one that is not there."""
    if not path.exists():
        return []
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


class Raw:
    """What a comparison's folder holds."""

    def __init__(self, folder: Path) -> None:
        self.results = json.loads((folder / "results.json").read_text())
        cells = [cell for cell in self.results["cells"] if cell["role"] != "trial"]
        self.cells = cells
        self.tasks = list(dict.fromkeys(cell["task"] for cell in cells))
        self.roles = {cell["algorithm"]: cell["role"] for cell in cells}
        self.answers: dict[str, list[dict[str, Any]]] = {cell["id"]: [] for cell in cells}
        self.verdicts = lines(folder / "verdicts.jsonl") or lines(folder / "verdicts.jsonl.gz")
        published = folder / "answers.jsonl.gz"
        if published.exists():
            for answer in lines(published):
                self.answers[answer["cell"]].append(answer)
            return
        for cell in cells:
            every = lines(folder / "cells" / cell["id"] / "answers.jsonl")
            self.answers[cell["id"]] = [answer for answer in every if not answer["greedy"]]

    @property
    def level(self) -> float:
        return 6 * 0.05 / (math.pi * len(self.results["settings"]["looks"])) ** 2

    def of(self, task: str, label: str) -> list[dict[str, Any]]:
        return [cell for cell in self.cells if (cell["task"], cell["algorithm"]) == (task, label)]

    def metric(self, task: str) -> str:
        known = {name for cell in self.cells if cell["task"] == task for name in cell["after"]}
        return next(name for name in FIGURES if name in known)

    def table(self, task: str, metric: str) -> dict[str, np.ndarray]:
        """By label, (runs, prompts): runs that failed count as the worse of the start and the worst of their own."""
        rows: dict[str, dict[int, dict[int, float]]] = {}
        for label in self.roles:
            ended = {
                c["seed"]: self._row(c, metric) for c in self.of(task, label) if c["status"] in ("ok", "over-budget")
            }
            rows[label] = {seed: row for seed, row in ended.items() if row}
        starts = rows["start"]
        seeds = sorted({cell["seed"] for cell in self.cells if cell["task"] == task})
        for label, mine in rows.items():
            if mine:
                worst = min(mine.values(), key=lambda row: np.mean(list(row.values())))
                fallen = {s: min(starts.get(s, worst), worst, key=lambda r: np.mean(list(r.values()))) for s in seeds}
                rows[label] = {seed: mine.get(seed, fallen[seed]) for seed in seeds}
        rows = {label: mine for label, mine in rows.items() if mine}
        every = [set(row) for mine in rows.values() for row in mine.values()]
        shared = sorted(set.intersection(*every)) if every else []
        return {label: np.array([[row[p] for p in shared] for row in mine.values()]) for label, mine in rows.items()}

    def _row(self, cell: dict[str, Any], metric: str) -> dict[int, float]:
        values: dict[int, list[float]] = {}
        for answer in self.answers[cell["id"]]:
            if answer.get(metric) is not None:
                values.setdefault(answer["prompt"], []).append(answer[metric])
        return {prompt: float(np.mean(mine)) for prompt, mine in values.items()}


def squares(d: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of runs, prompts and the rest."""
    k, p = d.shape
    run, prompt, mean = d.mean(1, keepdims=True), d.mean(0, keepdims=True), d.mean()
    rest = d - run - prompt + mean
    return (
        float(p * ((run - mean) ** 2).sum() / (k - 1)),
        float(k * ((prompt - mean) ** 2).sum() / (p - 1)),
        float((rest**2).sum() / ((k - 1) * (p - 1))),
    )


class Estimate:
    def __init__(self, d: np.ndarray, pooled: float | None, independent: float, kind: str) -> None:
        self.k, self.p_ = d.shape
        self.mean, self.kind = float(d.mean()), kind
        self.nothing = not d.any()
        if self.k == 1:  # over the prompts of one run
            variance = float(d.var(ddof=1)) or FLOOR * self.mean**2
            self.nu, self.runs, self.prompts = 1.0, 0.0, variance / self.p_
            return
        runs, prompts, rest = squares(d)
        w = PRIOR / (PRIOR + self.k - 1) if pooled is not None and independent > 1 else 0.0
        runs = (1 - w) * runs + w * pooled if pooled is not None else runs
        self.nu = (self.k - 1) / ((1 - w) ** 2 * (1 - 1 / independent) + 1 / independent) if w else self.k - 1
        self.runs = max(runs, FLOOR * rest) / d.size
        self.prompts = max(prompts - rest, 0.0) / d.size

    def half(self, level: float) -> float:
        total = self.runs + self.prompts
        few, many = stats.t.isf(level / 2, self.nu), stats.t.isf(level / 2, self.p_ - 1)
        return float((self.runs * few + self.prompts * many) / total * math.sqrt(total))

    def interval(self, level: float) -> tuple[float, float]:
        if self.kind == "share":
            return self.wilson(level)
        half = self.half(level)
        if self.kind == "difference":
            half = max(half, 1 - level ** (1 / self.p_))
            return max(-1.0, self.mean - half), min(1.0, self.mean + half)
        return self.mean - half, self.mean + half

    def wilson(self, level: float) -> tuple[float, float]:
        m, total = self.mean, self.runs + self.prompts
        if 0 < m < 1 and not total:
            n, z = self.k * self.p_, float(stats.t.isf(level / 2, self.nu))
        elif 0 < m < 1:
            n = min(m * (1 - m) / total, self.k * self.p_)
            z = self.half(level) / math.sqrt(total)
        else:
            n, z = self.p_, float(stats.t.isf(level / 2, self.p_ - 1))
        ends = [(m + z * z / (2 * n) + s * z * math.sqrt(m * (1 - m) / n + z * z / (4 * n * n))) for s in (-1, 1)]
        return max(0.0, ends[0] / (1 + z * z / n)), min(1.0, ends[1] / (1 + z * z / n))

    @property
    def p(self) -> float:
        if self.mean == 0:
            return 1.0
        p = optimize.brentq(lambda log: self.half(math.exp(log)) - abs(self.mean), math.log(1e-100), 0)
        p = math.exp(p)
        return max(p, (1 - abs(self.mean)) ** self.p_) if self.kind == "difference" else p


def right_or_wrong(table: dict[str, np.ndarray], metric: str) -> bool:
    return metric in ("accuracy", "preference") or all(np.isin(values, (0, 0.5, 1)).all() for values in table.values())


def verdict(e: Estimate, family: int, level: float) -> dict[str, Any]:
    if e.nothing and e.kind == "any":
        return {"difference": 0.0, "low": None, "high": None, "p": 1.0, "p_adjusted": 1.0, "shown": False}
    low, high = e.interval(level / family)
    shown = low > 0 or high < 0
    return {
        "difference": e.mean, "low": low, "high": high, "p": e.p, "p_adjusted": min(1, family * e.p), "shown": shown,
    }  # fmt: skip


def standings(raw: Raw) -> dict[tuple[str, str, str], dict[str, Any]]:
    found = {}
    for task, metric in itertools.product(raw.tasks, FIGURES):
        table = raw.table(task, metric)
        table = {label: values for label, values in table.items() if values.size}
        ours = [label for label in table if raw.roles[label] == "algorithm"]
        pooled = float(np.mean([squares(table[label])[0] for label in ours])) if len(ours) > 1 else None
        kind = "share" if table and right_or_wrong(table, metric) else "any"
        for label, values in table.items():
            low, high = Estimate(values, pooled, len(ours), kind).interval(raw.level / len(table))
            lost = sum(cell["status"] in ("failed", "diverged") for cell in raw.of(task, label))
            runs = values.mean(1)
            found[task, label, metric] = {
                "values": runs.tolist(), "mean": values.mean(), "iqm": stats.trim_mean(runs, 0.25), "low": low,
                "high": high, "failed": lost,
            }  # fmt: skip
    return found


def pairs(raw: Raw) -> dict[tuple[str, str, str], dict[str, Any]]:
    tables = {task: raw.table(task, raw.metric(task)) for task in raw.tasks}
    ours = {task: [label for label in table if raw.roles[label] == "algorithm"] for task, table in tables.items()}
    among = {task: list(itertools.combinations(labels, 2)) for task, labels in ours.items()}
    n_pairs, n_chains = sum(map(len, among.values())), sum(map(len, ours.values()))
    found = {}
    for task, table in tables.items():
        kind = "difference" if right_or_wrong(table, raw.metric(task)) else "any"
        by_pair = {(a, b): table[a] - table[b] for a, b in among[task]}
        pooled = float(np.mean([squares(d)[0] for d in by_pair.values()])) if by_pair else 0.0
        for (a, b), d in by_pair.items():
            e = Estimate(d, pooled, len(ours[task]) - 1, kind)
            found[task, a, b] = verdict(e, n_pairs, raw.level) | {"reached": True}
        gate = dict.fromkeys(ours[task], True)
        for role in ("start", "random", "best-of"):
            for control in (label for label in table if raw.roles[label] == role):
                to = {label: table[label] - table[control] for label in ours[task]}
                pooled = float(np.mean([squares(d)[0] for d in to.values()]))
                n = len(to)
                for label, d in to.items():
                    told = verdict(Estimate(d, pooled, 4 * n / (n + 3), kind), n_chains, raw.level)
                    found[task, label, control] = told | {"reached": gate[label]}
                    gate[label] &= told["shown"] and told["difference"] > 0
        for control in (label for label in table if raw.roles[label] == "random"):
            e = Estimate(table[control] - table["start"], None, 1, kind)
            found[task, control, "start"] = verdict(e, len(tables), raw.level) | {"reached": True}
    return found


def scaled(raw: Raw, best: dict[str, float]) -> dict[str, list[np.ndarray]]:
    """By label, the runs of each task on a scale from the start, 0, to the best, 1; where they are enough."""
    if len(raw.tasks) < 2:
        return {}
    strata: dict[str, list[np.ndarray]] = {}
    for task in raw.tasks:
        table = raw.table(task, raw.metric(task))
        zero = table["start"].mean()
        one = best.get(task, max(values.mean(1).max() for values in table.values()))
        for label, values in table.items():
            strata.setdefault(label, []).append((values.mean(1) - zero) / (one - zero))
    return {k: v for k, v in strata.items() if len(v) == len(raw.tasks) and min(map(len, v)) >= 5}


def win_rates(raw: Raw) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By a judge's verdicts, else by the gold score, accuracy or the reward; ties are half."""
    found = {}
    said: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for each in raw.verdicts:
        rows = said.setdefault((each["task"], each["a"], each["b"]), {})
        rows.setdefault(each["seed"], []).append((each["a_first"] + each["b_first"]) / 2)
    for task in raw.tasks:
        for a, b in itertools.combinations(raw.roles, 2):
            ours, theirs = (
                {c["seed"]: raw.answers[c["id"]] for c in raw.of(task, x) if raw.answers[c["id"]]} for x in (a, b)
            )
            seeds = sorted(ours.keys() & theirs.keys())
            if not seeds:
                continue
            if raw.verdicts:
                wins = np.array([said[task, a, b][seed] for seed in seeds])
            else:
                wins = np.array([[_win(x, y) for x, y in zip(ours[s], theirs[s], strict=True)] for s in seeds])
            low, high = Estimate(wins, None, 1, "share").interval(0.05)
            figures = (wins.mean(), low, high, (wins == 0.5).mean(), wins.size)
            found[task, a, b] = dict(zip(("rate", "low", "high", "ties", "n"), figures, strict=True))
    return found


def _win(x: dict[str, Any], y: dict[str, Any]) -> float:
    a, b = (next(each[name] for name in FIGURES if each[name] is not None) for each in (x, y))
    return 1.0 if a > b else 0.5 if a == b else 0.0


def number(pair: dict[str, Any], metric: str) -> str:
    if pair["low"] is None:
        return f"{pair['difference']:.2f} {metric}"
    near = min(abs(pair["low"]), abs(pair["high"]))
    n = 2 if not pair["shown"] or near >= 0.005 else 3 if near >= 0.0005 else 4
    return f"{pair['difference']:.{n}f} [{pair['low']:.{n}f}, {pair['high']:.{n}f}] {metric}"


def joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def turned(a: str, b: str, pair: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    if pair["difference"] >= 0:
        return a, b, pair
    low, high = (None, None) if pair["low"] is None else (-pair["high"], -pair["low"])
    return b, a, {**pair, "difference": -pair["difference"], "low": low, "high": high}


def sentences(raw: Raw, task: str, every: dict[tuple[str, str, str], dict[str, Any]]) -> list[str]:
    """What the report says of a task with several seeds, with a budget in tokens or operations, or without one."""
    metric, ((currency, amount),) = raw.metric(task), (raw.results["settings"]["budget"] or {"": math.inf}).items()
    mine = {(a, b): pair for (t, a, b), pair in every.items() if t == task}
    spent, limit = {}, _kl_limit(raw)
    for label in raw.roles:
        costs = [
            c["costs"][currency]
            for c in raw.of(task, label)
            if currency and (c["status"] == "over-budget" or (c["status"] == "ok" and c["steps"]))
        ]
        spent[label] = np.mean(costs) / amount if costs else None
    algorithms = [label for label, role in raw.roles.items() if role == "algorithm"]
    among = [turned(a, b, pair) for (a, b), pair in mine.items() if a in algorithms and b in algorithms]
    among.sort(key=lambda each: -each[2]["difference"])
    told = []
    for a, b, pair in among:
        if pair["shown"]:
            shares = [spent[a], spent[b]]
            terms = f" at equal {currency}" if currency else " at their recipes' own steps"
            if None not in shares and max(shares) > 1.1 * min(shares):
                one, two = (f"{100 * share:.0f} %" for share in shares)
                terms = f", having spent {one} ({a}) and {two} ({b}) of the budget in {currency}"
            if limit is not None:
                terms = _at_kl(raw, task, limit, a, b)
            told.append(f"{a} beats {b} on {task} by {number(pair, metric)}{terms}.")
    undecided = [each for each in among if not each[2]["shown"]]
    for a, b, pair in undecided:
        if pair["low"] is None:
            told.append(f"On {task}, {a} and {b} score alike in every answer of every run.")
    undecided = [each for each in undecided if each[2]["low"] is not None]
    if undecided:
        n = len(raw.of(task, "start"))
        shown = undecided if len(undecided) <= 3 else undecided[:2]
        named = [f"between {a} and {b} ({number(pair, metric)})" for a, b, pair in shown]
        named += [f"in {len(undecided) - len(shown)} other pairs"] if len(undecided) > len(shown) else []
        beyond = "interval" if len(undecided) == 1 else "intervals"
        excluded = f"differences beyond the {beyond} are excluded"
        if all((pair["low"], pair["high"]) == (-1, 1) for _, _, pair in undecided):
            excluded = "no difference is excluded"
        told.append(f"On {task}, at n = {n}, no difference is shown {', nor '.join(named)}; {excluded}.")
    told += [*_controls(raw, task, mine, metric, algorithms), *_runs(raw, task, spent)]
    return [*told, *_past_the_kl(raw, task, limit)]


def _kl_limit(raw: Raw) -> float | None:
    """The KL at which all runs end, by the comparison's overrides."""
    said = [each.split("=")[1] for each in raw.results["settings"]["overrides"] if each.startswith("schedule.kl_stop=")]
    return float(said[-1]) if said else None


def _short_of_kl(raw: Raw, task: str, label: str) -> int:
    """How many runs ended for another reason than their KL, and with less of it."""
    limit = _kl_limit(raw) or 0.0
    trained = [c for c in raw.of(task, label) if c["status"] in ("ok", "over-budget") and c["steps"]]
    others = [each for each in trained if not each["stopped"].startswith("the KL reached")]
    return sum(each["after"].get("kl", 0.0) < limit for each in others)


def _measured_kl(raw: Raw, task: str, label: str) -> float:
    """What evaluations after training say of its runs; not a number where none does."""
    said = [c["after"]["kl"] for c in raw.of(task, label) if c["steps"] and "kl" in c["after"]]
    return float(np.mean(said)) if said else math.nan


def _at_kl(raw: Raw, task: str, limit: float, a: str, b: str) -> str:
    one, two = (_measured_kl(raw, task, label) for label in (a, b))
    if any(kl > 1.25 * limit or kl < 0.75 * limit for kl in (one, two)):
        return f" at KLs of {one:.2f} ({a}) and {two:.2f} ({b}), where runs were to end at {limit:g}"
    short = any(_short_of_kl(raw, task, label) for label in (a, b))
    return f" at a KL of {limit:g}" + (", which not all of their runs have come to" if short else "")


def _past_the_kl(raw: Raw, task: str, limit: float | None) -> list[str]:
    if limit is None:
        return []
    after = {label: _measured_kl(raw, task, label) for label in raw.roles}
    past = sorted((label for label in after if after[label] > 1.25 * limit), key=lambda label: -after[label])
    named = [f"of {label} at {after[label]:.2f}" for label in (past if len(past) <= 3 else past[:2])]
    named += [f"of {len(past) - 2} others"] if len(past) > 3 else []
    if not past:
        return []
    return [
        f"On {task} runs ended more than a quarter past a KL of {limit:g}: those {joined(named)}. A step goes that "
        "far, or each of several stages does; a smaller schedule.lr ends nearer."
    ]


def _controls(raw: Raw, task: str, mine: dict[Any, Any], metric: str, algorithms: list[str]) -> list[str]:
    told = []
    for control in (label for label, role in raw.roles.items() if role != "algorithm"):
        to = [(a, pair) for (a, b), pair in mine.items() if b == control and a in algorithms]
        said = []
        for word, sign in (("better", 1), ("worse", -1)):
            names = [
                f"{a} ({number(p, metric)})"
                for a, p in to
                if p["shown"] and p["reached"] and sign * p["difference"] > 0
            ]
            said += [f"{joined(names)} {'is' if len(names) == 1 else 'are'} {word}"] if names else []
        none = [f"{a} ({number(p, metric)})" for a, p in to if p["reached"] and not p["shown"]]
        if len(none) == len(to) > 3:
            said.append("no difference is shown for any algorithm")
        elif none:
            said.append(f"no difference is shown for {joined(none)}")
        out = [a for a, p in to if not p["reached"]]
        if said and out:
            are = "is" if len(out) == 1 else "are"
            said.append(f"{joined(out)} {are} not tested, not being better than the controls before")
        if said:
            told.append(f"Against {control} on {task}: {'; '.join(said)}.")
    for (a, b), pair in mine.items():
        if raw.roles[a] == "random" and raw.roles[b] == "start" and pair["shown"]:
            gained = pair["difference"] > 0
            how, meaning = ("gained", ": so much is not learning") if gained else ("lost", "")
            by = number(turned(a, b, pair)[2], metric)
            told.append(f"Training on a reward that says nothing {how} {by} on {task}{meaning}.")
    return told


def _runs(raw: Raw, task: str, spent: dict[str, Any]) -> list[str]:
    told = []
    for label in raw.roles:
        mine = raw.of(task, label)
        n = len(mine)
        for status in ("failed", "diverged"):
            k = sum(cell["status"] == status for cell in mine)
            if k and any(cell["status"] in ("ok", "over-budget") for cell in mine):
                low = stats.beta.ppf(0.025, k, n - k + 1)
                high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
                told.append(
                    f"{k} of {n} runs of {label} on {task} {status} (95 %: {100 * low:.0f} to {100 * high:.0f} % of "
                    "runs do) and counted as the worse of the start and of its worst run that ended."
                )
            elif k:
                told.append(f"{k} of {n} runs of {label} on {task} {status}, so that it has no mean and no rank.")
        over, share = sum(cell["status"] == "over-budget" for cell in mine), spent[label]
        which = "" if share is None else f": they spent {100 * share:.1f} % of it on the average"
        limit, short = _kl_limit(raw), _short_of_kl(raw, task, label)
        if over and all(cell["costs"].get("tokens/trained") == 0 for cell in mine):
            told.append(
                f"{label} has trained nothing on {task}, since the stages that generate took all of the budget{which}. "
                f"Give those fewer steps, as in '{label}[STAGE.schedule.steps=4]', or a larger budget."
            )
        elif over:
            told.append(f"{over} of {n} runs of {label} on {task} went over the budget{which}.")
        elif limit is not None and short:
            after = "" if share is None else f", after {100 * share:.0f} % of the budget on the average"
            told.append(f"{short} of {n} runs of {label} on {task} ended before their KL came to {limit:g}{after}.")
        elif limit is None and share is not None and share < 0.9:
            told.append(f"The runs of {label} on {task} ended short of the budget{which}.")
    return told


def differing(folder: Path, best: dict[str, float]) -> list[str]:
    """What of results.json is not what its raw files say."""
    raw = Raw(folder)
    told = raw.results
    wrong = []

    def check(what: str, said: Any, found: Any, tolerance: float = 1e-7) -> None:
        alike = said == found
        if not alike and said is not None and found is not None:
            alike = bool(np.allclose(said, found, rtol=tolerance, atol=tolerance))
        if not alike:
            wrong.append(f"{what}: {said}, recomputed {found}")

    lists = (
        ("standing", [s for s in told["standings"] if s["task"]], ("task", "algorithm", "metric"), standings(raw)),
        ("pair", told["pairs"], ("task", "a", "b"), every := pairs(raw)),
    )
    for kind, said, names, found in lists:
        check(f"the {kind}s", sorted("|".join(e[n] for n in names) for e in said), sorted("|".join(k) for k in found))
        for each in said:
            for name, value in found.get(tuple(each[n] for n in names), {}).items():
                check(f"{kind} {[each[n] for n in names]} {name}", each[name], value)
    rates = win_rates(raw) if told["win_rates"] else {}
    for each in told["win_rates"]:
        for name, value in rates.get((each["task"], each["a"], each["b"]), {}).items():
            check(f"win-rate {each['a']} {each['b']} {name}", each[name], value)
    strata = scaled(raw, best)
    overall = {s["algorithm"]: s for s in told["standings"] if not s["task"]}
    check("all tasks", sorted(overall), sorted(strata))
    for label, mine in strata.items():
        pooled = np.concatenate(mine)
        check(f"all tasks {label} mean", overall[label]["mean"], pooled.mean())
        check(f"all tasks {label} IQM", overall[label]["iqm"], stats.trim_mean(pooled, 0.25))
    for each in told["improvements"]:
        both = zip(strata[each["a"]], strata[each["b"]], strict=True)
        u = [stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in both]
        check(f"improvement {each['a']} {each['b']}", each["probability"], float(np.mean(u)))
    for task in raw.tasks:
        said = [h["text"] for h in told["headlines"] if h["task"] == task]
        found = sentences(raw, task, every)
        wrong += [f"said, not recomputed: {text}" for text in said if text not in found]
        wrong += [f"recomputed, not said: {text}" for text in found if text not in said]
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(differing(Path(sys.argv[1]), {})) or 0)
