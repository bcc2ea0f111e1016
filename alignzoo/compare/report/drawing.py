"""Pictures as SVG, drawn once: themed for the page, where colours are CSS variables, and plain for a file."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alignzoo.compare.results import Compared, Results

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07c00", "#3b8fc4", "#882255", "#5f7a1f")
"""Colours of algorithms on white: Okabe and Ito's and Tol's, safe for the colour-blind, darkened where pale."""
DARK = ("#56a9e0", "#ff8b4d", "#3fcf9f", "#e08fd0", "#e6b422", "#8cc8f0", "#e27fa8", "#b5cf5a")
"""The same on black."""
SHAPES = {
    "o": '<circle cx="16" cy="6" r="4.5"/>',
    "s": '<path d="M12 2h8v8h-8z"/>',
    "D": '<path d="M16 .5l5.5 5.5-5.5 5.5-5.5-5.5z"/>',
    "^": '<path d="M16 1l5 9.5h-10z"/>',
    "v": '<path d="M16 11l5-9.5h-10z"/>',
    "P": '<path d="M14 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z"/>',
    "X": '<path d="M12 1l4 3 4-3 2 2-3 3 3 3-2 2-4-3-4 3-2-2 3-3-3-3z"/>',
    "*": '<path d="M16 0l1.6 4h4.4l-3.4 2.7 1.3 4.3-3.9-2.6-3.9 2.6 1.3-4.3-3.4-2.7h4.4z"/>',
    "p": '<path d="M16 1l5 3.7-1.9 5.8h-6.2l-1.9-5.8z"/>',
    "h": '<path d="M16 .8l4.6 2.6v5.2l-4.6 2.6-4.6-2.6v-5.2z"/>',
    "x": '<path d="M12.5 1.5l3.5 3.5 3.5-3.5 1 1-3.5 3.5 3.5 3.5-1 1-3.5-3.5-3.5 3.5-1-1 3.5-3.5-3.5-3.5z"/>',
}
"""matplotlib's markers, and the same in the page's legend: colour is not needed to tell algorithms apart."""
STYLES: Mapping[Any, str] = {"-": "", "--": "7 3", "-.": "8 3 2 3", ":": "2 3", (0, (6, 1, 1, 1, 1, 1)): "6 1 1 1 1 1"}
"""Line styles of an algorithm's settings, likewise; and of controls."""

INK, GRID, PAPER, QUIET = "#010203", "#040506", "#070809", "#0a0b0c"
"""Stand-ins while drawing: text and axes, the grid, the background, and controls."""
PLAIN = {INK: "#222222", GRID: "#dddddd", PAPER: "#ffffff", QUIET: "#777777"}
THEMED = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)", QUIET: "var(--quiet)"}

STAND_IN = "#0d0e{:02x}"
"""Likewise of algorithms, by their number."""

WIDE = 52
"""Letters of a title's line in a file."""

TICKS = 6
"""Intervals between the numbers of the level axis, of which long ones would touch."""

SIZE = (4.5, 3.1)
"""Inches of a panel; it is legible from a phone's width on."""


def slug(*parts: str) -> str:
    """A name of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


@dataclass(frozen=True)
class Look:
    """How an algorithm is drawn, everywhere."""

    colour: str
    """The stand-in."""
    css: str
    """The colour on the page."""
    marker: str
    style: Any
    number: int
    """Its class in pictures: `.of-NUMBER`."""

    @property
    def dashes(self) -> str:
        """Its line's, for the legend."""
        return STYLES[self.style]

    @property
    def shape(self) -> str:
        """Its mark, for the legend: our own markup."""
        return SHAPES.get(self.marker, "")

    def line(self, **changes: Any) -> dict[str, Any]:
        """For a line with marks."""
        kind = {"color": self.colour, "marker": self.marker, "ls": self.style, "ms": 4.5, "lw": 1.6}
        return {**kind, "gid": f"of-{self.number}", **changes}


