"""What the README says is true: its blocks run, its plugin is the installed one, its links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = (ROOT / "docs" / "tree.md").read_text(encoding="utf-8")
SIMPO = ROOT / "tests" / "third_party" / "alignzoo-simpo"


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", page, re.M | re.S)


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.encode()) <= 10_000, "the README has at most 10 KB: details belong to docs/"
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", README)
    assert len(links) > 10
    for path, anchor in links:
        assert (ROOT / path).exists(), f"the README links {path}"
        titles = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.M) if anchor else []
        assert not anchor or anchor in [title.lower().replace(" ", "-") for title in titles], f"{path}#{anchor}"


def test_the_plugin_in_the_readme_is_the_one_that_is_tested() -> None:
    assert blocks("python plugin") == [(SIMPO / "alignzoo_simpo.py").read_text()]
    assert blocks("toml")[0] == (SIMPO / "pyproject.toml").read_text()


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    shutil.copy(SIMPO / "alignzoo_simpo.py", tmp_path)
    (tmp_path / "block.py").write_text(code)
    done = subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_tree_names_what_is_there() -> None:
    (tree,) = blocks("text", TREE)
    within: list[Path] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        within = [*within[:depth], Path(line.split()[0])]
        path = ROOT.joinpath(*within)
        assert path.exists(), f"docs/tree.md names {path.relative_to(ROOT)}"


def test_commands_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z]+)`", README)) <= targets
    assert {"make demo", "make test"} <= set(re.findall(r"^(make [a-z]+)", README, re.M))


def test_the_table_of_speeds_has_its_place() -> None:
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    _, begin, rest = page.partition("<!-- speed -->\n")
    table, end, _ = rest.partition("<!-- end of speed -->\n")
    assert begin and end and table.startswith("| method | model |"), "benchmarks/official.py writes between the markers"
