"""What `alignzoo label open` can be told: the options that say who is asked what, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

Kind: TypeAlias = Annotated[Literal["auto", "pair", "ranking", "grade"], typer.Option(help="What is asked.")]
Rank: TypeAlias = Annotated[int, typer.Option(min=0, help="How many answers a ranking has at most; 0: all.")]
PairsOf: TypeAlias = Annotated[int, typer.Option(min=0, help="How many pairs of a prompt are compared; 0: all.")]
Grades: TypeAlias = Annotated[
    int | None, typer.Option(min=2, max=9, help="The best grade; 2: bad and good. Default 5.")
]
Criteria: TypeAlias = Annotated[str | None, typer.Option(metavar="A,B,...", help="What reasons are given by.")]
Reasons: TypeAlias = Annotated[Literal["off", "optional", "required"] | None, typer.Option(help="Whether to ask why.")]
Instructions: TypeAlias = Annotated[str | None, typer.Option(metavar="TEXT", help="What raters are to go by.")]

Rater: TypeAlias = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Who rates; each has a link.")]
Raters: TypeAlias = Annotated[int, typer.Option(min=1, help="How many raters are asked the same, see --overlap.")]
Overlap: TypeAlias = Annotated[
    float, typer.Option(min=0, max=1, help="The share of questions that --raters are asked.")
]
Gold: TypeAlias = Annotated[Path | None, typer.Option(metavar="FILE", help="Labelled data by which raters are tested.")]
GoldShare: TypeAlias = Annotated[float | None, typer.Option(min=0, max=1, help="Their share; default 0.05.")]
Repeat: TypeAlias = Annotated[
    float | None, typer.Option(min=0, max=1, help="The share asked once more, sides flipped.")
]

Active: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="MODEL_DIR", help="A reward model; ask first what it is unsure of.")
]
By: TypeAlias = Annotated[
    Literal["uncertainty", "disagreement", "information"] | None,
    typer.Option(help="What --active goes by; default: uncertainty of one model, disagreement of several."),
]
Ask: TypeAlias = Annotated[int, typer.Option(min=0, help="How many new questions --active draws; 0: all.")]
AtRandom: TypeAlias = Annotated[float, typer.Option(min=0.2, max=1, help="The share that is drawn at random.")]

Markdown: TypeAlias = Annotated[bool | None, typer.Option("--markdown/--text", help="Show answers as Markdown.")]
ShowOthers: TypeAlias = Annotated[
    bool | None, typer.Option("--show-others/--hide-others", help="After one's own vote.")
]
Format: TypeAlias = Annotated[str, typer.Option(help="The format of SOURCE.")]
Limit: TypeAlias = Annotated[int, typer.Option(min=0, help="Read only the first so many rows; 0: all.")]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed of which pairs and answers are drawn.")]

Listen: TypeAlias = Annotated[str, typer.Option(metavar="ADDRESS", help="Serve other machines, too; links let in.")]
Name: TypeAlias = Annotated[list[str] | None, typer.Option(metavar="HOST", help="A name that the page is called by.")]
Port: TypeAlias = Annotated[int, typer.Option(min=0, max=65535, help="0: 8765, or a free one.")]
Browser: TypeAlias = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the first rater's link.")]
