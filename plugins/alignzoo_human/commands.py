"""`alignzoo collect` and `alignzoo label`: from a model to what people say of its answers."""

from __future__ import annotations

import sys
import warnings
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import DataError, RecipeError
from alignzoo_human import options

if TYPE_CHECKING:
    from alignzoo_human.active import Drawn
    from alignzoo_human.items import Item, Settings
    from alignzoo_human.store import Store

STORES = (".sqlite", ".db")
"""How the name of a store ends."""


@told
def collect(
    models: Annotated[list[str], typer.Argument(metavar="MODEL_DIR...", help="Directories or hub ids.")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="A prompt a line, or data in any format that is read.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Answers to each prompt, of all models together.")] = 4,
    temperatures: Annotated[str, typer.Option(metavar="T,...", help="Sampling temperatures, which take turns.")] = "",
    top_k: Annotated[str, typer.Option(metavar="K,...", help="Sample among the k most likely tokens.")] = "",
    top_p: Annotated[str, typer.Option(metavar="P,...", help="Sample among the fewest that make up p.")] = "",
    max_new_tokens: Annotated[int | None, typer.Option(help="Length limit of an answer; default 128.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A prompt is text to go on with, not a user's turn.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed generates the same answers.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write.")] = Path("answers.jsonl"),
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Generate answers to be labelled: several to each prompt, by different models and settings, which are kept."""
    from alignzoo.cli.generating import load
    from alignzoo_human import collect as collecting

    if out.exists():
        raise RecipeError(f"{out} is there already: give another --out")
    zoo = registry(plugin, no_plugin)
    ways = collecting.ways(
        models,
        _numbers(temperatures, float, "--temperatures"),
        _numbers(top_k, int, "--top-k"),
        _numbers(top_p, float, "--top-p"),
        max_new_tokens,
    )
    asked = collecting.prompts_of(prompts, plain=plain)
    if n % len(ways) and len(asked) * n < len(ways):
        raise RecipeError(f"{len(asked)} prompts with {n} answers each are too few for {len(ways)} settings: raise --n")
    shown = console(stderr=True)
    rows = collecting.collect(
        asked,
        n,
        ways,
        lambda way: load(zoo, way.model, way.settings()),
        out,
        seed=seed,
        told=lambda text: shown.print(f"generating: {text}", markup=False),
    )
    same = sum(len({str(text) for text in row["completions"]}) < len(row["completions"]) for row in rows)
    if same:
        warnings.warn(
            f"{same} of {len(rows)} prompts have equal answers, which are asked about once: raise the temperature",
            stacklevel=1,
        )
    console().print(f"{len(rows)} prompts with {n} answers each: {out}", markup=False, soft_wrap=True)


label = typer.Typer(
    help="Ask people about answers: opens a page on this machine. SOURCE is data, a run's folder, or a store.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@label.command("open")
@told
def label_open(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Data with answers, a run, or a store.")],
    store: Annotated[Path | None, typer.Option(metavar="FILE", help="Where votes go; default: beside SOURCE.")] = None,
    kind: options.Kind = "auto",
    rank: options.Rank = 0,
    pairs: options.PairsOf = 0,
    grades: options.Grades = None,
    criteria: options.Criteria = None,
    reasons: options.Reasons = None,
    instructions: options.Instructions = None,
    rater: options.Rater = None,
    raters: options.Raters = 1,
    overlap: options.Overlap = 1.0,
    gold: options.Gold = None,
    gold_share: options.GoldShare = None,
    repeat: options.Repeat = None,
    active: options.Active = None,
    by: options.By = None,
    ask: options.Ask = 0,
    random: options.AtRandom = 0.2,
    markdown: options.Markdown = None,
    show_others: options.ShowOthers = None,
    format: options.Format = "auto",
    limit: options.Limit = 0,
    seed: options.Seed = 0,
    listen: options.Listen = "127.0.0.1",
    name: options.Name = None,
    port: options.Port = 0,
    browser: options.Browser = True,
    debug: Debug = False,
) -> None:
    """Ask people about answers: opens a page on this machine, until Ctrl-C."""
    from alignzoo_human.store import Store

    given = {
        "criteria": None if criteria is None else tuple(_words(criteria)),
        "grades": grades,
        "reasons": reasons,
        "instructions": instructions,
        "gold_share": gold_share,
        "repeat_share": repeat,
        "markdown": markdown,
        "show_others": show_others,
    }
    data = [path for path in sources if path.suffix not in STORES]
    stores = [path for path in sources if path.suffix in STORES]
    path = store or (stores[0] if stores else _beside(data[0]))
    if len({*stores, path}) > 1:
        raise RecipeError(f"one store at a time: {', '.join(map(str, {*stores, path}))}")
    if not data and not path.exists():
        raise DataError(f"there is no store {path}")
    if not active and (by or ask):
        raise RecipeError("--by and --ask are of --active MODEL_DIR, and no reward model is given")
    asked, tests = _questions(data, gold, kind, rank, pairs, format, limit, seed)
    with Store(path, _settings(path, given)) as opened:
        opened.add(tests)
        _ask(opened, _drawn(opened, asked, active, by, ask, random, seed) if active else asked, raters, overlap)
        _serve(opened, rater or [], listen, name or [], port, browser)


def _questions(
    data: list[Path], gold: Path | None, kind: Any, rank: int, pairs: int, format: str, limit: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """What is asked, and what raters are tested by; read before anything is written."""
    from alignzoo_human.sources import gathered, items

    how: dict[str, Any] = {"kind": kind, "size": rank, "pairs": pairs, "seed": seed}
    asked = items(gathered(data, format=format, limit=limit), **how) if data else []
    tests = items(gathered([gold]), gold=True, **how) if gold is not None else []
    return asked, tests


def _drawn(
    store: Store, items: list[Item], models: list[str], by: Any, n: int, random: float, seed: int
) -> list[tuple[Item, Drawn]]:
    """What is asked next, by what reward models know of the answers."""
    from alignzoo_human.asking import draw_new, reward_model

    zoo = registry(None)
    drawn = draw_new(
        store,
        items,
        [reward_model(zoo, model) for model in models],
        by=by or ("uncertainty" if len(models) == 1 else "disagreement"),
        n=n,
        random=random,
        seed=seed,
    )
    at_random = sum(each.how == "random" for _, each in drawn)
    told = f"{len(drawn)} new questions are drawn, {at_random} of them at random" if drawn else "nothing new to ask"
    console(stderr=True).print(told, markup=False)
    return drawn


def _ask(store: Store, asked: Sequence[Item | tuple[Item, Drawn]], raters: int, overlap: float) -> None:
    from alignzoo_human.items import draw

    salt = store.settings.salt
    pairs = [each if isinstance(each, tuple) else (each, None) for each in asked]
    items = [item for item, _ in pairs]
    store.add(
        items,
        wanted=[raters if draw(salt, "overlap", item.key) < overlap else 1 for item in items],
        priority=[0.0 if drawn is None else float(drawn.left) for _, drawn in pairs],  # in the order of the draws
        chosen=["given" if drawn is None else drawn.how for _, drawn in pairs],
        propensity=[1.0 if drawn is None else drawn.propensity for _, drawn in pairs],
        pool=[None if drawn is None else drawn.left for _, drawn in pairs],
    )


def _settings(path: Path, given: dict[str, Any]) -> Settings:
    """A store's settings with what is given now."""
    from alignzoo_human.items import Settings
    from alignzoo_human.store import Store

    former = Settings()
    if path.exists():
        with Store(path) as known:
            former = known.settings
    return replace(former, **{name: value for name, value in given.items() if value is not None})


