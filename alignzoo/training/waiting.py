"""What has been generated and scored, and waits to be trained on, as a checkpoint has it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from alignzoo.errors import RunError
from alignzoo.training.rollout import Rollout
from alignzoo.types import Group, Prompt

NOTHING = Prompt("")
"""In the place of a prompt that is the stage's, of which the place is kept."""


def dumped(rolled: Rollout, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """A step's groups, as JSON has them. Raises RunError for what only Python can hold."""
    places = {id(group): place for place, group in enumerate(rolled.brought)}
    groups = [places[id(group)] if id(group) in places else _dumped(group, prompts) for group in rolled.groups]
    return {"brought": [_dumped(group, prompts) for group in rolled.brought], "groups": groups}


def loaded(told: Mapping[str, Any], prompts: Sequence[Prompt]) -> Rollout:
    """What `dumped` was given."""
    brought = [_loaded(each, prompts) for each in told["brought"]]
    return Rollout([brought[x] if isinstance(x, int) else _loaded(x, prompts) for x in told["groups"]], brought)


def _dumped(group: Group, prompts: Sequence[Prompt]) -> dict[str, Any]:
    place = group.prompt.index
    known = place is not None and _same(group.prompt, prompts[place])
    if known:
        group = dataclasses.replace(group, prompt=NOTHING)
    try:
        found: dict[str, Any] = _adapter().dump_python(group, mode="json", warnings="error")
        json.dumps(found)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"what waits for a later step (schedule.ahead) cannot be written to a checkpoint: {error}. Prompts that a "
            "sampler has made itself hold texts and numbers alone"
        ) from error
    return {"place": place if known else None, "group": found}


def _loaded(told: Mapping[str, Any], prompts: Sequence[Prompt]) -> Group:
    group, place = _adapter().validate_python(told["group"], strict=False), told["place"]
    return group if place is None else dataclasses.replace(group, prompt=_numbered(prompts, place))


def _numbered(prompts: Sequence[Prompt], place: int) -> Prompt:
    return dataclasses.replace(prompts[place], index=place)


def _same(one: Prompt, two: Prompt) -> bool:
    """Whether they are equal but for their places; what Python holds alone is compared by identity first."""
    names = [field.name for field in dataclasses.fields(Prompt) if field.compare]
    pairs = [(getattr(one, name), getattr(two, name)) for name in names]
    return all(a is b or a == b for a, b in pairs)


@cache
def _adapter() -> TypeAdapter[Group]:
    return TypeAdapter(Group)
