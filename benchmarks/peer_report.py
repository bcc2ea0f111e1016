"""The table and the picture of the comparison with peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from machine import heading

ORDER = ["sft", "reward-model", "dpo", "grpo", "rloo", "ppo"]
NAMES = {"geometric": "", "cap": ", all at the cap"}


def best_peer(row: dict[str, Any]) -> str:
    """The fastest of the peer's settings, of those that were timed to the end."""
    whole = row["systems"]["alignzoo"]["steps"]
    peers = {name: each for name, each in row["systems"].items() if name != "alignzoo" and each["steps"] == whole}
    rates = {name: each["tokens_per_cpu_second"] for name, each in peers.items()}
    return max(rates, key=lambda name: rates[name])


def ratios(row: dict[str, Any]) -> tuple[float, float, float]:
    """Tokens per CPU second against the best peer: of medians, and the spread of steps taken in turn."""
    ours, peer = row["systems"]["alignzoo"], row["systems"][best_peer(row)]
    pairs = [a / b for a, b in zip(ours["rates"], peer["rates"], strict=True)]
    return ours["tokens_per_cpu_second"] / peer["tokens_per_cpu_second"], min(pairs), max(pairs)


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (ORDER.index(row["method"]), "SMV".index(row["size"]), row["lengths"]))


def short(rows: list[dict[str, Any]]) -> str:
    """The table of docs/speed.md: a line for a method, the ratio with its range, memory, and the share of the floor."""
    lines = ["| method | model | tokens per CPU second, times TRL's | memory, of TRL's | of the floor |"]
    lines += ["|---|---|---|---|---|"]
    for row in ordered(rows):
        name, (ratio, low, high) = best_peer(row), ratios(row)
        memory = row["systems"]["alignzoo"]["peak_bytes"] / row["systems"][name]["peak_bytes"]
        cells = [row["method"] + NAMES[row["lengths"]], row["size"], f"**{ratio:.1f}** ({low:.1f}–{high:.1f})"]
        lines.append("| " + " | ".join([*cells, f"{memory:.2f}", share(row)]) + " |")
    return "\n".join([*lines, "", *sorted({f"Measured on: {heading(row['machine'])}." for row in rows})]) + "\n"


def share(row: dict[str, Any]) -> str:
    """The shares of the floor: the step's, and decoding's where there is some."""
    decode = row["floor_shares"].get("sample")
    return f"{row['floor_share']:.0%}" + (f" (decode {decode:.0%})" if decode else "")


def render(rows: list[dict[str, Any]], folder: Path) -> str:
    """The table as Markdown; the picture beside it, where a folder to write to is given."""
    rows = ordered(rows)
    if folder != Path():
        _draw(rows, folder / "peers.svg")
    lines = [
        "# Beside its peer, on the same work",
        "",
        "Tokens per CPU second on one core in float32, steps taken in turn by processes of their own; medians, and in "
        "brackets the range over pairs of steps. The peer is the fastest of TRL's settings that were run. Of the "
        "matrix products that the step cannot do without, at the rate at which this core does them just before and "
        "after it: the floor. System: the share of CPU time in the kernel, ours and the peer's; page faults for the "
        "most part.",
        "",
        "| method | model | alignzoo tok/s | peer tok/s | peer | ratio | steps | memory | of the floor | system |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name, (ratio, low, high) = best_peer(row), ratios(row)
        ours, peer = row["systems"]["alignzoo"], row["systems"][name]
        cells = [
            row["method"] + NAMES[row["lengths"]],
            row["size"],
            f"{ours['tokens_per_cpu_second']:,.0f}",
            f"{peer['tokens_per_cpu_second']:,.0f}",
            name,
            f"**{ratio:.2f}** ({low:.2f}–{high:.2f})",
            str(ours["steps"]),
            f"{ours['peak_bytes'] / peer['peak_bytes']:.2f}× ({ours['peak_bytes'] / 1e6:,.0f} MB)",
            share(row),
            f"{ours['system_share']:.0%} / {peer['system_share']:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "All systems, and where our own step goes:", ""]
    lines += ["| method | model | system | CPU s a step | wall s | tok/s | peak MB | phases, wall s |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        for name, each in row["systems"].items():
            phases = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in each.get("phases", {}).items())
            cells = [row["method"] + NAMES[row["lengths"]], row["size"], name]
            cells += [f"{each['cpu_seconds']:.2f}", f"{each['wall_seconds']:.2f}"]
            cells += [f"{each['tokens_per_cpu_second']:,.0f}", f"{each['peak_bytes'] / 1e6:,.0f}", phases]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *sorted({heading(row["machine"]) + "." for row in rows})]
    return "\n".join(lines) + "\n"


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.6))
    for place, row in enumerate(reversed(rows)):
        ratio, low, high = ratios(row)
        axes.barh(place, ratio, color="#4477aa", height=0.62)
        axes.plot([low, high], [place, place], color="#222222", linewidth=1.5)
        memory = row["systems"]["alignzoo"]["peak_bytes"] / row["systems"][best_peer(row)]["peak_bytes"]
        axes.text(max(ratio, high) + 0.06, place, f"{ratio:.2f}×   memory {memory:.2f}×", va="center", fontsize=9)
    labels = [f"{row['method']}{NAMES[row['lengths']]}  {row['size']}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), labels)
    axes.axvline(1, color="#cc3311", linewidth=1)
    axes.set_xlim(0, max(ratios(row)[2] for row in rows) * 1.3 + 0.5)
    axes.set_xlabel("tokens per CPU second, times the best setting of TRL (line: range over pairs of steps)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