def _serve(store: Store, raters: list[str], host: str, names: list[str], port: int, browser: bool) -> None:
    from alignzoo_human.serving import PORT, Serving, free_port, known_raters

    who = raters or known_raters(store)
    if host in ("0.0.0.0", "::") and not names:
        raise RecipeError(f"--listen {host} is every address of this machine: say by --name what the page is called")
    serving = Serving(store, who, host=host, port=port or free_port(host, PORT), names=names)
    if not serving.local:
        warnings.warn(
            f"{serving.base} can be reached from other machines, without encryption: who has a link, or can read "
            "along, can vote. Put a proxy with TLS before it, or use an SSH tunnel",
            stacklevel=1,
        )
    shown = console()
    state = store.refresh()
    shown.print(
        f"{len(state.items)} questions, {sum(r.voted for r in state.raters.values())} votes: {store.path}", markup=False
    )
    for rater, link in serving.links.items():
        shown.print(f"{rater}: {link}", markup=False, soft_wrap=True)
    shown.print("Ctrl-C ends; every vote is stored as it is given", markup=False)
    sys.stdout.flush()
    if browser and sys.stdout.isatty():
        webbrowser.open(next(iter(serving.links.values())))
    try:
        serving.run()
    except KeyboardInterrupt:
        pass
    finally:
        serving.close()
    votes = sum(rater.voted for rater in store.refresh().raters.values())
    shown.print(f"{votes} votes are stored; go on with alignzoo label {store.path}", markup=False, soft_wrap=True)


