"""The floor plan: who may import whom, and where an algorithm's name may stand."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE, PLUGINS = ROOT / "alignzoo", ROOT / "plugins"

FLOORS = [
    {"transcript", "decoding", "errors"},
    {"types", "engines", "former", "hookspecs", "allocator", "importing", "calling", "printable"} | {"divergences"},
    {"files", "surroundings", "machine", "columns", "twins", "serving", "requirements"},
    {"functional", "interfaces", "schedule", "processes", "cost", "storage"},
    {"sharded", "gathering"},
    {"rankings", "gradients", "torch_optimizers", "microbatch", "policies", "traits", "lifecycle"},
    {"batching", "data", "judging", "rewards", "roles"},
    {"evaluation", "registry", "scaffold", "report"},
    {"metrics", "recipe"},
    {"training"},
    {"runs"},
    {"testing"},
    {"compare", "planning", "watch"},
    {"cli"},
]
"""A module imports only from lower floors; the parts of a package are one floor."""

FRAMEWORKS = {"transformers", "peft", "accelerate"}
MAY_IMPORT = {
    "alignzoo_hf": FRAMEWORKS,
    "alignzoo_tiny": {"transformers"},  # the script that makes the embedded model
    "alignzoo_trackers": {"accelerate"},  # the trackers are accelerate's
}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, typing_too: bool = True) -> Iterator[str]:
    """The modules that a file imports, in functions too; those for type checkers alone where asked."""
    tree = tree_of(path)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded and not typing_too:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module == "alignzoo"
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if whole else iter([node.module])


def part_of(module: str) -> str:
    return module.split(".")[1]


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "assets" not in path.parts)


def floor(part: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    own = path.relative_to(CORE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    known = set().union(*FLOORS)
    for module in imports(path, typing_too=False):
        if module.startswith("alignzoo.") and part_of(module) in known and part_of(module) != own:
            assert floor(part_of(module)) < floor(own), f"{own} imports {module}"


@pytest.mark.parametrize("path", modules(PLUGINS), ids=lambda p: str(p.relative_to(PLUGINS)))
def test_plugins_use_no_private_door(path: Path) -> None:
    own = path.relative_to(PLUGINS).parts[0].removesuffix(".py")
    for module in imports(path):
        top, *rest = module.split(".")
        assert not (top.startswith("alignzoo_") and top != own), f"{own} imports another plugin, {module}"
        if top == "alignzoo":
            assert not any(name.startswith("_") for name in rest), f"{own} imports {module}"
        assert top not in FRAMEWORKS - MAY_IMPORT.get(own, set()), f"{own} imports {module}"


@pytest.mark.parametrize("path", modules(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_the_core_knows_no_framework_and_no_algorithm(path: Path) -> None:
    used = {module.split(".")[0] for module in imports(path)}
    assert not used & (FRAMEWORKS | {"trl"})
    assert not {top for top in used if top.startswith("alignzoo_")}
    algorithms = {"sft", "reward-model", "dpo", "grpo", "ppo", "rloo", "reinforce", "gmpo", "bond"}
    if path.name == "traits.py":
        algorithms -= {"reward-model"}  # the kind of model that is trained, after which an optimizer is called
    words = {node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)}
    assert not words & algorithms


def test_every_module_has_a_floor() -> None:
    parts = {path.relative_to(CORE).parts[0].removesuffix(".py") for path in modules(CORE)} - {"__init__"}
    assert parts == set().union(*FLOORS)


def test_the_test_itself_sees_imports() -> None:
    assert "alignzoo.functional" in set(imports(PLUGINS / "alignzoo_preference" / "pairs.py"))


EVERYTHING = [*modules(CORE), *modules(PLUGINS)]


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: p.name)
def test_a_file_and_a_function_can_be_read_at_once(path: Path) -> None:
    """At most 400 lines of a file, and 60 of a function."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def swallowing(tree: ast.AST) -> Iterator[str]:
    """Where any exception may be dropped: a broad `except` that raises nothing, `suppress(Exception)`, and an error
    that `kept` keeps and nobody reads."""
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(kind) if kind is None or broad(kind):
                if not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                    yield f"line {node.lineno}: except without raise"
            case ast.Call(function, kinds) if ast.unparse(function).rpartition(".")[2] == "suppress":
                if any(map(broad, kinds)):
                    yield f"line {node.lineno}: suppress"
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                read = {ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                for each in ast.walk(node):
                    if isinstance(each, ast.withitem) and ast.unparse(each.context_expr).startswith("kept("):
                        name = ast.unparse(each.optional_vars) if each.optional_vars else "nothing"
                        if f"{name}.error" not in read:
                            yield f"{node.name}: {name}.error is not read"


def broad(kind: ast.expr) -> bool:
    """Whether an expression after `except` means any exception."""
    return bool({"Exception", "BaseException"} & {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)})


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: p.name)
def test_no_exception_is_swallowed(path: Path) -> None:
    assert not list(swallowing(tree_of(path)))


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept Exception as error:\n    print(error)",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "with contextlib.suppress(Exception):\n    f()",
        "def g():\n    with kept() as failed:\n        f()",
        "def g():\n    with kept(BaseException):\n        f()",
    ],
)
def test_what_swallows_is_seen(source: str) -> None:
    assert list(swallowing(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    f()\nexcept Exception as error:\n    raise Mine from error",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "def g():\n    with kept() as failed:\n        f()\n    return failed.error is None",
    ],
)
def test_what_raises_or_tells_is_left_alone(source: str) -> None:
    assert not list(swallowing(ast.parse(source)))


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda p: p.name)
def test_a_docstring_begins_with_what_it_is_about(path: Path) -> None:
    """Not with "Of", which leaves to the reader what it is of."""
    strings = (node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Expr))
    texts = [each.value for each in strings if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    assert not [text for text in texts if text.startswith("Of ")]
