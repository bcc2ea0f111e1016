"""What stands around an optimizer and has to stay as it was: global randomness, and state outside of its fields."""

from __future__ import annotations

import pickle
import sys
from collections import deque
from itertools import count

from torch import Tensor

from alignzoo.calling import kept
from alignzoo.testing.laws import Attempt
from alignzoo.testing.laws import randomness as randomness

STATE = (bool, int, float, str, bytes, bytearray, list, dict, set, deque, count, Tensor)
"""What can hold a state at the level of a module or a class."""


def globals_of(part: object) -> dict[str, bytes]:
    """The lists, tables, numbers and tensors of the modules and classes that a part is made of, by name."""
    found = {}
    for cls in type(part).__mro__:
        module = sys.modules.get(cls.__module__)
        if module is None or cls.__module__.partition(".")[0] in ("builtins", "typing", "abc", "alignzoo"):
            continue
        for owner in (module, cls):
            for name, value in list(vars(owner).items()):
                if isinstance(value, STATE) and not name.startswith("__"):
                    found[f"{owner.__name__}.{name}"] = _content(value)
    return found


def _content(value: object) -> bytes:
    """The bytes of a value; of a third party's that cannot be pickled, how it prints."""
    with kept() as refused:
        found = pickle.dumps(value)
    return found if refused.error is None else repr(value).encode()


def as_before(attempt: Attempt, what: str, before: dict[str, bytes], now: dict[str, bytes]) -> None:
    """Raise where one of these has changed, or is new."""
    changed = sorted(name for name in now if now[name] != before.get(name))
    attempt.require(not changed, f"{what} to stay as it was", f"{', '.join(changed)} changed")
