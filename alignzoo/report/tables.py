"""What a run tells its reader: a model's card, the table of results, samples side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignzoo.files import read_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from alignzoo.runs.api import Result, StageResult


Figures = Mapping[str, float]

COLUMNS = {
    "reward": "reward",
    "gold": "gold",
    "accuracy": "accuracy",
    "kl": "KL",
    "length": "length",
    "finished": "finished",
    "entropy": "entropy",
}
"""The figures of a writer that tables show, and their headings."""

DATA = {
    "heldout/loss": "loss",
    "heldout/perplexity": "perplexity",
    "heldout/accuracy": "accuracy",
    "heldout/margin": "margin",
    "heldout/reward_chosen": "chosen",
    "heldout/reward_rejected": "rejected",
}
"""The figures of held-out data that tables show, and their headings."""

CONFIDENCE = 1.96
"""Standard errors to either side of an interval of 95 %."""

RATE = "rate/"
"""What the names of a task's own rates begin with."""

SCORER = {
    "accuracy": "agreement with the held-out labels",
    "gold": "agreement with the gold order",
    "ceiling": "the labels' own agreement with the gold order (ceiling)",
}
"""The figures of a scorer, and what they mean."""


# --- on the terminal --------------------------------------------------------------------------------------------------


def table(result: Result) -> RenderableType:
    """Every stage before and after, sampled and greedy, with best-of-n, and the task's rates of what happened; a
    scorer's agreement on lines of its own."""
    from rich.console import Group
    from rich.text import Text

    writers = [stage for stage in result.stages if _is_writer(stage.after)]
    columns = _telling(writers)
    shown: list[RenderableType] = []
    learned = [stage for stage in result.stages if "heldout/loss" in stage.after]
    if learned:
        shown.append(_OnData(learned))
    if columns:
        shown.append(_Fitting("On held-out prompts", writers, columns, legend=True))
    names = dict.fromkeys(name for stage in writers for name in stage.after if name.startswith(RATE))
    rates = {name: name.removeprefix(RATE).replace("_", " ") for name in names if not name.endswith(("_se", "_greedy"))}
    if rates:
        shown.append(_Fitting("Event rates, over the held-out prompts where the event is possible", writers, rates))
    shown += [Text(_scorer_line(stage)) for stage in result.stages if stage.after and not _is_writer(stage.after)]
    return Group(*shown)


def _telling(writers: Sequence[StageResult]) -> dict[str, str]:
    """The columns that tell something: not one that is the same in every row, nor the same as one before it. A KL of 0
    tells that nothing has changed."""
    rows = [figures for stage in writers for _, figures in _rows(stage)]
    found: dict[str, str] = {}
    for name, heading in COLUMNS.items():
        cells = [_cell(each, name) for each in rows]
        others = [[_cell(each, other) for each in rows] for other in found]
        tells = name == "kl" or len(set(cells) - {""}) > 1
        if tells and any(name in stage.after for stage in writers) and cells not in others:
            found[name] = heading
    return found


