"""What stages leave to later ones, a model or data; and whether those that refer to it can use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from alignzoo.errors import RecipeError
from alignzoo.recipe.stages import Stage
from alignzoo.recipe.tables import STAGE_REFERENCE
from alignzoo.requirements import brings_scores, from_data, generated_per_prompt
from alignzoo.traits import NOTHING, traits_of


def connected(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages, those that train on what an earlier one generates with that one as their origin. Raises RecipeError
    where a stage wants of another what that one does not leave."""
    found: dict[str, Stage] = {}
    for stage in stages:
        named = dict(_references(stage.resolved, stage.name))
        for key, name in named.items():
            _check(key, name, found[name], wants_data=key in (f"{stage.name}.data.path", _earlier(stage.name)))
        path = _path(stage)
        origin = found[path.removeprefix(STAGE_REFERENCE)] if path.startswith(STAGE_REFERENCE) else None
        if origin is not None:
            _check_data(stage)
            _check_enough(stage, origin)
        earlier = found.get(named.get(_earlier(stage.name), ""))
        found[stage.name] = replace(stage, origin=origin, earlier=earlier)
    return tuple(found.values())


def _earlier(stage: str) -> str:
    """The key by which a stage that leaves data names one whose data it leaves again."""
    return f"{stage}.optimizer.earlier"


def leaves_data(stage: Stage) -> bool:
    """Whether a stage trains nothing, and leaves what it generates."""
    return traits_of(stage.optimizer).trains == NOTHING


def _check(key: str, name: str, earlier: Stage, *, wants_data: bool) -> None:
    if wants_data and not leaves_data(earlier):
        raise RecipeError(
            f'{key} = "stage:{name}": that stage trains a model and leaves no data; a stage that generates data has '
            'optimizer = "none"'
        )
    if not wants_data and leaves_data(earlier):
        raise RecipeError(f'{key} = "stage:{name}": that stage trains nothing (optimizer = "none") and leaves data')


def _check_data(stage: Stage) -> None:
    """Raise where the data of an earlier stage are given settings that are for files of other shapes."""
    for f in fields(stage.data):
        if f.name not in ("path", "too_long") and getattr(stage.data, f.name) != _default(f):
            raise RecipeError(
                f"{stage.name}.data.{f.name}: this is for data of one's own; what an earlier stage generated is read "
                "as it is: leave it out"
            )


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _check_enough(stage: Stage, origin: Stage) -> None:
    """Raise where the data will have fewer completions of each prompt than the optimizer compares."""
    least, n = traits_of(stage.optimizer).completions, generated_per_prompt(origin.sampler)
    if n is not None and n < least and from_data(stage.sampler) and not brings_scores(origin.sampler):
        raise RecipeError(
            f"{stage.name}.data.path: {origin.name} generates {n} completion of each prompt, but the optimizer of "
            f"{stage.name} compares at least {least}: set {origin.name}.sampler.n={least} or more"
        )


def _path(stage: Stage) -> str:
    return str(getattr(stage.data, "path", ""))


def _references(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The keys that refer to earlier stages, each with the stage's name."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _references(each, f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _references(each, f"{path}.{index}")
    elif isinstance(value, str) and value.startswith(STAGE_REFERENCE):
        yield path, value.removeprefix(STAGE_REFERENCE)
