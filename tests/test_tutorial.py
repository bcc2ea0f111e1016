"""The pages of docs/ are true: their commands do as printed what is printed, in a fresh environment."""

from __future__ import annotations

from pathlib import Path

import pytest

import printed
from conftest import STRANGERS

DOCS = printed.ROOT / "docs"
SLOW = ("algorithm", "judge", "reward", "sampler")
"""Pages whose commands train and compare for minutes."""
ELSEWHERE = ("human-feedback",)
"""Pages that have a test of their own."""
CONSOLE = [page for page in sorted(DOCS.rglob("*.md")) if "```console\n" in page.read_text(encoding="utf-8")]
PAGES = [page for page in CONSOLE if page.stem not in ELSEWHERE]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow) if page.stem in SLOW else page for page in PAGES],
    ids=[page.stem for page in PAGES],
)
def test_a_page_does_what_it_says(page: Path, workshop: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    session = printed.opened(text, tmp_path / "work", workshop)
    try:
        printed.check(text, session)
    finally:
        session.close()


def test_the_sampler_of_the_tutorial_is_the_stranger_that_is_installed_elsewhere() -> None:
    page = (DOCS / "tutorials" / "sampler.md").read_text(encoding="utf-8")
    (module,) = [block for block in printed.blocks(page) if block.title == "alignzoo_varied.py"]
    assert module.body == (STRANGERS / "alignzoo-varied" / module.title).read_text(encoding="utf-8")


PAGE = """
```python title="said.py"
print("3 mice")
```

```console
$ python said.py
2 mice
$ cd / && pwd
/
```

```console title="It fails"
$ false
```
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("", ""), ""),
        (("2 mice", "2 men"), "printed: '# men'"),
        (("2 mice", "2 mice\nand men"), "printed: 'and men'"),
        (("2 mice\n", "...\n"), ""),
        (("3 mice", "3 mice\\nand men"), "not printed: 'and men'"),
        (("$ false", "$ true"), "status 0"),
        (("python said.py", "python sad.py"), "status 2"),
    ],
)
def test_this_test_can_fail(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    session = printed.Session(tmp_path, tmp_path, printed.variables(tmp_path))
    try:
        if not says:
            printed.check(PAGE.replace(*change), session)
        else:
            with pytest.raises(AssertionError) as told:
                printed.check(PAGE.replace(*change), session)
            assert says in str(told.value)
    finally:
        session.close()


def test_a_diff_changes_one_place() -> None:
    assert printed.edited("a\nb\nc\n", " a\n-b\n+x\n") == "a\nx\nc\n"
    with pytest.raises(ValueError, match="stands there 2 times"):
        printed.edited("b\nb\n", "-b\n+x\n")
