"""Plugins that raise, leave, register nonsense or change what all share: named, kept out, and no harm to others."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest

from alignzoo import hookspecs
from alignzoo.errors import PluginError
from alignzoo.registry import KINDS, Registry
from faults.generated import Short, check_told, odd

ERRORS = ("ValueError('x')", "BaseException", "KeyboardInterrupt", "GeneratorExit", "SystemExit(7)", "RecursionError")
ERRORS += ("ImportError('x')", "ModuleNotFoundError('x', name='gone')", "StopIteration", "MemoryError", "OSError(28)")
TARGETS = (
    "3",
    "None",
    "'x'",
    "'os:nope'",
    "'nowhere:X'",
    "object()",
    "object",
    "lambda: 0",
    "type",
    "Odd",
    "Odd()",
    "[]",
)
NAMES = ("'mine'", "'a/b'", "''", "3", "'none'", "'x' * 300", "'\\x1b[2J'", "'grpo'", "None")
AT_IMPORT = (
    "import os; os.chdir('/')",
    "import os; os.environ['FAULT'] = '1'",
    "import random; random.seed(0)",
    "from alignzoo import functional; functional.seeds = None",
    "import sys; sys.exit(3)",
    "import gone_xyz",
    "def f(: pass",
    "\0",
    "print('\\x1b[2J', end='')",
    "raise {error}",
    "try: 1 / 0\nexcept ZeroDivisionError: raise {error}",
    "def __getattr__(name): raise {error}",
    "api = '>=9'",
    "api = 3",
    "from alignzoo import *",
    "import warnings; warnings.warn('x')",
    "pass",
)
ODD = """
class Meta(type):
    def __getattr__(cls, name): raise {error}
class Odd(metaclass=Meta):
    __hash__ = None
    @property
    def needs(self): raise {error}
"""


def case(rng: random.Random, folder: Path) -> None:
    """Add it, load it, list everything, ask for its parts, and let it watch."""
    path = folder / "hostile.py"
    content = _source(rng).encode("utf-8", "surrogatepass")
    path.write_bytes(odd.damaged(rng, content) if rng.random() < 0.15 else content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNZOO_PLUGINS", "imitation")
        zoo = Registry(warn=lambda told: None)
    for work in (
        functools.partial(zoo.add_file, path),
        zoo.load_all,
        functools.partial(zoo.get, rng.choice(KINDS), "mine"),
        zoo.list,
        zoo.examine,
        zoo.distributions,
        zoo.trackers,
    ):
        try:
            work()
        except PluginError as error:
            check_told(error)
    for hook in [name for name in vars(hookspecs) if name.startswith("alignzoo_") and name != "alignzoo_register"]:
        arguments = {name: None for name in zoo.hook.__dict__[hook].spec.argnames}
        zoo.observe(hook, **arguments)
    if not zoo.has("optimizer", "sft") or zoo.get("optimizer", "sft").__name__ != "SFT":
        raise Short("another plugin's part is gone")


def _source(rng: random.Random) -> str:
    error = rng.choice(ERRORS)
    lines = ["import alignzoo"]
    lines += [rng.choice(AT_IMPORT).replace("{error}", error) for _ in range(rng.choice((0, 1, 1)))]
    lines += [ODD.replace("{error}", error)]
    hooks = [name for name in vars(hookspecs) if name.startswith("alignzoo_") and name != "alignzoo_register"]
    if rng.random() < 0.5:
        taken = rng.choice(("report", "run", "result", "zoo", "*all", ""))
        lines += [f"@alignzoo.hookimpl\ndef {rng.choice((*hooks, 'alignzoo_nope'))}({taken}):\n    raise {error}"]
    body = [
        f"    zoo.{rng.choice((*KINDS, 'nope'))}({rng.choice(NAMES)}, {rng.choice(TARGETS)})"
        for _ in range(rng.choice((1, 1, 2)))
    ]
    body += [f"    raise {error}"] * (rng.random() < 0.15)
    lines += [f"@alignzoo.hookimpl\ndef alignzoo_register({rng.choice(('zoo', 'zoo', 'zoo', 'zoo, x', ''))}):", *body]
    return "\n".join(lines) + "\n"
