"""docs/: it builds without a warning, asks no other machine for anything, and says what the code says."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

import alignzoo
import printed
from alignzoo.cli import app
from alignzoo.testing import KIND_CHECKS, LAWS
from alignzoo.testing.optimizers.shape import ONE_NAME
from alignzoo.traits import Traits

DOCS = printed.ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CONTRACTS = (DOCS / "contracts.md").read_text(encoding="utf-8")
LAWS_PAGE = DOCS / "laws.md"


# --- the site -----------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The addresses and anchors of a page, and what it loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors.update(value for name in ("id", "name") if (value := given.get(name)))
        address = given.get("href") if tag in ("a", "link") else given.get("src")
        if address and (tag != "link" or given.get("rel") != "canonical"):
            (self.links if tag == "a" else self.loaded).add(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Links]:
    """Every page of the built site by its file."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=printed.ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {page: Links(page.read_text(encoding="utf-8")) for page in folder.rglob("*.html")}


def test_every_link_leads_somewhere(site: dict[Path, Links]) -> None:
    for page, found in site.items():
        for link in found.links:
            path, _, anchor = unquote(link).partition("#")
            if "://" in link or link.startswith(("mailto:", "/")) or page.name == "404.html":
                continue
            target = page if not path else (page.parent / path).resolve()
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page}: {link}"
            assert not anchor or target not in site or anchor in site[target].anchors, f"{page}: {link}"


def test_nothing_is_loaded_from_another_machine(site: dict[Path, Links]) -> None:
    assert not {address for found in site.values() for address in found.loaded if "//" in address}


PUBLIC = sorted(f"alignzoo.{page.stem}" for page in DOCS.glob("reference/*.md") if page.stem != "alignzoo")


def test_the_reference_has_every_public_name(site: dict[Path, Links]) -> None:
    anchors = set().union(*(found.anchors for found in site.values()))
    for module in PUBLIC:
        for name in public_names(module):
            assert f"{module}.{name}" in anchors, f"{module}.{name} is not in the reference"
    homes = ("alignzoo", "alignzoo.runs.api", "alignzoo.lifecycle", *PUBLIC)
    for name in set(alignzoo.__all__) - {"__version__", "functional"}:
        assert any(f"{home}.{name}" in anchors for home in homes), f"{name} is not in the reference"


def public_names(module: str) -> list[str]:
    """What a module exports: its `__all__`, or else the classes and functions that it defines."""
    found = importlib.import_module(module)
    if hasattr(found, "__all__"):
        return sorted(found.__all__)
    mine = {n: v for n, v in vars(found).items() if not n.startswith("_") and getattr(v, "__module__", "") == module}
    return sorted(name for name, value in mine.items() if callable(value))


# --- the contracts ------------------------------------------------------------------------------------------------


def bare(node: ast.AST) -> str:
    """A class or function without docstrings, bodies and decorators other than `property`, as text."""
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = [each for each in node.decorator_list if ast.unparse(each) == "property"]
        node.body = [ast.Expr(ast.Constant(...))]
    elif isinstance(node, ast.ClassDef):
        node.decorator_list = []
        members = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AnnAssign)]
        node.body = [ast.parse(bare(each)).body[0] for each in members]
    return ast.unparse(node)


def defined(module: str) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    tree = ast.parse((printed.ROOT / module).read_text(encoding="utf-8"))
    return (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))


def test_hooks_and_interfaces_stand_there_with_their_exact_signatures() -> None:
    (registrar,) = (node for node in defined("alignzoo/registry/registrar.py") if node.name == "Registrar")
    methods = [n for n in registrar.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    modules = ("policies", "preparing", "parts")
    homes = [each for name in modules for each in defined(f"alignzoo/interfaces/{name}.py")]
    homes += defined("alignzoo/engines.py")
    interfaces = [node for node in homes if "(Protocol)" in ast.unparse(node)]
    code = [bare(node) for node in (*defined("alignzoo/hookspecs.py"), *methods, *interfaces)]
    written = [
        bare(node)
        for block in printed.blocks(CONTRACTS)
        if block.language == "python"
        for node in ast.parse(block.body).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]
    lacking, wrong = set(code) - set(written), set(written) - set(code)
    assert not lacking and not wrong, "\n".join(["docs/contracts.md lacks:", *lacking, "and has no longer:", *wrong])
    assert len(written) == len(code)


def test_optional_members_are_those_of_the_code() -> None:
    table = CONTRACTS.partition("| trait | what it says |\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == {each.name for each in dataclasses.fields(Traits)}
    assert "| `prepare_reads`, optional |" in CONTRACTS


# --- the laws -----------------------------------------------------------------------------------------------------


def with_the_checks(page: str) -> str:
    """The page with a table of each kind's checks, as they are now."""
    head, _, rest = page.partition("\n### ")
    *_, tail = rest.partition("\n## ")
    tables = [
        f"### {kind.capitalize()}\n\n| check | law | what it holds |\n|---|---|---|\n"
        + "".join(f"| `{check.name}` | {check.law} | {check.about} |\n" for check in made.values())
        for kind, made in KIND_CHECKS.items()
    ]
    return head + "\n" + "\n".join(tables) + "\n## " + tail


def test_laws_and_checks_are_those_of_the_kit() -> None:
    page = LAWS_PAGE.read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.M)) == {str(law): says for law, says in LAWS.items()}
    assert page == with_the_checks(page), "write the tables anew: python tests/test_site.py"
    assert not [name for name in ONE_NAME if f"`{name}`" not in page], "the usual names of figures"


# --- commands -----------------------------------------------------------------------------------------------------


def test_printed_commands_and_options_exist() -> None:
    group: Any = typer.main.get_command(app)
    lines = [
        line
        for page in (*PAGES, printed.ROOT / "README.md")
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if re.match(r"(\$ )?(ALIGNZOO_PLUGINS=\S+ )?alignzoo [a-z]", line)
    ]
    assert len(lines) > 20
    for line in lines:
        command, *arguments = shlex.split(line.partition("alignzoo ")[2], comments=True)
        assert command in group.commands, line
        called = group.commands[command]
        if inner := getattr(called, "commands", {}):  # where the first word is none of its commands, "open" is meant
            called = inner.get(arguments[0], inner["open"])
        known = {option for each in called.params for option in each.opts}
        assert not [word for word in arguments if word.startswith("-") and word not in known], line


if __name__ == "__main__":
    LAWS_PAGE.write_text(with_the_checks(LAWS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
