"""What the votes show of the raters: figures, text for a terminal, HTML and JSON, for `alignzoo label report`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from alignzoo.judging.agreement import Estimate
from alignzoo.printable import escaped, printable
from alignzoo_human import bias, quality
from alignzoo_human.bias import Lengths
from alignzoo_human.findings import Figures, findings
from alignzoo_human.quality import KINDS, LEVELS, Alpha, Disputed, Kappa
from alignzoo_human.raters import MOST_CLASSES, dawid_skene
from alignzoo_human.votes import Kind, Value, Vote

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

ALWAYS_ONE = "undefined: both always say the same one thing"
"""What stands in the place of a κ that there is none of."""

LISTED = 10
"""How many disputed items and couples of raters the terminal shows."""


@dataclass(frozen=True)
class Summary:
    """What the votes show. A figure is None where there is nothing to tell it from."""

    votes: int
    """All votes, gold questions and repeats among them."""
    items: int
    """Different items, gold questions left out."""
    shared: int
    """Those with votes of two raters or more."""
    kinds: Mapping[Kind, int]
    """How many votes there are of each kind."""
    findings: tuple[str, ...]
    """What stands out, in sentences."""
    alphas: tuple[Alpha, ...]
    kappas: tuple[Kappa, ...]
    """Cohen's κ of every two raters, the lowest first."""
    raters: tuple[Figures, ...]
    """By name."""
    everyone: Figures
    """All raters together, in what can be told of all."""
    disputed: tuple[Disputed, ...]
    """The worst first."""
    titles: Mapping[str, str]
    """What to call each disputed item."""


