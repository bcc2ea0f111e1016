"""What the data bear, in words; and what a reader must know to judge them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scipy import stats

from alignzoo.compare import alongside, marks, overall
from alignzoo.compare.plan import TOLERANCE, Plan
from alignzoo.compare.results import CHAIN, Compared, Headline, Pair, Results

NAMED = 3
"""So many undecided pairs are named in a sentence; of more, the largest differences, and the table has them all."""


def headlines(results: Results) -> Iterator[Headline]:
    """A sentence or several for each task."""
    for task in results.tasks:
        for text in _of_task(results, task):
            yield Headline(task, text)


def _of_task(results: Results, task: str) -> Iterator[str]:
    pairs = [pair for pair in results.pairs if pair.task == task]
    among = sorted((oriented(p) for p in pairs if p.family == "algorithms"), key=lambda p: -p.difference)
    for pair in among:
        if pair.significant:
            yield f"{pair.a} beats {pair.b} on {task} by {_by(pair)}{marks.terms(results, task, pair.a, pair.b)}."
    yield from _undecided([pair for pair in among if not pair.significant], task)
    controls = (each for each in results.algorithms if each.role in CHAIN)
    for control in sorted(controls, key=lambda each: CHAIN.index(each.role)):
        yield from _against(control, [pair for pair in pairs if pair.b == control.label], results, task)
    yield from _random(results, pairs, task)
    for column in results.columns:
        if column.task == task:
            yield from alongside.sentences(column)
    yield from _runs(results, task)
    yield from _past_the_kl(results, task)


def oriented(pair: Pair) -> Pair:
    """With the better one first."""
    if pair.difference >= 0:
        return pair
    low, high = (None, None) if pair.low is None or pair.high is None else (-pair.high, -pair.low)
    return replace(
        pair, a=pair.b, b=pair.a, difference=-pair.difference, low=low, high=high, improvement=1 - pair.improvement
    )


def _by(pair: Pair) -> str:
    if pair.low is None or pair.high is None:
        return f"{pair.difference:.2f} {pair.metric}"
    near = min(abs(pair.low), abs(pair.high))  # an interval that leaves out 0 must not be printed as if it ended there
    digits = 2 if not pair.shown or near >= 0.005 else 3 if near >= 0.0005 else 4
    return f"{pair.difference:.{digits}f} [{pair.low:.{digits}f}, {pair.high:.{digits}f}] {pair.metric}"


def _undecided(pairs: Sequence[Pair], task: str) -> Iterator[str]:
    if pairs and all(pair.p is None for pair in pairs):
        few, fix = "one seed", "--seeds 3 or more"
        if pairs[0].n_seeds > 1:
            few = f"{'one' if pairs[0].n_prompts else 'no'} held-out prompt that all runs have a score for"
            fix = "more data, or hold out more of them (data.heldout)"
        yield f"On {task} {few} cannot tell the algorithms apart: give {fix}."
        return
    for pair in pairs:
        if pair.low is None:
            yield f"On {task}, {pair.a} and {pair.b} score alike in every answer of every run."
    pairs = [pair for pair in pairs if pair.low is not None]
    if not pairs:
        return
    shown = pairs if len(pairs) <= NAMED else pairs[: NAMED - 1]
    named = [f"between {pair.a} and {pair.b} ({_by(pair)})" for pair in shown]
    named += [f"in {len(pairs) - len(shown)} other pairs"] if len(pairs) > len(shown) else []
    beyond = "the interval" if len(pairs) == 1 else "the intervals"
    told = f"differences beyond {beyond} are excluded"
    if all((pair.low, pair.high) == (-1.0, 1.0) for pair in pairs):  # of shares there are no others
        told = "no difference is excluded"
    yield f"On {task}, at n = {pairs[0].n_seeds}, no difference is shown {', nor '.join(named)}; {told}."


def _against(control: Compared, pairs: Sequence[Pair], results: Results, task: str) -> Iterator[str]:
    """The algorithms against a control, which is second in all pairs."""
    pairs = [p for p in pairs if p.p is not None and results.compared(p.a).role == "algorithm"]
    better = [pair for pair in pairs if pair.significant and pair.difference > 0]
    worse = [pair for pair in pairs if pair.significant and pair.difference < 0]
    undecided = [pair for pair in pairs if pair.reached and not pair.shown]
    left_out = [pair.a for pair in pairs if not pair.reached]
    if not better and not worse and not undecided:
        return
    said = [f"{_list(list(map(_named, better)))} {_are(better)} better"] if better else []
    said += [f"{_list(list(map(_named, worse)))} {_are(worse)} worse"] if worse else []
    if len(undecided) == len(pairs) > NAMED:
        said.append("no difference is shown for any algorithm")
    elif undecided:
        said.append(f"no difference is shown for {_list(list(map(_named, undecided)))}")
    if left_out:
        said.append(f"{_list(left_out)} {_are(left_out)} not tested, not being better than the controls before")
    yield f"Against {control.label} on {task}: {'; '.join(said)}."


def _named(pair: Pair) -> str:
    return f"{pair.a} ({_by(pair)})"


def _are(several: Sequence[object]) -> str:
    return "is" if len(several) == 1 else "are"


def _random(results: Results, pairs: Sequence[Pair], task: str) -> Iterator[str]:
    for pair in pairs:
        roles = results.compared(pair.a).role, results.compared(pair.b).role
        if roles == ("random", "start") and pair.significant:
            gained = pair.difference > 0
            how, meaning = ("gained", ": so much is not learning") if gained else ("lost", "")
            yield f"Training on a reward that says nothing {how} {_by(oriented(pair))} on {task}{meaning}."


def _runs(results: Results, task: str) -> Iterator[str]:
    """Runs and trials that failed, and what runs have spent."""
    limit = marks.kl_limit(results)
    for each in results.algorithms:
        mine = marks.runs(results, task, each.label)
        n = len(mine)
        for status in ("failed", "diverged"):
            failed = sum(cell.status == status for cell in mine)
            if failed:
                yield f"{failed} of {n} runs of {each.label} on {task} {status}{_rule(failed, n, results, task, each)}."
        share = marks.spent(results, task, each.label)
        over = sum(cell.status == "over-budget" for cell in mine)
        told = "" if share is None else f": they spent {100 * share:.1f} % of it on the average"
        if over and all(cell.costs.get("tokens/trained") == 0 for cell in mine):
            yield (
                f"{each.label} has trained nothing on {task}, since the stages that generate took all of the "
                f"budget{told}. Give those fewer steps, as in '{each.label}[STAGE.schedule.steps=4]', or a larger "
                "budget."
            )
        elif over:
            yield f"{over} of {n} runs of {each.label} on {task} went over the budget{told}."
        elif limit is not None:
            short = marks.before_the_limit(results, task, each.label)
            after = "" if share is None else f", after {100 * share:.0f} % of the budget on the average"
            if short:
                yield f"{short} of {n} runs of {each.label} on {task} ended before their KL came to {limit:g}{after}."
        elif share is not None and share < 1 - TOLERANCE:
            yield f"The runs of {each.label} on {task} ended short of the budget{told}."
        trials = [c for c in results.cells if (c.task, c.algorithm, c.role) == (task, each.label, "trial")]
        lost = sum(cell.status != "ok" for cell in trials)
        if lost and lost == len(trials):
            yield f"All {lost} trials of {each.label} on {task} failed: it ran untuned, with its own setting."
        elif lost:
            yield f"{lost} of {len(trials)} trials of {each.label} on {task} failed; it was tuned by the rest."


def _past_the_kl(results: Results, task: str) -> Iterator[str]:
    """Whose runs have gone well past the KL where they were to end, the furthest first."""
    limit = marks.kl_limit(results)
    if limit is None:
        return
    after = ((marks.kl_after(results, task, each.label), each.label) for each in results.algorithms)
    past = sorted(((kl, label) for kl, label in after if kl is not None and kl / limit - 1 > marks.NEAR), reverse=True)
    if past:
        shown = past if len(past) <= NAMED else past[: NAMED - 1]
        named = [f"of {label} at {kl:.2f}" for kl, label in shown]
        named += [f"of {len(past) - len(shown)} others"] if len(past) > len(shown) else []
        yield (
            f"On {task} runs ended more than a quarter past a KL of {limit:g}: those {_list(named)}. A step goes that "
            "far, or each of several stages does; a smaller schedule.lr ends nearer."
        )


def _rule(failed: int, n: int, results: Results, task: str, of: Compared) -> str:
    """How runs that failed are counted, and how often runs may fail."""
    if not any(cell.has_figures for cell in marks.runs(results, task, of.label)):
        return ", so that it has no mean and no rank"
    low, high = stats.binomtest(failed, n).proportion_ci(0.95, method="exact")
    return (
        f" (95 %: {100 * low:.0f} to {100 * high:.0f} % of runs do) and counted as the worse of the start and of its "
        "worst run that ended"
    )


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def notes(plan: Plan, results: Results) -> Iterator[str]:
    """How the figures were made."""
    asked = sorted(set(results.settings["answered prompts"].values())) or [plan.prompts]
    prompts = " or ".join(map(str, asked))
    yield (
        f"Every algorithm starts from the same policy, answers the same {prompts} held-out prompts with the same "
        "draws, and is measured alike. What it is trained on differs: "
        + "; ".join(f"{each.label}: {each.data}" for each in results.algorithms if each.data)
        + "."
    )
    if "preference" in results.metric.values():
        yield (
            "Nothing scores sampled answers here, so that held-out pairs are compared: the share of which the policy "
            "has raised the better answer more than the worse one, against the start, which has 0.5 by itself; and the "
            "loss, -log π a token, on the better answers. An algorithm that is trained on pairs is trained for the "
            "first of these. With --judge sampled answers are compared, too."
        )
    yield from _scored(results)
    if limit := marks.kl_limit(results):
        yield (
            f"Each run ends where its KL to the start reaches {limit:g} nats per sequence"
            f"{f', or where it has spent {plan.budget}' if plan.budget else ''}; a step that generates measures the KL "
            "of its completions, and an evaluation on the way that of held-out ones: it is reached with an error. Of "
            "several stages each measures the KL to its own start: how far all have come is in the table."
        )
    elif plan.budget:
        yield f"Each run trains until it has spent {plan.budget}, to the nearest step; evaluation is not counted."
    else:
        yield "No budget was given: each recipe takes its own number of steps, so costs differ. See the costs."
    yield from _tuned(plan, results)
    yield from _inference(plan, results)
    if results.columns:
        yield (
            f"{', '.join(dict.fromkeys(each.name for each in results.columns))}: measured after training, of greedy "
            "answers or of given ones, item by item, the start once. Differences are paired by seed and item; the "
            "intervals of all these columns hold together, those between algorithms by themselves, and those to the "
            "start."
        )
    if plan.judge == "gold" and set(results.metric.values()) == {"preference"}:
        return
    if plan.judge == "gold":
        yield (
            "Win-rates are judged by the task's hidden gold score; where it has none, by accuracy or else the reward."
        )
    else:
        yield (
            f"Win-rates are judged by {plan.judge}, each pair of answers in both orders, averaged; equal texts, and "
            "what the judge abstains from, are ties."
        )


def _scored(results: Results) -> Iterator[str]:
    """Prompts that not every run has a score for."""
    for task, answered in results.settings["answered prompts"].items():
        used = min((pair.n_prompts for pair in results.pairs if pair.task == task), default=answered)
        if used < answered:
            yield f"On {task}, {answered - used} of {answered} prompts are left out: some run has no score for them."


def _tuned(plan: Plan, results: Results) -> Iterator[str]:
    trials = {each.trials for each in results.algorithms if each.role == "algorithm"}
    if not plan.trials or trials == {0}:
        yield "Nothing was tuned: each algorithm ran with its recipe's setting, so this compares recipes."
        return
    ended = "" if trials == {plan.trials} else f", of which at least {min(trials)} ended"
    yield (
        f"Each algorithm was given {plan.trials} trials on each task{ended}, its recipe's setting among them, chosen "
        f"by the reward{_bounded(plan)} on held-out prompts and a seed that the comparison does not use; equal trials "
        "are drawn for."
    )


def _bounded(plan: Plan) -> str:
    return "" if plan.trial_kl is None else f" among those within a KL of {plan.trial_kl:g}"


def _inference(plan: Plan, results: Results) -> Iterator[str]:
    level, looks = results.settings["level"], results.settings["looks"]
    yield (
        "Intervals and tests of a task treat seeds and prompts as crossed random effects, paired by both; the variance "
        "between runs is shrunk towards what the algorithms have in common. A difference is shown where its interval "
        f"leaves out 0: with {100 * (1 - level):.1f} % at least all intervals between algorithms, of all tasks, hold "
        "together; and so do all to the start. The random reward and best-of-n are tested only for what was better "
        "than the controls before."
    )
    if len(looks) > 1:
        yield (
            f"These results were looked at with {_list(list(map(str, looks)))} seeds. Each look spends a part of the "
            f"5 %, look number j the part 6/(π²·j²): this one {100 * level:.2f} %."
        )
    else:
        yield (
            f"This look spends {100 * level:.1f} of the 5 %: the rest is kept for looks with more seeds, of which "
            "number j spends the part 6/(π²·j²)."
        )
    if plan.seeds < 5:
        seeds = "One seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
        yield f"{seeds}: five or more are better; with few, only large differences show."
    if len(results.tasks) >= overall.TASKS and plan.seeds < overall.RUNS:
        yield f"Figures of all tasks together take {overall.RUNS} seeds or more, and are left out."
