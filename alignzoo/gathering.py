"""Where the processes go their own ways for a while: each generates and scores its share, and calls a policy as often
as that takes. A policy whose weights are sharded is whole meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from alignzoo.columns import POLICY
from alignzoo.interfaces import HasGathered, Policy

ROLES = "asks_roles"
"""The attribute in which a sampler, a reward or a judge names the roles of the policy in training that it asks while it
works; POLICY is the policy itself."""

COLLECTIVE = "collective"
"""The attribute of a reward that all processes ask together."""


def apart(policy: Policy, *parts: Any, generates: bool) -> AbstractContextManager[None]:
    """Inside, each process may call the policy as often as these parts need it, and where it `generates` as that
    takes."""
    roles = roles_asked(parts)
    if (generates or roles) and policy.info().collective and isinstance(policy, HasGathered):
        return policy.gathered(sorted(roles - {POLICY}))
    return nullcontext()


def roles_asked(part: Any) -> frozenset[str]:
    """The roles of the policy in training that a part, or one in its fields, says that it asks."""
    return frozenset(role for each in _within(part) for role in getattr(each, ROLES, ()))


def is_collective(part: Any) -> bool:
    """Whether a reward, or one in its fields, is asked by all processes together."""
    return any(getattr(each, COLLECTIVE, False) for each in _within(part))


def _within(part: Any) -> Iterator[Any]:
    """A part, and all in its fields."""
    if isinstance(part, tuple | list):
        for each in part:
            yield from _within(each)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        yield part
        for field in dataclasses.fields(part):
            yield from _within(getattr(part, field.name))