def summary(
    votes: Sequence[Vote],
    lengths: Lengths,
    *,
    gold: Mapping[str, Value] | None = None,
    titles: Mapping[str, str] | None = None,
    raters: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Summary:
    """Everything that is told of raters.

    `lengths` has the words of each item's answers, `gold` the right verdicts of gold items, and `titles` a text for
    each item, its prompt say; whatever they lack is left out. With `raters` only these raters' votes count.
    """
    votes = [vote for vote in votes if raters is None or vote.rater in raters]
    names = sorted({vote.rater for vote in votes})
    kinds = {kind: n for kind in KINDS if (n := sum(vote.kind == kind for vote in votes))}
    said = {kind: quality.opinions(votes, kind) for kind in kinds}
    alphas = [
        Alpha(kind, level, quality.alpha(votes, kind, level, seed=seed, resamples=resamples))
        for kind in kinds
        for level in LEVELS[kind]
    ]
    kappas = [each for kind in kinds for each in quality.kappas(votes, kind, seed=seed, resamples=resamples)]
    disputed = tuple(quality.disputed(votes))
    modelled = _modelled(votes, max(kinds, key=kinds.__getitem__) if kinds else "pair", len(names))
    figures = tuple(_of_one(name, votes, lengths, gold or {}, modelled.get(name), seed) for name in names)
    shared = sum(len(by) > 1 for items in said.values() for by in items.values())
    items = sum(map(len, said.values()))
    return Summary(
        votes=len(votes),
        items=items,
        shared=shared,
        kinds=kinds,
        findings=tuple(findings(figures, alphas, items, shared)),
        alphas=tuple(alphas),
        kappas=tuple(sorted(kappas, key=lambda each: 2 if each.kappa is None else each.kappa.value)),
        raters=figures,
        everyone=_of_all(votes, lengths),
        disputed=disputed,
        titles={each.item: (titles or {}).get(each.item, each.item) for each in disputed},
    )


def _of_one(
    name: str, votes: Sequence[Vote], lengths: Lengths, gold: Mapping[str, Value], modelled: float | None, seed: int
) -> Figures:
    """The figures of one rater."""
    own = [vote for vote in votes if vote.rater == name]
    return Figures(
        rater=name,
        votes=len(own),
        self_consistency=bias.self_consistency(own, seed=seed),
        gold=bias.gold_accuracy(own, gold, seed=seed),
        ties=bias.tie_share(own),
        left=bias.left_share(own),
        longer=bias.longer_share(own, lengths),
        length_correlation=bias.length_correlation(own, lengths, seed=seed),
        seconds=median(vote.seconds for vote in own),
        too_fast=bias.too_fast(own, lengths),
        modelled_accuracy=modelled,
    )


def _of_all(votes: Sequence[Vote], lengths: Lengths) -> Figures:
    """What can be told of all votes together."""
    return Figures(
        rater="all",
        votes=len(votes),
        self_consistency=None,
        gold=None,
        ties=bias.tie_share(votes),
        left=bias.left_share(votes),
        longer=bias.longer_share(votes, lengths),
        length_correlation=None,
        seconds=median(vote.seconds for vote in votes) if votes else 0.0,
        too_fast=bias.too_fast(votes, lengths),
        modelled_accuracy=None,
    )


def _modelled(votes: Sequence[Vote], kind: Kind, n_raters: int) -> Mapping[str, float]:
    """Each rater's accuracy by Dawid and Skene's model; empty where two raters or fewer could not tell who is right."""
    values = {value for by in quality.opinions(votes, kind).values() for value in by.values()}
    if kind == "ranking" or n_raters < 3 or not 1 < len(values) <= MOST_CLASSES:
        return {}
    return dawid_skene(votes, kind).accuracy()


# --- shown -------------------------------------------------------------------------------------------------------


def to_json(found: Summary) -> str:
    """All of it as JSON, figures with their intervals."""
    return escaped(json.dumps(asdict(found), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


def to_text(found: Summary, *, width: int = 80) -> str:
    """The report as plain text of at most `width` columns."""
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=width, color_system=None, highlight=False).print(to_rich(found))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def to_html(found: Summary) -> str:
    """The report as one HTML file that needs nothing else, light or dark as its reader has it."""
    from alignzoo_human.report_page import page

    return page(found)


def to_rich(found: Summary) -> RenderableType:
    """The report as a terminal shows it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    listed = Table.grid(padding=(0, 1, 0, 0))
    for each in found.findings:
        listed.add_row(" •", Text(printable(each)))
    parts: list[RenderableType] = [Text(headline(found), style="bold"), Text(), listed, Text(), _alphas(found)]
    if found.kappas:
        parts.append(_kappas(found))
    parts += [_consistency(found), _biases(found)]
    if found.disputed:
        parts.append(_disputed(found))
    return Group(*parts, Text(LEGEND, style="dim"))


LEGEND = (
    "In brackets: 95 % intervals. Repeats: votes that are as before when an item comes again. Model: accuracy by "
    "Dawid and Skene's model, from all raters' votes. Left: wins of the answer on the left, 50 without bias. Longer: "
    "wins of the longer answer, which may be the better one: compare raters. Fast: sooner than the answers can be read."
)


def headline(found: Summary) -> str:
    """How much there is."""
    kinds = ", ".join(f"{n} {kind} votes" for kind, n in found.kinds.items()) or "no votes"
    shared = f"{found.shared} with two raters or more"
    return f"{len(found.raters)} raters, {kinds}, {found.items} items ({shared})"


def verdict(value: Value, kind: Kind) -> str:
    """A vote in words: the better answer by its number, a ranking from the best, or a grade."""
    if isinstance(value, tuple):
        places = [[i + 1 for i, rank in enumerate(value) if rank == place] for place in sorted(set(value))]
        return " > ".join(" = ".join(map(str, tied)) for tied in places)
    return f"{value:g}" if kind == "grade" else {1.0: "first", 0.0: "second"}.get(value, "tie")


def percent(found: Estimate | None) -> str:
    """A share in percent with its interval; empty where there is none."""
    return "" if found is None else f"{found.value:.0%} ({found.low * 100:.0f}–{found.high * 100:.0f})"


def number(found: Estimate | None) -> str:
    """A coefficient with its interval."""
    return "" if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _table(title: str, *headings: str, left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right", overflow="ellipsis", no_wrap=place > 0)
    return table


def _alphas(found: Summary) -> Table:
    table = _table("Agreement of all raters: Krippendorff's α", "votes", "taken as", "α", "items", left=2)
    for each in found.alphas:
        said = number(each.alpha) if each.alpha else "undefined: nothing differs, or one rater"
        table.add_row(each.kind, each.level, said, str(each.alpha.n if each.alpha else 0))
    return table


def _kappas(found: Summary) -> Table:
    shown = found.kappas[:LISTED]
    more = f", the lowest {LISTED} of {len(found.kappas)}" if len(found.kappas) > LISTED else ""
    table = _table(f"Agreement of two raters: Cohen's κ{more}", "", "", "votes", "κ", "items", left=3)
    for each in shown:
        said = number(each.kappa) if each.kappa else ALWAYS_ONE
        table.add_row(_name(each.first), _name(each.second), each.kind, said, str(each.items))
    return table


def _consistency(found: Summary) -> Table:
    table = _table("Raters: are they right?", "rater", "votes", "repeats alike", "gold right", "model")
    for each in found.raters:
        model = "" if each.modelled_accuracy is None else f"{each.modelled_accuracy:.0%}"
        table.add_row(_name(each.rater), str(each.votes), percent(each.self_consistency), percent(each.gold), model)
    return table


def _biases(found: Summary) -> Table:
    graded = any(each.length_correlation for each in found.raters)
    headings = ["rater", "ties", "left wins", "longer wins", *(["grade, length"] if graded else []), "median", "fast"]
    table = _table("Raters: bias and time", *headings)
    for each in (*found.raters, found.everyone):
        correlation = [number(each.length_correlation)] if graded else []
        seconds, fast = f"{each.seconds:.1f} s", f"{each.too_fast.value:.0%}" if each.too_fast else ""
        shares = (percent(each.ties), percent(each.left), percent(each.longer))
        table.add_row(_name(each.rater), *shares, *correlation, seconds, fast)
    return table


def _disputed(found: Summary) -> Table:
    more = f", the worst {LISTED} of {len(found.disputed)}" if len(found.disputed) > LISTED else ""
    table = _table(f"Items that raters see differently{more}", "item", "apart", "votes", left=1)
    table.columns[2].no_wrap, table.columns[2].justify, table.columns[0].max_width = False, "left", 34
    for each in found.disputed[:LISTED]:
        said = ", ".join(f"{_name(rater)} {verdict(value, each.kind)}" for rater, value in each.votes)
        table.add_row(_short(found.titles[each.item], 66), f"{each.disagreement:.0%}", said)
    return table


def _name(rater: str) -> RenderableType:
    from rich.text import Text

    return Text(_short(rater, 16))


def _short(text: str, length: int) -> str:
    """One line of at most so many characters, with nothing that a terminal obeys."""
    line = " ".join(printable(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
