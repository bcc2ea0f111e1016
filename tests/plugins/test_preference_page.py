"""docs/preference.md names every optimizer of preference pairs, with the paper that its own page names."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from alignzoo.registry import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "preference.md").read_text(encoding="utf-8")


def test_every_loss_is_on_the_page_with_its_paper() -> None:
    zoo = Registry()
    own = [each for each in zoo.list("optimizer") if each.target.startswith("alignzoo_preference.")]
    assert len(own) > 40
    for each in own:
        (row,) = [
            line for line in PAGE.splitlines() if line.startswith("| ") and f"`{each.name}`" in line.split("|")[1]
        ]
        papers = set(re.findall(r"arXiv:(\d{4}\.\d{5})", inspect.getdoc(zoo.get("optimizer", each.name)) or ""))
        assert papers & set(re.findall(r"\d{4}\.\d{5}", row)) or not papers, f"{each.name}: {papers} and {row}"