class Looks:
    """The looks of a comparison's algorithms: one colour for each method, one line style for each of its settings."""

    def __init__(self, results: Results) -> None:
        names = list(dict.fromkeys(each.name for each in results.algorithms if each.role == "algorithm"))
        settings = dict.fromkeys(names, 0)
        self.of: dict[str, Look] = {}
        for number, each in enumerate(results.algorithms):
            if each.role == "algorithm":
                self.of[each.label] = _algorithm(names.index(each.name), settings[each.name], number)
                settings[each.name] += 1
            else:
                self.of[each.label] = _control(each, number)

        self._of_method = {
            each.name: self.of[each.label] for each in reversed(results.algorithms) if each.role == "algorithm"
        }

    def method(self, name: str) -> Look:
        """The look of a method: that of its first setting."""
        return self._of_method[name]

    @cached_property
    def variables(self) -> Sequence[tuple[str, str, str]]:
        """CSS variables with their values on white and on black."""
        return [(f"--c{i}", light, dark) for i, (light, dark) in enumerate(zip(LIGHT, DARK, strict=True))]


def _algorithm(index: int, setting: int, number: int) -> Look:
    i = index % len(LIGHT)
    style = list(STYLES)[(setting + index // len(LIGHT)) % len(STYLES)]
    return Look(STAND_IN.format(i), f"var(--c{i})", list(SHAPES)[i], style, number)


def _control(compared: Compared, number: int) -> Look:
    style = {"start": ":", "best-of": "--", "random": "-."}.get(compared.role, "-")
    marker = {"start": "p", "best-of": "h", "random": "x"}.get(compared.role, ".")
    return Look(QUIET, THEMED[QUIET], marker, style, number)


@dataclass(frozen=True)
class Picture:
    """One panel."""

    name: str
    """Name of its file and in its ids: letters, digits and dashes."""
    title: str
    """What it comes to, in a sentence."""
    says: str
    """What it shows, in a sentence: the caption, and what is read out to those who cannot see it."""
    draw: Callable[[Any], None]
    shown: Sequence[str]
    """The algorithms in it."""
    size: tuple[float, float] = SIZE

    def themed(self) -> str:
        """For the page: text and axes follow the theme, and nothing has a background."""
        return _coloured(_drawn(self, None), THEMED, [f"var(--c{i})" for i in range(len(LIGHT))])

    def plain(self, looks: Looks) -> str:
        """For a file of its own, on white, with a legend."""
        return _coloured(_drawn(self, looks), PLAIN, LIGHT)


def _coloured(svg: str, colours: Mapping[str, str], of_algorithms: Sequence[str]) -> str:
    for stand_in, real in colours.items():
        svg = svg.replace(stand_in, real)
    for i, real in enumerate(of_algorithms):
        svg = svg.replace(STAND_IN.format(i), real)
    return svg


def _drawn(picture: Picture, legend: Looks | None) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": picture.name,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.facecolor": "none",
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "font.size": 9,
        "axes.unicode_minus": True,
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings):
        lines = -(-len(picture.shown) // 3) + len(textwrap.wrap(picture.title, WIDE)) - 1
        height = picture.size[1] + (0.22 * lines if legend else 0)
        figure = Figure(figsize=(picture.size[0], height), layout="constrained", facecolor=PAPER if legend else "none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(TICKS, steps=[1, 2, 2.5, 5, 10]))
        picture.draw(axes)
        if legend:
            axes.set_title(textwrap.fill(picture.title, WIDE), fontsize=10, loc="left")
            handles = [Line2D([], [], **legend.of[each].line(gid=None, label=each)) for each in picture.shown]
            if handles:
                figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _tidy(out.getvalue(), picture.name)


def _tidy(svg: str, name: str) -> str:
    """Inline SVG: no prologue, ids of its own, classes where there were group names, the page's font, any width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    svg = re.sub(r'id="of-(\d+)"', r'class="of-\1"', svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{name}-\2"', svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: inherit", svg)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]+"', r"<svg \1", svg, count=1)
    return re.sub(r'<svg ([^>]*?)height="[^"]+"', r"<svg \1", svg, count=1)
