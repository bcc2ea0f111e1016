"""Objects where the command line has names: Python's arguments as overrides of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignzoo.errors import RunError
from alignzoo.interfaces import Policy, RewardSource
from alignzoo.policies import lacking


@dataclass(frozen=True)
class Ready:
    """A live policy in the place of a policy's settings."""

    policy: Any

    def load(self, needs: frozenset[str]) -> Policy:
        live: Policy = self.policy
        return live


def overrides_of(policy: Any, data: Any, reward: Any) -> dict[str, Any]:
    """The three arguments that may be objects, as overrides."""
    changes: dict[str, Any] = {}
    if isinstance(policy, str | Path):
        changes["policy.model"] = str(policy)
    elif isinstance(policy, torch.nn.Module):
        changes["policy.model"] = policy
    elif isinstance(policy, Mapping):
        changes |= flat({"policy": policy})
    elif policy is not None:
        live = hasattr(policy, "forward") and not hasattr(policy, "load")
        if live and (wrong := lacking(policy)):
            raise RunError(wrong)
        changes["policy"] = Ready(policy) if live else policy
    if data is not None:
        changes["data"] = list(data) if isinstance(data, Iterator) else data  # several stages may read them
    if reward is not None:
        rewards = reward if isinstance(reward, list | tuple) else [reward]
        changes["reward"] = [_reward(each) for each in rewards]
    return changes


def _reward(reward: Any) -> Any:
    if isinstance(reward, str):
        return {"name": reward}
    if callable(reward) and not isinstance(reward, RewardSource):
        return {"name": "python", "function": reward}
    return reward


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": each for name, each in value.items()}
        else:
            flat[key] = value
    return flat
