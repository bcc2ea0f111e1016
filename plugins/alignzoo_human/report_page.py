"""The report on raters as one HTML file: no script, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignzoo.judging.agreement import Estimate
from alignzoo.printable import printable

if TYPE_CHECKING:
    from alignzoo_human.report import Summary

LISTED = 100
"""How many disputed items the page shows."""

STYLE = """
:root { color-scheme: light dark; --paper: light-dark(#fff, #14171b); --ink: light-dark(#1b1f24, #e6e9ee);
  --soft: light-dark(#57606c, #a3adba); --grid: light-dark(#dde1e7, #343b45); --dot: light-dark(#005ea8, #7cbcff);
  --panel: light-dark(#f6f7f9, #1c2026); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2rem) 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.3; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; }
p { max-width: 46rem; margin: .4rem 0; } .soft { color: var(--soft); font-size: .88rem; }
.findings { background: var(--panel); border-left: 3px solid var(--dot); padding: .6rem 1rem .6rem 2rem; margin: 0;
  max-width: 54rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; border-bottom: 1px solid var(--grid); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; max-width: 20rem; overflow-wrap: anywhere; }
td.n { text-align: right; } td.votes { overflow-wrap: anywhere; min-width: 14rem; }
tr.all > * { color: var(--soft); }
.range { display: block; position: relative; width: 7rem; height: .7rem; margin-top: .1rem; }
.range::before { content: ""; position: absolute; inset: 50% 0 auto;
  border-top: 1px solid var(--grid); }
.range.half::after { content: ""; position: absolute; left: 50%; top: 0; bottom: 0;
  border-left: 1px solid var(--soft); }
.range i { position: absolute; top: calc(50% - 1px); height: 2px; background: var(--dot); }
.range b { position: absolute; top: calc(50% - .22rem); width: .44rem; height: .44rem; margin-left: -.22rem;
  border-radius: 50%; background: var(--dot); }
@media print { body { max-width: none; } }
"""

TEMPLATE = """
{%- macro figure(found, share=True, half=False) -%}
<td>{% if found %}<span title="of {{ found.n }}">{{ percent(found) if share else number(found) }}</span>
<span class="range{{ " half" if half }}" aria-hidden="true"><i style="{{ bar(found, share) }}"></i>
<b style="{{ dot(found, share) }}"></b></span>{% endif %}</td>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>What the votes show of the raters</title>
<link rel="icon" href="data:,">
<style>{{ style }}</style>
</head>
<body>
<h1>{{ headline(found) }}</h1>
<ul class="findings">
{% for each in found.findings %}<li>{{ each | shown }}</li>
{% endfor %}</ul>
<h2>Agreement of all raters: Krippendorff&rsquo;s α</h2>
<div class="wide"><table>
<thead><tr><th>votes</th><th>taken as</th><th>α and its interval, from −1 to 1</th><th>items</th></tr></thead>
<tbody>
{% for each in found.alphas %}<tr><th>{{ each.kind }}</th><td>{{ each.level }}</td>
{%- if each.alpha %}{{ figure(each.alpha, share=False, half=True) }}<td class="n">{{ each.alpha.n }}</td>
{%- else %}<td>undefined: nothing differs, or one rater</td><td class="n">0</td>{% endif %}</tr>
{% endfor %}</tbody></table></div>
{% if found.kappas %}
<h2>Agreement of two raters: Cohen&rsquo;s κ</h2>
<div class="wide"><table>
<thead><tr><th>rater</th><th>and</th><th>votes</th><th>κ and its interval, from −1 to 1</th><th>items</th></tr></thead>
<tbody>
{% for each in found.kappas %}<tr><th>{{ each.first | shown }}</th><th>{{ each.second | shown }}</th>
<td>{{ each.kind }}</td>
{%- if each.kappa %}{{ figure(each.kappa, share=False, half=True) }}
{%- else %}<td>{{ always_one }}</td>{% endif %}<td class="n">{{ each.items }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
<h2>Raters: are they right?</h2>
<div class="wide"><table>
<thead><tr><th>rater</th><th>votes</th><th>repeats alike</th><th>gold right</th><th>model</th></tr></thead>
<tbody>
{% for each in found.raters %}<tr><th>{{ each.rater | shown }}</th><td class="n">{{ each.votes }}</td>
{{ figure(each.self_consistency) }}{{ figure(each.gold) }}
<td class="n">{% if each.modelled_accuracy is not none %}
{{ "%.0f" % (100 * each.modelled_accuracy) }}%{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft">Repeats alike: votes that are as before when an item comes again. Model: how probably a vote is true by
Dawid and Skene&rsquo;s model, from the votes of all raters; three are needed.</p>
<h2>Raters: bias and time</h2>
<div class="wide"><table>
<thead><tr><th>rater</th><th>ties</th><th>left wins</th><th>longer wins</th>{% if graded %}<th>grade with length</th>
{% endif %}<th>median time</th><th>too fast</th></tr></thead>
<tbody>
{% for each in found.raters + (found.everyone,) %}<tr{% if loop.last %} class="all"{% endif %}>
<th>{{ each.rater | shown }}</th>{{ figure(each.ties) }}{{ figure(each.left, half=True) }}{{ figure(each.longer) }}
{% if graded %}{{ figure(each.length_correlation, share=False, half=True) }}{% endif %}
<td class="n">{{ "%.1f" % each.seconds }} s</td>{{ figure(each.too_fast) }}</tr>
{% endfor %}</tbody></table></div>
<p class="soft">Left wins: wins of the answer on the left; sides are drawn evenly, so that 50 % is no bias. Longer wins:
wins of the longer answer, which may be the better one; compare raters. Too fast: votes that came sooner than the
answers can be read. All intervals are at 95 %; the number behind each figure shows when the pointer rests on it.</p>
{% if found.disputed %}
<h2>Items that raters see differently{% if found.disputed | length > listed %}, the worst {{ listed }} of
{{ found.disputed | length }}{% endif %}</h2>
<div class="wide"><table>
<thead><tr><th>item</th><th>apart</th><th>votes</th></tr></thead>
<tbody>
{% for each in found.disputed[:listed] %}<tr>
<th title="{{ each.item | shown }}">{{ found.titles[each.item] | shown }}</th>
<td class="n">{{ "%.0f" % (100 * each.disagreement) }}%</td><td class="votes">
{%- for rater, value in each.votes %}{{ rater | shown }}: {{ verdict(value, each.kind) }}{{ "; " if not loop.last }}
{%- endfor %}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
</body>
</html>
"""


def page(found: Summary) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from alignzoo_human.report import ALWAYS_ONE, headline, number, percent, verdict

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["shown"] = _shown
    graded = any(each.length_correlation for each in found.raters)
    known = {"headline": headline, "number": number, "percent": percent, "verdict": verdict, "bar": _bar, "dot": _dot}
    known["always_one"] = ALWAYS_ONE
    return (
        environment.from_string(TEMPLATE)
        .render(found=found, graded=graded, listed=LISTED, style=Markup(STYLE), **known)
        .lstrip()
    )


def _shown(text: str, length: int = 300) -> str:
    """At most so many characters, without what could turn the line round."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _place(value: float, share: bool) -> float:
    """Where a figure stands on its bar, in percent: a share from 0 to 1, a coefficient from -1 to 1."""
    return 100 * min(max(value if share else (value + 1) / 2, 0.0), 1.0)


def _bar(found: Estimate, share: bool) -> str:
    left, right = _place(found.low, share), _place(found.high, share)
    return f"left: {left:.1f}%; width: {right - left:.1f}%"


def _dot(found: Estimate, share: bool) -> str:
    return f"left: {_place(found.value, share):.1f}%"
