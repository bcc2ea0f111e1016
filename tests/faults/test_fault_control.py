"""What others wrote is shown and never obeyed: no control character of data or models reaches a terminal or report."""

from __future__ import annotations

import io
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from alignzoo.cli.common import console
from alignzoo.compare.report.written import environment
from alignzoo.evaluation.answers import Answer, write_answers
from alignzoo.printable import escaped, fenced, printable
from alignzoo.report import model_card
from faults import toy

EVIL = "\x1b[31mred\x1b]0;PWN\x07\x9b2J\x08\x7f\u202etxt\u2066\u200f\x85\r"
NEVER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")


def test_each_is_replaced_and_all_else_stays() -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000)]))
    shown = printable(everything)
    assert not NEVER.search(shown) and len(shown) == len(everything)
    changed = {before for before, after in zip(everything, shown, strict=True) if before != after}
    assert changed == set(NEVER.findall(everything))
    assert printable("a\r\nb\tc\n") == "a\nb\tc\n" and printable("\ud83d") == "\ufffd"
    text = json.dumps({"a": EVIL}, ensure_ascii=False)
    assert not NEVER.search(escaped(text)) and json.loads(escaped(text)) == {"a": EVIL}


def test_what_a_console_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(Text(EVIL))
    for each in (EVIL, Text(EVIL), table):
        console().print(each, markup=False)
    with Progress(console=console()) as progress:
        progress.add_task(EVIL)
    assert "red" in out.getvalue() and not NEVER.search(out.getvalue())


def test_commands(alignzoo: Any, recipe: Path, tmp_path: Path, tiny_model: Path) -> None:
    rows = [json.dumps({"prompt": f"{EVIL}{number}"}) for number in range(12)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows) + "\n")
    reward = "def vowels(completions):\n    raise ValueError(chr(27) + ']0;PWN' + chr(7))\n"
    said = [alignzoo("run", recipe, "--trust", "--out", tmp_path / "out")]
    (tmp_path / "vowels.py").write_text(reward)
    said += [
        alignzoo("run", recipe, "--trust", "--out", tmp_path / "new"),
        alignzoo("run", recipe, f"policy.model=./{EVIL}"),
        alignzoo("generate", tiny_model, "--prompt", EVIL, "--max-new-tokens", 1),
        alignzoo("generate", tiny_model, "--prompt", EVIL, "--max-new-tokens", 1, "--json"),
        alignzoo("run", EVIL),
        alignzoo("list", "--plugin", tmp_path / f"{EVIL[:9]}.py"),
    ]
    assert [each.code for each in said] == [0, 1, 1, 0, 0, 1, 1]
    for each in said:
        assert not NEVER.search(each.out + each.err)
    assert "red" in said[0].out and "PWN" in said[1].err


def test_reports() -> None:
    for escape in (False, True):
        template = environment(autoescape=escape).from_string("{{ text }} {{ text | fenced }}")
        assert not NEVER.search(template.render(text=EVIL))


@pytest.mark.parametrize("text", ["a", "```", "a\n```\n# b", "`````", "~~~\n````\n"])
def test_nothing_ends_a_fence(text: str) -> None:
    first, *inside, last = fenced(text, "toml").split("\n")
    assert first == f"{last}toml" and set(last) == {"`"} and "\n".join(inside) == text
    assert not any(line.startswith(last) for line in inside)
    card = model_card("s", "sft", {"name": "s", "system": text}, {}, {}, scores=False)
    if len(last) > 3:  # else other fences of the card are as long
        assert len(re.findall(rf"(?m)^{last}(toml)?$", card)) == 2


def test_what_the_model_wrote_is_for_its_owners_eyes(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        kept: dict[str, Any] = {"schedule.keep_checkpoints": True}
        toy.run(tmp_path / "run", **kept)
        (tmp_path / "run" / "result.json").unlink()
        (tmp_path / "run" / ".samples.jsonl.partial").write_text("left by a kill")
        toy.run(tmp_path / "run", resume=True, **kept)
        write_answers(tmp_path / "answers.jsonl", [Answer(0, "q", "a", (1,), finished=True, greedy=False)])
    finally:
        os.umask(former)
    checkpoint = tmp_path / "run" / "checkpoints" / "train" / "step-000003"
    trained = (checkpoint / "weights.safetensors", checkpoint / "adamw.pt")
    for path in (tmp_path / "run" / "samples.jsonl", tmp_path / "answers.jsonl", *trained):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run" / "metrics.jsonl").stat().st_mode) == 0o644