class _OnData:
    """The methods' own figures on held-out data, before and after, as many as the terminal has room for: standard
    errors give way first, then the last columns, which are told of below; labels never do."""

    def __init__(self, stages: Sequence[StageResult]) -> None:
        self.stages = stages
        self.columns = {name: said for name, said in DATA.items() if any(name in stage.after for stage in stages)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        names = list(self.columns)
        for errors, number in ((True, len(names)), *((False, n) for n in range(len(names), 0, -1))):
            shown = self._table(names[:number], errors=errors)
            if console.measure(shown, options=options.update(width=10_000)).maximum <= options.max_width:
                break
        yield shown
        missing = [*([] if errors else ["standard errors"]), *(self.columns[name] for name in names[number:])]
        yield Text(_data_legend(self.stages, names[:number], errors=errors), style="dim")
        if missing:
            yield Text(f"There is no room for {', '.join(missing)} here: result.json has them.", style="dim")

    def _table(self, names: Sequence[str], *, errors: bool) -> Table:
        from rich import box
        from rich.table import Table

        rows = Table(box=box.SIMPLE_HEAD, title="On held-out data", title_justify="left", title_style="bold")
        rows.add_column("stage", no_wrap=True)
        rows.add_column("", no_wrap=True)
        for name in names:
            rows.add_column(self.columns[name], justify="right", no_wrap=True)
        for stage in self.stages:
            for what, figures in (("before", stage.before), ("after", stage.after)):
                cells = [
                    _interval(figures)
                    if name == "heldout/accuracy"
                    else _cell(figures, name, 4 if name == "heldout/loss" else 3, error=errors)
                    for name in names
                ]
                rows.add_row(stage.name if what == "before" else "", what, *cells)
            rows.add_section()
        return rows


def _interval(figures: Figures) -> str:
    """The accuracy with its interval of 95 % (Wilson 1927), which is none of width 0 where all pairs are tied."""
    if "heldout/accuracy" not in figures or "heldout/n" not in figures:
        return _cell(figures, "heldout/accuracy")
    share, n, z = figures["heldout/accuracy"], figures["heldout/n"], CONFIDENCE**2
    middle = (share + z / (2 * n)) / (1 + z / n)
    half = CONFIDENCE * math.sqrt(share * (1 - share) / n + z / (4 * n * n)) / (1 + z / n)
    return f"{share:.2f} [{middle - half:.2f}, {middle + half:.2f}]"


def _data_legend(stages: Sequence[StageResult], columns: Sequence[str], *, errors: bool) -> str:
    said = [", ".join(f"{each.name}: n = {each.after.get('heldout/n', math.nan):.0f}" for each in stages)]
    said += ["± is the standard error"] if errors else []
    if "heldout/accuracy" in columns:
        said += ["accuracy: the better answer is preferred, ties count half, with its 95 % interval"]
    if any("heldout/reward_chosen" in stage.after for stage in stages):
        said += ["margin, chosen, rejected: implicit rewards"]
    return "; ".join(said) + "."


class _Fitting:
    """Figures of every stage, as many as the terminal has room for: standard errors give way first, then the last
    columns, which are told of below; labels never do."""

    def __init__(
        self, title: str, writers: Sequence[StageResult], columns: Mapping[str, str], *, legend: bool = False
    ) -> None:
        self.title, self.writers, self.columns, self.legend = title, writers, columns, legend

    @property
    def _words(self) -> int:
        """Labels of rows are broken at spaces, never within a word."""
        return max(len(word) for stage in self.writers for what, _ in _rows(stage) for word in what.split())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        names = list(self.columns)
        for errors, number in ((True, len(names)), *((False, n) for n in range(len(names), 0, -1))):
            shown = {name: self.columns[name] for name in names[:number]}
            figures = _widths(self.writers, shown, errors=errors)
            # two of padding and a divider for each column, those of the labels, too
            room = options.max_width - sum(width + 3 for width in (_stage_width(self.writers), *figures)) - 4
            if room >= self._words:
                break
        yield _writers(self.title, self.writers, shown, max(room, self._words), errors=errors)
        if self.legend and (errors or set(names[:number]) & {"kl", "entropy", "length"}):
            yield Text(_legend(names[:number], errors=errors), style="dim")
        missing = [*([] if errors else ["standard errors"]), *(self.columns[name] for name in names[number:])]
        if missing:
            yield Text(f"There is no room for {', '.join(missing)} here: result.json has them.", style="dim")


def _widths(writers: Sequence[StageResult], columns: Mapping[str, str], *, errors: bool) -> list[int]:
    """Letters of each column of figures: its longest cell, or the longest word of its heading."""
    rows = [figures for stage in writers for _, figures in _rows(stage)]
    return [
        max(*map(len, heading.split()), *(len(_cell(row, name, error=errors)) for row in rows), 1)
        for name, heading in columns.items()
    ]


def _stage_width(writers: Sequence[StageResult]) -> int:
    return max(len("stage"), *(len(stage.name) for stage in writers))


def _writers(
    title: str, writers: Sequence[StageResult], columns: Mapping[str, str], room: int, *, errors: bool
) -> RenderableType:
    """These figures of every stage, with so much room for the labels of rows."""
    from rich import box
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    longest = max(len(what) for stage in writers for what, _ in _rows(stage))
    rows.add_column("stage", width=_stage_width(writers))
    rows.add_column("", width=min(room, longest))
    widths = _widths(writers, columns, errors=errors)
    for heading, width in zip(columns.values(), widths, strict=True):
        rows.add_column(heading, justify="right", width=width)
    for stage in writers:
        for number, (what, figures) in enumerate(_rows(stage)):
            cells = [_cell(figures, name, error=errors) for name in columns]
            rows.add_row(stage.name if number == 0 else "", what, *cells, style="dim" if "greedy" in what else "")
        rows.add_section()
    return rows


def samples_shown(folder: Path, stage: str, n: int = 3) -> RenderableType | None:
    """Held-out prompts with what the policy answered before the stage and after it; None of a stage that wrote none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = [line for line in read_lines(folder / "samples.jsonl") if line["stage"] == stage]
    answers = {when: _first_answers(lines, when) for when in ("before", "after")}
    shown = Table(box=box.SIMPLE_HEAD, show_lines=True, title=f"{stage}: samples", title_justify="left", expand=True)
    shown.title_style = "bold"
    shown.add_column("prompt", ratio=2)
    shown.add_column("before", ratio=3)
    shown.add_column("after", ratio=3)
    for prompt in list(answers["after"])[:n]:
        texts = [_clipped(answers[when][prompt]) if prompt in answers[when] else "" for when in answers]
        shown.add_row(Text(_clipped_end(prompt)), *(Text(text) for text in texts))
    return shown if shown.row_count else None


def _rows(stage: StageResult) -> list[tuple[str, Figures]]:
    """A stage's rows: before and after, sampled and greedy; the best of n samples before."""
    rows: list[tuple[str, Figures]] = []
    for what, figures in (("before", stage.before), ("after", stage.after)):
        rows.append((what, figures))
        greedy = {key.removesuffix("_greedy"): value for key, value in figures.items() if key.endswith("_greedy")}
        if greedy:
            rows.append((f"{what}, greedy", greedy))
        if what == "before" and stage.best_of:
            rows.append((f"before, best of {stage.best_of['n']:g}", stage.best_of))
    return rows


def _cell(figures: Figures, name: str, digits: int = 2, *, error: bool = True) -> str:
    if name not in figures:
        return ""
    digits = 1 if name in ("length", "heldout/perplexity") else digits
    if name == "finished":
        return f"{figures[name]:.0%}"
    beside = f" ± {figures[f'{name}_se']:.{digits}f}" if error and f"{name}_se" in figures else ""
    return f"{figures[name]:.{digits}f}{beside}"


def _legend(columns: Sequence[str], *, errors: bool) -> str:
    said = ["± is the standard error over prompts"] if errors else []
    said += ["KL to the stage's start, nats per sequence"] if "kl" in columns else []
    said += ["entropy in nats per token"] if "entropy" in columns else []
    said += ["length in tokens"] if "length" in columns else []
    return "; ".join(said) + "."


def _scorer_line(stage: StageResult) -> str:
    """Each agreement after training, and before it in brackets, as shares of held-out pairs."""
    lines = [f"{stage.name}: a scorer, on held-out pairs"]
    for name, meaning in SCORER.items():
        if name in stage.after:
            before = f" (before: {stage.before[name]:.1%})" if name in stage.before and name != "ceiling" else ""
            error = f" ± {stage.after[f'{name}_se']:.1%}" if f"{name}_se" in stage.after else ""
            lines.append(f"  {stage.after[name]:.1%}{error} {meaning}{before}")
    return "\n".join(lines)


def _is_writer(figures: Figures) -> bool:
    return "length" in figures


def _first_answers(lines: Sequence[Mapping[str, Any]], when: str) -> dict[str, str]:
    """The first answer to each prompt."""
    answers: dict[str, str] = {}
    for line in lines:
        if line.get("when") == when:
            answers.setdefault(asked(line["prompt"]), _scored(line))
    return answers


def asked(messages: Any) -> str:
    """A prompt as one text."""
    if isinstance(messages, str):
        return messages
    return (
        str(messages[-1]["content"])
        if len(messages) == 1
        else "\n".join(f"{m['role']}: {m['content']}" for m in messages)
    )


def _scored(line: Mapping[str, Any]) -> str:
    """What was answered, and what it scored."""
    text = str(line["completion"]).strip() + ("" if line["finished"] else " …")
    return text if line["reward"] is None else f"[{line['reward']:.2f}] {text}"


def _clipped(text: str, length: int = 280) -> str:
    return text if len(text) <= length else text[: length - 2] + " …"


def _clipped_end(text: str, length: int = 200) -> str:
    return text if len(text) <= length else "… " + text[-length + 2 :]
