"""Orders of methods that papers have found, beside what the zoo's grid shows: a table of docs/zoo.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

ORDERS: Sequence[tuple[str, str, str]] = (
    ("simpo", "dpo", "2405.14734 tab. 4"),
    ("dpo", "ipo", "2405.14734 tab. 4"),
    ("dpo", "cpo", "2405.14734 tab. 4"),
    ("dpo", "orpo", "2405.14734 tab. 4"),
    ("dpo", "slic", "2405.14734 tab. 4"),
    ("alphapo", "simpo", "2501.03884"),
    ("alpha-dpo", "dpo", "2410.10148"),
    ("simper", "dpo", "2502.00883"),
    ("mallows-po", "dpo", "2405.14953"),
    ("dr-dpo", "dpo", "2407.07880, labels with noise"),
    ("robust-dpo", "dpo", "2403.00409, labels with noise"),
    ("beta-dpo", "dpo", "2407.08639"),
    ("tdpo", "dpo", "2404.11999"),
    ("exo-pair", "dpo", "2402.00856"),
    ("odpo", "dpo", "2402.10571"),
    ("tr-dpo", "dpo", "2404.09656"),
    ("dpo-positive", "dpo", "2402.13228"),
    ("wpo", "dpo", "2406.11827"),
    ("cal-dpo", "dpo", "2412.14516"),
    ("rpo", "dpo", "2404.19733, reasoning"),
    ("apo-zero", "dpo", "2408.06266"),
    ("bco", "kto", "2404.04656"),
    ("dro-v", "kto", "2405.19107"),
    ("dft", "sft", "2508.05629"),
    ("gkd", "forward-kd", "2306.13649"),
    ("on-policy-distillation", "forward-kd", "2306.13649"),
    ("minillm", "forward-kd", "2306.08543"),
    ("distillm", "gkd", "2402.03898"),
    ("distillm", "minillm", "2402.03898"),
    ("pro", "rrhf", "2306.17492"),
    ("lipo", "pl-dpo", "2402.01878"),
    ("opo-ndcg", "lipo", "2410.04346"),
    ("ppo", "a2c", "1707.06347, control"),
    ("apa", "ppo", "2306.02231"),
    ("dapo", "grpo", "2503.14476"),
    ("gspo", "grpo", "2507.18071"),
    ("gmpo", "grpo", "2507.20673"),
    ("cispo", "grpo", "2506.13585"),
    ("dcpo", "grpo", "2509.02333"),
    ("lite-ppo", "grpo", "2508.08221"),
    ("clip-cov", "grpo", "2505.22617"),
    ("kl-cov", "grpo", "2505.22617"),
    ("gpg", "grpo", "2504.02546"),
    ("opo", "grpo", "2505.23585"),
    ("rebel", "online-dpo", "2404.16767"),
    ("inpo", "online-dpo", "2407.00617"),
    ("inpo", "sppo", "2407.00617"),
    ("selm", "online-dpo", "2405.19332"),
    ("xpo", "online-dpo", "2405.21046"),
)
"""Which method a paper found to be better than which, and the paper."""

AGREES, CONTRARY, OPEN, UNTRIED = "agrees", "the other way round", "not told apart", "not compared"

HEAD = """## Published orders

What papers have found, with large models, data of their own and mostly with tuned settings, beside what the comparisons
above show of the same two methods with untuned ones: the difference of their held-out figures with its interval, which
is wide, as five seeds are few. *Not told apart* does not contradict a paper.
"""

NEAR = 1.25
"""Two KLs are the same where the larger is at most so many times the smaller."""

Comparisons = Sequence[tuple[str, Mapping[str, Any]]]


def section(equal_flops: Comparisons, equal_kl: Comparisons) -> Iterator[str]:
    """The lines of the section: sentences that count, and the table."""
    yield HEAD
    columns = []
    for when, comparisons in (("At equal FLOPs", equal_flops), ("At a common KL", equal_kl)):
        if not comparisons:
            continue
        columns.append(
            (when, [_shown(comparisons, better, worse, at_kl=comparisons is equal_kl) for better, worse, _ in ORDERS])
        )
        yield _counted(when, columns[-1][1])
        yield ""
    names = [f"{when[0].lower()}{when[1:]} | verdict" for when, _ in columns]
    yield f"| published as better | than | by | {' | '.join(names)} |"
    yield f"| --- | --- | --- | {' | '.join('--- | ---' for _ in columns)} |"
    for number, (better, worse, paper) in enumerate(ORDERS):
        link = f"[{paper[:10]}](https://arxiv.org/abs/{paper[:10]}){paper[10:]}"
        cells = [f"{shown.told} | {shown.verdict}" for shown in (found[number] for _, found in columns)]
        yield f"| `{better}` | `{worse}` | {link} | {' | '.join(cells)} |"


@dataclass(frozen=True)
class Seen:
    """What a comparison that has both methods shows of them."""

    verdict: str
    difference: float = 0.0
    told: str = "-"


def _counted(when: str, seen: Sequence[Seen]) -> str:
    """How many orders agree and how many do not, in words."""
    count = {verdict: sum(each.verdict == verdict for each in seen) for verdict in (AGREES, CONTRARY, OPEN, UNTRIED)}
    pairs = list(zip(ORDERS, seen, strict=True))

    def named(verdict: str) -> str:
        names = [f"`{better}` over `{worse}`" for (better, worse, _), each in pairs if each.verdict == verdict]
        return f" ({', '.join(names)})" if names else ""

    undecided = [each.difference for each in seen if each.verdict == OPEN]
    return (
        f"{when} {count[AGREES]} of {len(seen)} orders are seen here, too{named(AGREES)}, {count[CONTRARY]} the other "
        f"way round{named(CONTRARY)}, {count[OPEN]} are not told apart and {count[UNTRIED]} "
        f"{'has' if count[UNTRIED] == 1 else 'have'} not been compared. Of "
        f"those that are not told apart {sum(each > 0 for each in undecided)} lean the published way and "
        f"{sum(each < 0 for each in undecided)} the other."
    )


def apart(results: Mapping[str, Any], a: str, b: str) -> bool:
    """Whether one's runs have ended much further from the start than the other's."""
    ended = [
        fmean(c["after"]["kl"] for c in results["cells"] if c["algorithm"] == name and c["after"]) for name in (a, b)
    ]
    return max(ended) > NEAR * min(ended)


def _shown(comparisons: Comparisons, better: str, worse: str, *, at_kl: bool) -> Seen:
    for _, results in comparisons:
        trained = {cell["algorithm"] for cell in results["cells"] if cell["costs"].get("tokens/trained")}
        for pair in results["pairs"]:
            if {pair["a"], pair["b"]} != {better, worse} or not {better, worse} <= trained:
                continue
            if pair["low"] is None:
                return Seen(OPEN, 0.0, "the same in every answer")
            if at_kl and apart(results, better, worse):
                return Seen(UNTRIED, 0.0, "their KL is not the same")
            sign = 1 if pair["a"] == better else -1
            difference = sign * pair["difference"]
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            verdict = OPEN if not pair["shown"] else AGREES if difference > 0 else CONTRARY
            return Seen(verdict, difference, f"{difference:+.2f} [{low:.2f}, {high:.2f}]")
    return Seen(UNTRIED)
