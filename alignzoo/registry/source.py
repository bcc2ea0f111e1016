"""A plugin's registrations, read from its source without running it.

So `alignzoo list` imports no torch, even for a one-file plugin that imports torch on top. Only a declarative
`alignzoo_register` can be read this way; `declared` says so when it must be run instead.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path
from typing import TypeAlias

from alignzoo.registry.registrar import (
    KEYWORDS,
    KINDS,
    MERGE,
    NAME,
    NOTHING,
    TARGET,
    About,
    Origin,
    Registration,
    about_recipe,
)


def find_spec(module: str) -> ModuleSpec:
    """Like `importlib.util.find_spec`, but it never runs the parents of a dotted module."""
    parts = module.split(".")
    path = None
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        spec = _below(name, path) if path is not None else None
        if spec is None:
            found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
            spec = next((spec for spec in found if spec is not None), None)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        path = spec.submodule_search_locations
        if path is None and end < len(parts):
            raise ModuleNotFoundError(f"No module named {module!r}; {name!r} is not a package", name=module)
    assert spec is not None
    return spec


def _below(name: str, path: Iterable[str]) -> ModuleSpec | None:
    """A module in the folders of its package. Python's own finder would look for the parent of a namespace package
    among the modules that have been imported."""
    portions: list[str] = []
    for entry in path:
        importer = pkgutil.get_importer(entry)
        found = importer.find_spec(name) if importer is not None else None
        if found is not None and found.loader is not None:
            return found
        portions += (found and found.submodule_search_locations) or ()
    if not portions:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = portions
    return spec


def parse(path: Path) -> ast.Module:
    """A file's syntax tree, to be read alone; its warnings wait for the import."""
    return _parsed(path, path.read_bytes())


@functools.lru_cache(maxsize=1024)
def _parsed(path: Path, source: bytes) -> ast.Module:
    """The same file is read for every registry that a program makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source, filename=str(path))


def declared(path: Path, origin: Origin) -> tuple[str, list[Registration] | None]:
    """The `api` of the plugin at this path, and what it registers; None when only running it can tell."""
    reader = _Reader(path, origin)
    return reader.api(), reader.registrations()


class _Reader:
    """One plugin's source."""

    def __init__(self, path: Path, origin: Origin) -> None:
        self.tree = parse(path)
        self.origin = origin
        package = origin.module if path.name == "__init__.py" else origin.module.rpartition(".")[0]
        self.bound = _bindings(self.tree, package)
        self.may_register = "*" in self.bound or b"alignzoo_register" in path.read_bytes()

    def api(self) -> str:
        """The API version that it asks for; empty where its source does not say."""
        for node in self.tree.body:
            match node:
                case ast.Assign([ast.Name("api")], ast.Constant(str(text))):
                    return text
                case ast.AnnAssign(ast.Name("api"), _, ast.Constant(str(text))):
                    return text
        return ""

    def registrations(self) -> list[Registration] | None:
        """One for each name that `alignzoo_register` gives, or None."""
        hooks = [node for node in self.tree.body if isinstance(node, ast.FunctionDef) and _is_hook(node)]
        register = [node for node in hooks if node.name == "alignzoo_register"]
        if hooks and not self.may_register:
            return []  # it only observes
        if len(register) != 1 or not _takes_zoo(register[0].args):
            return None
        found = list(self._read(register[0], ()))
        known = [each for each in found if each is not None]
        names = [(each.kind, name) for each in known for name in each.names]
        return known if len(known) == len(found) and len(set(names)) == len(names) else None

    def _read(self, function: ast.FunctionDef, within: tuple[str, ...]) -> Iterator[Registration | None]:
        """What a function registers, one for each statement, None for one that cannot be read. A statement may hand
        `zoo` to another function of the module, so that a long list is told in parts."""
        for statement in function.body[ast.get_docstring(function) is not None :]:
            match statement:
                case ast.Expr(ast.Call(ast.Name(name), [ast.Name("zoo")], [])) if name not in within:
                    part = self._function(name)
                    yield from self._read(part, (*within, name)) if part is not None else (None,)
                case _:
                    yield self._registration(statement)

    def _function(self, name: str) -> ast.FunctionDef | None:
        """A plain function of the module that takes `zoo`, where it alone has this name."""
        bound = [node for node in self.tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        plain = [node for node in bound if _takes_zoo(node.args) and not node.decorator_list]
        return plain[0] if len(bound) == len(plain) == 1 and self.bound.get(name, self) is None else None

    def _registration(self, statement: ast.stmt) -> Registration | None:
        match statement:
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("zoo"), kind), [ast.Constant(str(name)), target], keywords)):
                about = _about(kind, keywords)
            case _:
                return None
        if about is None or kind not in KINDS:
            return None
        if not all(NAME.fullmatch(each) and each not in (NOTHING, MERGE) for each in (name, *about.aliases)):
            return None
        if kind == "recipe":
            return self._recipe(name, target, about.summary)
        return self._part(kind, name, target, about)

    def _recipe(self, name: str, target: ast.expr, summary: str) -> Registration | None:
        match target:
            case ast.Constant(str(relative)) if (file := self.origin.folder / relative).is_file():
                return self.origin.registration("recipe", name, str(file), about_recipe(file, summary))
        return None

    def _part(self, kind: str, name: str, target: ast.expr, about: About) -> Registration | None:
        match target:
            case ast.Constant(str(text)) if TARGET.fullmatch(text):
                pass
            case ast.Name() | ast.Attribute() if (dotted := ast.unparse(target)).partition(".")[0] in self.bound:
                text = f"{self.origin.module}:{dotted}"
            case _:
                return None
        summary = about.summary or self._summary(*text.split(":"))
        return self.origin.registration(kind, name, text, replace(about, summary=summary))

    def _summary(self, module: str, name: str) -> str:
        """The first line of the docstring of "module:name", where one file's source says it."""
        home = self.bound.get(name) if module == self.origin.module else (module, name)
        match home:
            case ast.ClassDef():
                return _first_line(home)
            case (module, name):
                # That file is only worth a line of a list: what is wrong with it is said when it is loaded.
                with contextlib.suppress(ImportError, SyntaxError, OSError, ValueError):
                    body = parse(Path(find_spec(module).origin or "")).body
                    return next((_first_line(n) for n in body if isinstance(n, ast.ClassDef) and n.name == name), "")
        return ""