@label.command("export")
@told
def label_export(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store of votes.")],
    as_: Annotated[
        str, typer.Option("--as", metavar="FORMAT", help="preference, ranking, unpaired, ...: any that is read.")
    ] = "preference",
    resolve: Annotated[
        str,
        typer.Option(metavar="HOW", help="majority, soft (the raters' share), quality (they count by it), rater=NAME."),
    ] = "majority",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: beside STORE.")] = None,
    debug: Debug = False,
) -> None:
    """Write labels as data to train on, with the reasons that people gave."""
    from alignzoo_human import export
    from alignzoo_human.store import Store

    path = out or store.with_name(f"{store.name.removesuffix('.sqlite').removesuffix('.labels')}.{as_}.jsonl")
    if path.exists():
        raise RecipeError(f"{path} is there already: give another --out")
    with Store(store) as opened:
        found = export.export(opened, as_, resolve)
    export.save(found, path)
    for why, number in found.left_out.items():
        warnings.warn(f"left out: {number} with {why}", stacklevel=1)
    console().print(f"{len(found.rows)} rows: {path}", markup=False, soft_wrap=True)


@label.command("status")
@told
def label_status(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store of votes.")],
    debug: Debug = False,
) -> None:
    """Who has voted how often, how fast, and how far the questions are."""
    from rich.table import Table

    from alignzoo_human import asking, winners
    from alignzoo_human.store import Store

    with Store(store) as opened:
        state, votes = opened.refresh(), opened.votes()
        table = Table(
            "rater", "votes", "skipped", "seconds, median", "left or first", "ties", "right of known", box=None
        )
        for name in sorted(state.raters):
            table.add_row(name, *_about(name, [vote for vote in votes if vote.rater == name], opened))
        shown = console()
        shown.print(table)
        asked = [known for known in state.items.values() if not known.gold]
        done = sum(known.voted >= known.wanted for known in asked)
        shown.print(f"{done} of {len(asked)} questions have all their votes", markup=False)
        for line in (*asking.estimates(opened), *winners.told(winners.winners(opened.items(), votes))):
            shown.print(line, markup=False)


@label.command("report")
@told
def label_report(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store of votes.")],
    rater: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only these raters' votes.")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write it as a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    debug: Debug = False,
) -> None:
    """How far raters agree, with intervals; who leans to a side or to length, and what they disagree about most."""
    from alignzoo_human import report
    from alignzoo_human.store import Store

    if html is not None and html.exists():
        raise RecipeError(f"{html} is there already: give another --html")
    with Store(store) as opened:
        items, votes = opened.items(), opened.votes()
    unknown = sorted(set(rater or []) - {vote.rater for vote in votes})
    if unknown:
        known = ", ".join(sorted({vote.rater for vote in votes})) or "none"
        raise DataError(f"{store}: no votes of {', '.join(unknown)}; there are those of {known}")
    found = report.summary(
        votes,
        {key: [len(_plain(answer).split()) for answer in item.answers] for key, item in items.items()},
        gold={key: item.gold for key, item in items.items() if item.gold is not None},
        titles={key: _plain(item.prompt) for key, item in items.items()},
        raters=rater,
    )
    if html is not None:
        html.write_text(report.to_html(found), encoding="utf-8")
        html.chmod(0o600)
    if as_json:
        typer.echo(report.to_json(found))
        return
    shown = console()
    shown.print(report.to_rich(found))
    if html is not None:
        shown.print(f"page: {html}", markup=False, soft_wrap=True)


def _about(name: str, votes: list[Any], store: Store) -> list[str]:
    """A rater's row."""
    items, state = store.items(), store.state
    seconds = sorted(vote.seconds for vote in votes)
    sided = [vote for vote in votes if vote.kind == "pair" and vote.value != 0.5]
    left = [(vote.value == 1.0) == (vote.left == "first") for vote in sided]
    ties = [vote for vote in votes if vote.kind == "pair" and vote.value == 0.5]
    known = [vote.value == items[vote.item].gold for vote in votes if vote.gold]
    skipped = sum(state.asks[ask].action == "skip" for ask in state.raters[name].asks)

    def share(flags: list[bool]) -> str:
        return f"{sum(flags)} of {len(flags)}" if flags else ""

    pace = f"{seconds[len(seconds) // 2]:.1f}" if seconds else ""
    return [str(len(votes)), str(skipped), pace, share(left), str(len(ties)), share(known)]


def _plain(text: Any) -> str:
    """A text, or what is said in a conversation."""
    return text if isinstance(text, str) else "\n".join(str(turn.get("content", "")) for turn in text)


def _beside(source: Path) -> Path:
    return source / "labels.sqlite" if source.is_dir() else source.with_name(f"{source.stem}.labels.sqlite")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, kind: Any, option: str) -> list[Any]:
    try:
        return [kind(word) for word in _words(text)]
    except ValueError as error:
        raise RecipeError(f"{option}: expected numbers with commas between, as in 0.7,1.0, found {text!r}") from error
