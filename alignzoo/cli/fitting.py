"""Which methods fit what somebody has: the shape of the data, who scores, and memory; all from what parts declare."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignzoo import columns
from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.recipe.fit import TASK_REWARD
from alignzoo.registry.registrar import NOTHING
from alignzoo.traits import REWARD_MODEL, Traits, traits_of

if TYPE_CHECKING:
    from alignzoo.cost import ModelShape
    from alignzoo.registry import Registry
    from alignzoo.registry.registrar import Registration
    from alignzoo.types import Prompt

SHAPES: Mapping[str, str] = {
    "demonstrations": "a good answer to each prompt",
    "pairs": "a better and a worse answer to each prompt",
    "rankings": "three or more answers to each prompt, the better ones first",
    "scores": "a number for each answer",
    "labels": "good or bad, for each answer by itself",
    "prompts": "prompts without answers",
}
"""What data can be."""

SCORERS: Mapping[str, str] = {
    "checker": "a right answer or a function that checks one",
    "judge": "a model that is asked which answer is better",
    REWARD_MODEL: "a model that scores answers",
    "people": "people who are asked",
}
"""Who can score what a policy generates."""

REWARDS: Mapping[str, str] = {
    "checker": "reward='{name=\"match\"}'",
    "judge": 'reward=\'{name="judge", judge="local"}\'',
    REWARD_MODEL: 'reward=\'{name="model", model="DIR"}\'',
    "people": "reward=human",
}
"""The setting by which each becomes a stage's reward."""


ANSWERS = ("answer", "solution", "ground_truth", "final_answer", "target")
"""Columns in which data sets have the right answer."""

RANK = 16
"""The rank of the adapter by which memory is told."""

ADAPTER = 0.01
"""The share of a model's weights that such an adapter has about, where the model's own sizes are not known."""

LOOKED_AT = 64
"""Rows by which the shape of a file is told."""

Grade = Literal["made", "also"]


@dataclass(frozen=True)
class Have:
    """What somebody has."""

    shape: str
    scorers: tuple[str, ...] = ()
    teacher: bool = False
    data: str = ""
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    """As in a recipe's data."""
    answer: str = ""
    """The column with the right answer."""
    mode: str = ""
    """How answers are held against it, where it is not as they stand."""
    model: str = ""
    model_shape: ModelShape | None = None
    memory: float = 0.0
    """Bytes; 0: not said."""


@dataclass(frozen=True)
class Fit:
    """A method that fits."""

    listed: Registration
    optimizer: Any
    traits: Traits
    grade: Grade
    """Whether it is made for such data, or can be trained on them, too."""
    how: str
    """What it makes of the data, where it is not made for them."""
    extra: tuple[str, ...]
    """Settings without which it would not run so."""
    recipe: bool
    """Whether a recipe of its own is there, and meant for such data."""
    base: str
    """The recipe that is run; another method's, where its own samples first."""
    full: float
    """Bytes with every weight trained; 0: not known."""
    adapter: float
    """Bytes with an adapter on frozen weights in bf16; 0: not known."""


@dataclass(frozen=True)
class Own:
    """The recipe that an optimizer's name stands for."""

    samples: str
    """The stage that generates what another one is trained on; empty where there is none."""
    stands: tuple[str, ...] = ()
    """The overrides of rewards that stand for the task's own among several, for which data of one's own have none."""


def fitting(zoo: Registry, have: Have) -> list[Fit]:
    """Every optimizer that can be trained so, those with a recipe of their own first, and variants last."""
    found = []
    for each in zoo.list("optimizer"):
        part = zoo.get("optimizer", f"{each.plugin}/{each.name}")
        traits, needs = traits_of(part), _needs(part)
        own = _own(zoo, each.name)
        rounds = own is not None and bool(own.samples)
        fit = _rounds(have, own) if rounds and own and have.scorers else _fit(have, traits, teachers(needs))
        if fit is None:
            continue
        full, adapter = (memory(have.model_shape, needs, adapted=each) for each in (False, True))
        elsewhere = rounds and not have.scorers
        grade, how, extra = fit
        if elsewhere:
            grade, how = "also", "what is given is trained on, though its recipe samples first"
        recipe = own is not None and not elsewhere
        found.append(Fit(each, part, traits, grade, how, extra, recipe, "" if elsewhere else each.name, full, adapter))
    found.sort(key=lambda each: (not each.recipe, bool(each.listed.variant_of)))
    bases = {each.traits.trains: each.base for each in reversed(found) if each.recipe and not each.traits.online}
    return [replace(each, base=each.base or bases.get(each.traits.trains, "")) for each in found]