Binding: TypeAlias = ast.ClassDef | tuple[str, str] | None
"""What a module's own name stands for: a class, (module, name) for an import, or something else."""


def _bindings(tree: ast.Module, package: str) -> dict[str, Binding]:
    """The names that a module binds at its top level, unconditionally."""
    bound: dict[str, Binding] = {}
    for node in tree.body:
        match node:
            case ast.ClassDef(name):
                bound[name] = node
            case ast.FunctionDef(name):
                bound[name] = None
            case ast.Assign(targets):
                bound |= {target.id: None for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(ast.Name(name), _, ast.expr()):
                bound[name] = None
            case ast.Import(names):
                bound |= {(alias.asname or alias.name).partition(".")[0]: None for alias in names}
            case ast.ImportFrom(module, names, level):
                source = "." * (level or 0) + (module or "")
                with contextlib.suppress(ImportError):
                    source = resolve_name(source, package)
                bound |= {alias.asname or alias.name: (source, alias.name) for alias in names}
    return bound


def _about(kind: str, keywords: list[ast.keyword]) -> About | None:
    """What these keywords say of a name; None where running them alone can tell, or they are wrong."""
    found: dict[str, str | tuple[str, ...]] = {}
    for each in keywords:
        match each:
            case ast.keyword("aliases", ast.Tuple(names) | ast.List(names)):
                texts = tuple(name.value for name in names if isinstance(name, ast.Constant))
                value: str | tuple[str, ...] = tuple(text for text in texts if isinstance(text, str))
                if len(value) != len(names):
                    return None
            case ast.keyword(str(key), ast.Constant(str(value))) if key != "aliases":
                pass
            case _:
                return None
        if each.arg not in KEYWORDS.get(kind, ("summary",)):
            return None
        found[str(each.arg)] = value
    return About(**found)  # type: ignore[arg-type]  # each key has been given a value of its own type


def _is_hook(function: ast.FunctionDef) -> bool:
    return [ast.unparse(node).rpartition(".")[2] for node in function.decorator_list] == ["hookimpl"]


def _takes_zoo(arguments: ast.arguments) -> bool:
    return ast.unparse(arguments).partition(":")[0] == "zoo" and not arguments.defaults


def _first_line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0].strip()
