"""The files of a new plugin's package, from the templates beside this."""

from __future__ import annotations

import datetime
import keyword
import re
import shutil
from pathlib import Path

from alignzoo.errors import PluginError, did_you_mean
from alignzoo.storage import install, partial_of

TEMPLATES = Path(__file__).parent / "templates"

SCAFFOLDED = ("optimizer", "reward", "sampler", "policy", "task", "judge", "engine")
"""The kinds for which there is a template."""

LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause")
"""By their SPDX names."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def make(name: str, kind: str, folder: Path, licence: str = LICENCES[0]) -> Path:
    """Write the package `alignzoo-NAME` into a folder; the package's own folder comes back."""
    if kind not in SCAFFOLDED:
        raise PluginError(f"there is no template for the kind {kind!r}. {did_you_mean(kind, SCAFFOLDED)}")
    if licence not in LICENCES:
        raise PluginError(f"there is no licence {licence!r} to choose. {did_you_mean(licence, LICENCES)}")
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise PluginError(f"{name!r} cannot be a name: take lower-case letters and digits, with '-' between words")
    package = folder / f"alignzoo-{name}"
    if package.exists():
        raise PluginError(f"{package} is there already: choose another name, or another --dir")
    partial = partial_of(package)
    try:
        for path, text in files(name, kind, licence).items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(text, encoding="utf-8")
        install(partial, package)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # the error that is told is the first one
        raise
    return package


def files(name: str, kind: str, licence: str) -> dict[str, str]:
    """Each file's text by its path."""
    module = f"alignzoo_{name.replace('-', '_')}"
    values = {
        "name": name,
        "kind": kind,
        "module": module,
        "distribution": f"alignzoo-{name}",
        "cls": "".join(word.capitalize() for word in name.split("-")),
        "title": name.replace("-", " ").capitalize(),
        "licence": licence,
        "year": str(datetime.date.today().year),
    }
    values |= {part: _filled(f"kinds/{kind}.{part}.jinja", values).rstrip() for part in ("test", "command")}
    return {
        "pyproject.toml": _filled("package/pyproject.toml.jinja", values),
        f"{module}.py": _filled(f"kinds/{kind}.py.jinja", values),
        f"tests/test_{module}.py": _filled("package/test.py.jinja", values),
        "README.md": _filled("package/README.md.jinja", values),
        "LICENSE": _filled(f"licences/{licence}.txt", values),
        ".gitignore": _filled("package/gitignore.jinja", values),
        ".github/workflows/test.yml": _filled("package/test.yml.jinja", values),
    }


def _filled(template: str, values: dict[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined

    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text).render(values)