def _own(zoo: Registry, name: str) -> Own | None:
    """What the recipe of an optimizer's name does."""
    if not zoo.has("recipe", name):
        return None
    table = tomllib.loads(Path(zoo.get("recipe", name)).read_text("utf-8"))
    stages = [inner for each in table.get("stage", ()) for inner in each.get("stage", [each])]
    samples = [each["name"] for each in stages if each.get("optimizer") == NOTHING]
    several = [(each["name"], each["reward"]) for each in stages if isinstance(each.get("reward"), list)]
    stands = [f"{name}.reward.{place}" for name, given in several for place, r in enumerate(given) if r == TASK_REWARD]
    return Own(samples[0] if samples else "", tuple(stands))


def _rounds(have: Have, own: Own) -> tuple[Grade, str, tuple[str, ...]]:
    """How it is run that samples first, and is trained on that."""
    reward = _reward(have)
    return "made", "", (f"{own.samples}.{reward}", *(f"{each}={reward.partition('=')[2]}" for each in own.stands))


def _needs(part: Any) -> frozenset[str]:
    from alignzoo.registry.registrar import needs_of

    return frozenset(needs_of(part))


def teachers(needs: Collection[str]) -> list[str]:
    """The roles that are another policy's."""
    return sorted(columns.roles(needs) - {columns.OLD, columns.REFERENCE})


def _fit(have: Have, traits: Traits, others: Sequence[str]) -> tuple[Grade, str, tuple[str, ...]] | None:
    """How good a method of these traits fits; None where it does not."""
    answers = have.shape != "prompts"
    if others:
        given = tuple(f"optimizer.{role}=DIR" for role in others)
        if not have.teacher or not (traits.online or answers):
            return None
        if traits.online and traits.reads_rewards:
            return ("made", "", (*given, _reward(have))) if have.scorers else None
        return "made", "", given
    if traits.online:
        if not have.scorers:
            return None
        return "made", "", (_reward(have),)
    if traits.trains == REWARD_MODEL:
        fits = have.shape in (("labels", "scores") if traits.completions == 1 else ("pairs", "rankings", "scores"))
        return ("made", "", ()) if fits else None
    return _offline(have, traits)


def _offline(have: Have, traits: Traits) -> tuple[Grade, str, tuple[str, ...]] | None:
    """The same of a method that is trained on given answers."""
    most = {"pairs": 2, "rankings": 3, "scores": 3}.get(have.shape, 1)
    if traits.imitates:
        best = {"demonstrations": "", "labels": "the good ones are imitated"}
        if have.shape in ("pairs", "rankings", "scores", *best):
            how = best.get(have.shape, "the best of each prompt is imitated")
            return "also" if how else "made", how, ()
    elif traits.completions == 1 and have.shape in ("labels", "scores"):
        return "made", "", ()
    elif traits.completions == 1 and have.shape in ("pairs", "rankings"):
        return "also", "each answer by itself", ()
    elif 1 < traits.completions <= most:
        return "made", "", ()
    if have.scorers and have.shape == "prompts" and (traits.imitates or traits.completions > 1):
        n = max(4, traits.completions)
        sampler = f"sampler='{{name=\"policy\", n={n}}}'"
        return "also", f"trained on {n} answers of the policy's own, scored", (sampler, _reward(have))
    return None


def _reward(have: Have) -> str:
    """The reward of who scores."""
    first = have.scorers[0]
    if first != "checker":
        return REWARDS[first]
    said = {"answer": have.answer if have.answer != "answer" else "", "mode": have.mode}
    return "reward='{" + ", ".join(['name="match"', *(f'{key}="{each}"' for key, each in said.items() if each)]) + "}'"


def command(have: Have, fit: Fit) -> list[str]:
    """The words of the command that trains it."""
    words = ["alignzoo", "run", fit.base or fit.listed.name]
    words += [f"optimizer={fit.listed.name}"] if fit.base not in ("", fit.listed.name) else []
    if have.model:
        words.append(f"policy.model={shlex.quote(have.model)}")
    if have.memory and have.memory < fit.full:
        words += [f"policy.lora_rank={RANK}", "policy.dtype=bf16"]
    return [*words, *_data(have), *fit.extra]


