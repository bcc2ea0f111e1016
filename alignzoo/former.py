"""Names of alignzoo 0.1 that are gone, answered with what stands in their place; docs/changes.md has the whole list."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MODULES: Mapping[str, str] = {
    "alignzoo.collate": "alignzoo.batching (collate, answer, fill, only, trim) and alignzoo.rewards (WeightedReward)",
    "alignzoo.filling": "alignzoo.training.passes",
    "alignzoo.room": "alignzoo.microbatch (Room is MicroBatcher, NoRoomError is MicroBatchTooLarge)",
}
"""A module, and where its contents are."""

POLICY_METHODS: Mapping[str, str] = {
    "reference": 'answering("ref")',
    "room": "info().tokens_per_pass",
    "samples_exactly": "info().exact_samples",
    "fingerprint": "info().fingerprint",
    "shape": "info().shape",
    "pieces": "info().token_strings",
}
"""A method of a policy, and what it is now."""

NAMES: Mapping[str, str] = {
    "HasRoom": "PolicyInfo.tokens_per_pass, of what Policy.info() returns",
    "HasExactSamples": "PolicyInfo.exact_samples, of what Policy.info() returns",
    "HasFingerprint": "PolicyInfo.fingerprint, of what Policy.info() returns",
    "HasShape": "PolicyInfo.shape, of what Policy.info() returns",
    "HasPieces": "PolicyInfo.token_strings, of what Policy.info() returns",
}
"""A name that a module of alignzoo had, and what it is now."""

MEMBERS: Mapping[str, Mapping[str, str]] = {
    "Batch": {
        "ungroup": 'nothing: a minibatch counts groups for every algorithm, and couples = "row" says that the loss '
        "reads single rows",
        "chunks": "alignzoo.microbatch.cut(batch, rows, tokens=..., couples=...)",
    },
    "Outline": {"room": "tokens_per_pass"},
}
"""A class, and its attributes and arguments that are gone."""

VALUES: Mapping[str, str] = {
    "schedule.reward_stop": "in alignzoo 0.1 inf stood for never; now the key is left out, or null in a manifest",
}
"""A recipe's key whose number that is not finite had a meaning."""

CHANGES = "docs/changes.md lists all that has changed since alignzoo 0.1"


def advice(error: BaseException) -> str:
    """What stands in the place of the former name that an error, or what caused it, is about; empty where it is about
    none."""
    seen: BaseException | None = error
    while seen is not None:
        for former, now in _named(seen):
            return f"{former} was alignzoo 0.1's; now it is {now}. {CHANGES}"
        seen = seen.__cause__ or seen.__context__
    return ""


def value_advice(path: str) -> str:
    """What to write in the place of a recipe's number that is not finite; empty where it never had a meaning."""
    return next((now for key, now in VALUES.items() if path == key or path.endswith(f".{key}")), "")


def noted(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose errors carry the advice as a note, which a traceback shows at its end."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ImportError, AttributeError, TypeError) as error:
            if (told := advice(error)) and told not in getattr(error, "__notes__", ()):
                error.add_note(told)
            raise

    return run


def _named(error: BaseException) -> Iterator[tuple[str, str]]:
    """The former names that an error is about, each with what it is now."""
    if isinstance(error, ModuleNotFoundError):
        module = error.name or ""
        if module in MODULES:
            yield module, MODULES[module]
    elif isinstance(error, ImportError):
        found = re.match(r"cannot import name '(\w+)' from '(alignzoo[\w.]*)'", str(error))
        if found and found[1] in NAMES:
            yield f"{found[2]}.{found[1]}", NAMES[found[1]]
        elif found and f"{found[2]}.{found[1]}" in MODULES:
            yield f"{found[2]}.{found[1]}", MODULES[f"{found[2]}.{found[1]}"]
    elif isinstance(error, AttributeError):
        name, owner = error.name or "", type(error.obj).__name__
        if name in MEMBERS.get(owner, ()):
            yield f"{owner}.{name}", MEMBERS[owner][name]
        elif name in POLICY_METHODS and hasattr(error.obj, "answering"):
            yield f"Policy.{name}()", POLICY_METHODS[name]
        elif name in NAMES and str(getattr(error.obj, "__name__", "")).startswith("alignzoo"):
            yield name, NAMES[name]
    elif isinstance(error, TypeError) and re.search(r"\b(generate|go_on)\(\) got an unexpected .*'greedy'", str(error)):
        yield "generate(greedy=...)", "generate(decoding=alignzoo.Decoding(greedy=...))"
    elif isinstance(error, TypeError) and re.search(
        r"\b(generate|go_on)\(\) got an unexpected .*'decoding'", str(error)
    ):
        yield "a policy's generate(greedy: bool)", "generate(decoding: alignzoo.Decoding)"
    elif isinstance(error, TypeError):
        found = re.match(r"(?:.*\.)?(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if found and found[2] in MEMBERS.get(found[1], ()):
            yield f"{found[1]}({found[2]}=...)", f"{found[1]}({MEMBERS[found[1]][found[2]]}=...)"
