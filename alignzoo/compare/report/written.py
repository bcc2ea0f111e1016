"""How figures and texts are written in a report, in HTML and in Markdown."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from alignzoo.compare.headings import DIGITS, MEANINGS
from alignzoo.compare.report.forest import plainer
from alignzoo.compare.report.gather import spoken
from alignzoo.printable import fenced, printable


def environment(*, autoescape: bool) -> Environment:
    loader = PackageLoader("alignzoo.compare.report")
    made = Environment(
        loader=loader,
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    filters: dict[str, Any] = {"number": number, "share": share, "plainly": plainly, "cell": cell_text}
    made.filters |= filters | {"clock": clock, "fenced": fenced, "typeset": typeset, "probability": probability}
    made.filters |= {"spoken": spoken, "breakable": breakable}
    made.globals["digits"] = DIGITS
    made.globals["svg"] = lambda picture: Markup(picture.themed())
    made.globals["ours"] = Markup
    made.globals["place"] = place
    made.globals["infinite"] = math.isinf
    made.globals["meanings"] = MEANINGS
    return made


def number(value: float | None, digits: int = 2) -> str:
    """2.13; 1.3M; empty where there is none."""
    if value is None or math.isnan(value):
        return ""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if letter == "k" else size):
            return f"{value / size:.3g}{letter}"
    return f"{value:.{digits}f}".replace("-", "−")


def probability(value: float | None) -> str:
    """0.034; < 0.001; empty where there is none."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def clock(seconds: float | None) -> str:
    """42 s; 3:20 min."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"


def share(value: float) -> str:
    """42 %."""
    return f"{100 * value:.0f} %"


def typeset(text: str) -> str:
    """A sentence with real minus signs, in which no number is parted from its sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")


def breakable(label: str) -> Markup:
    """A label as pictures have it, that may go on in another line after a bracket, a comma or a point."""
    return Markup(re.sub(r"([\[,]|(?<=[a-z])\.)", r"\1<wbr>", str(escape(printable(plainer(label))))))


def plainly(value: Any) -> str:
    """A setting as one writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cell_text(text: Any) -> str:
    """Text for a cell of a Markdown table, in which neither markup nor a bar means anything."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|":
        escaped = escaped.replace(sign, "\\" + sign)
    return " ".join(escaped.split())


def place(value: float, scale: tuple[float, float]) -> float:
    """Where a value is on a scale, in percent, cut at its ends."""
    low, high = scale
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)