def _data(have: Have) -> Iterator[str]:
    """The settings by which a run reads the data as they were looked at."""
    yield f"data.path={shlex.quote(have.data or 'FILE')}"
    if have.format != "auto":
        yield f"data.format={have.format}"
    if have.columns:
        renamed = (f"{json.dumps(ours)}={json.dumps(theirs)}" for ours, theirs in have.columns.items())
        yield f"data.columns={shlex.quote('{' + ', '.join(renamed) + '}')}"


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(shape: ModelShape | None, needs: Collection[str], *, adapted: bool) -> float:
    """Bytes of weights, gradients, moments and frozen models by `alignzoo plan`'s arithmetic, without activations. A
    teacher is taken to be as large as the policy; frozen models are in bf16."""
    from alignzoo import cost
    from alignzoo.schedule import Schedule
    from alignzoo.torch_optimizers import state_bytes

    if shape is None:
        return 0.0
    own = replace(shape, trained=max(1, round(ADAPTER * shape.parameters))) if adapted else shape
    if "values" in needs:
        own = replace(own, critic=replace(own, shared=adapted))
    total = cost.weight_bytes(own, 2) + cost.gradient_bytes(own) + state_bytes(Schedule(), own)
    if columns.REFERENCE in columns.roles(needs):
        total += cost.reference_bytes(own, 2)
    return float(total + len(teachers(needs)) * cost.frozen_bytes(shape, 2))


SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([MB])", re.I)


def size_of(zoo: Registry, model: str) -> ModelShape:
    """The sizes of a model: of its directory or hub id, or of a number of parameters as in 1.5B."""
    from alignzoo.cost import ModelShape
    from alignzoo.interfaces import HasOutline

    if said := SIZE.fullmatch(model):
        count = round(float(said[1]) * {"M": 1e6, "B": 1e9}[said[2].upper()])
        if not count:
            raise RecipeError(f"--model {model}: a model has parameters: give its size, as in 1.5B")
        return ModelShape(0, 0, 0, 0, 0, 0, True, 0, parameters=count, trained=count, trunk=count, tied=True)
    for name in zoo.names("policy"):
        spec = zoo.get("policy", name)(model=model)
        if isinstance(spec, HasOutline):
            return spec.outline(frozenset({"logprobs"})).shape
    raise RecipeError(f"--model {model}: no policy tells a model's sizes: give them, as in --model 1.5B")


# --- looking at a file ------------------------------------------------------------------------------------------------


def looked_at(path: str, format: str, renamed: Mapping[str, str]) -> tuple[str, str, str]:
    """The shape of a file by its first rows, the column that looks like a right answer, and how answers are held
    against it: as numbers where each ends with one, as mathematics where one is in LaTeX, else as they stand."""
    from alignzoo.data import Data, read

    rows = list(read(Data(path, format=format, columns=dict(renamed), limit=LOOKED_AT)))
    shapes = [_shape_of(each) for each in rows]
    answer = next((name for name in ANSWERS if all(name in each.info for each in rows)), "")
    mode = _mode([str(each.info[answer]).strip() for each in rows]) if answer else ""
    if {*shapes} <= {"labels", "demonstrations"} and "labels" in shapes:
        return "labels", answer, mode
    return max(dict.fromkeys(shapes), key=shapes.count), answer, mode


def _mode(answers: Sequence[str]) -> str:
    if any("\\" in each for each in answers):
        return "math"
    return "numeric" if answers and all(NUMBER.search(each) for each in answers) else ""


NUMBER = re.compile(r"(^|####\s*)[-+$]*\d[\d,]*(\.\d+)?$")
"""A right answer that is a number, or ends with one after the mark that GSM8K has."""


def _shape_of(prompt: Prompt) -> str:
    """What one row is."""
    many, labels = len(prompt.completions), prompt.labels
    if not many:
        return "prompts"
    if many == 1:
        return "demonstrations" if labels in ((), (1.0,)) else "labels" if labels == (0.0,) else "scores"
    if many == 2 and sorted(labels) == [0.0, 1.0]:
        return "pairs"
    return "rankings" if all(float(each).is_integer() and each <= 0 for each in labels) else "scores"


def check_shape(name: str) -> str:
    """The name of a shape of data."""
    if name not in SHAPES:
        raise RecipeError(f"--data {name}: this is neither a file nor a shape of data. {did_you_mean(name, SHAPES)}")
    return name


def is_file(text: str) -> bool:
    """Whether `--data` names a place, and no shape."""
    return text not in SHAPES and (Path(text).exists() or "/" in text or "." in text)


def fits_shape(traits: Traits, needs: Collection[str], shape: str) -> bool:
    """Whether a method is trained on data of a shape, whoever scores."""
    have = Have(shape, tuple(SCORERS) if shape == "prompts" else (), teacher=shape in ("prompts", "demonstrations"))
    found = _fit(have, traits, teachers(needs))
    return found is not None and found[0] == "made"


def within(fits: Sequence[Fit], memory: float) -> Iterator[Fit]:
    """Those that memory suffices for, with an adapter at least."""
    yield from (each for each in fits if not memory or min(each.full, each.adapter) <= memory)
