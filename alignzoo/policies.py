"""A policy is loaded from its settings, and held to its contract before anything is asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from alignzoo.errors import PluginError
from alignzoo.former import CHANGES, POLICY_METHODS
from alignzoo.interfaces import NO_ROLES, Policy, PolicySpec

MEMBERS = sorted(name for name in {*vars(Policy), *Policy.__annotations__} if not name.startswith("_"))
"""What every policy has."""

TRAINING = frozenset({"optimize", "backward", "drop_gradients", "step", "optimizer_state", "restore_optimizer"})
"""What `alignzoo.gradients.TorchTraining` brings."""


def loaded(spec: PolicySpec, needs: frozenset[str], roles: Mapping[str, PolicySpec] = NO_ROLES) -> Policy:
    """The policy that these settings build, with what an optimizer needs of it and the roles that it names; raises
    PluginError where it lacks a member of the contract."""
    policy = spec.load(needs, roles) if roles else spec.load(needs)
    if wrong := lacking(policy):
        raise PluginError(wrong)
    return policy


def lacking(policy: object) -> str:
    """What a policy lacks of its contract, and what to do about it; empty where it lacks nothing."""
    missing = [name for name in MEMBERS if not hasattr(policy, name)]
    if not missing:
        return _former_decoding(policy)
    lines = [f"the policy {type(policy).__name__} has no {', '.join(missing)}; see alignzoo.interfaces.Policy"]
    if TRAINING.intersection(missing):
        lines.append(
            "Where its weights are ordinary torch parameters, inherit alignzoo.gradients.TorchTraining, which has "
            f"{', '.join(sorted(TRAINING.intersection(missing)))}"
        )
    former = [f"{name}() is {now} now" for name, now in POLICY_METHODS.items() if hasattr(policy, name)]
    if former:
        lines.append(f"It was written for alignzoo 0.1: {'; '.join(former)}. {CHANGES}")
    return "\n".join(lines)


def _former_decoding(policy: Any) -> str:
    """What to do about a policy whose `generate` or `go_on` cannot be told how to decode."""
    for name in ("generate", "go_on"):
        known = inspect.signature(getattr(policy, name)).parameters
        if "decoding" not in known and not any(each.kind is each.VAR_KEYWORD for each in known.values()):
            return (
                f"{type(policy).__name__}.{name}() has no argument decoding: alignzoo.Decoding, which says how "
                f"completions are generated{' in the place of greedy' if 'greedy' in known else ''}. {CHANGES}"
            )
    return ""
