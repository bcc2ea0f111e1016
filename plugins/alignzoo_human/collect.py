"""`alignzoo collect`: several answers to each prompt, with different settings and models, ready to be labelled."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignzoo.decoding import Decoding
from alignzoo.errors import DataError, RunError
from alignzoo.files import line_of, read_lines
from alignzoo.functional import derive
from alignzoo.interfaces import Policy
from alignzoo.storage import for_owner, write_text
from alignzoo.types import Prompt
from alignzoo_human.items import shuffled, written

FORM = 2
"""The version of who answers which prompt."""

AT_ONCE = 32
"""Prompts that are answered together, and then kept."""


@dataclass(frozen=True)
class Way:
    """How an answer is generated."""

    model: str
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None

    def settings(self) -> dict[str, Any]:
        """What is said of it beside the model."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "model"}

    def decoding(self) -> Decoding:
        """How its answers are decoded."""
        return Decoding(self.max_new_tokens, self.temperature, self.top_k, self.top_p)


def ways(
    models: Sequence[str],
    temperatures: Sequence[float],
    top_k: Sequence[int],
    top_p: Sequence[float],
    max_new_tokens: int | None,
) -> list[Way]:
    """Each combination."""
    several = itertools.product(models, temperatures or [None], top_k or [None], top_p or [None])
    return [Way(model, t, k, p, max_new_tokens) for model, t, k, p in several]


def collect(
    prompts: Sequence[Prompt],
    n: int,
    by: Sequence[Way],
    load: Callable[[Way], Policy],
    out: Path,
    *,
    seed: int = 0,
    told: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Rows of a prompt, n answers, and who generated each, written to a file.

    The ways take turns, in ever another order, so that each has its share of the answers and meets each other one.
    What is generated is kept beside the file until all is there, and a second start goes on from it.
    """
    part = out.with_name(out.name + ".part")
    about = {"n": n, "ways": [asdict(way) for way in by], "seed": seed, "prompts": _digest(prompts), "form": FORM}
    kept = _kept(part, about)
    for number, way in enumerate(by):
        mine = _shares(len(prompts), n, len(by), number, seed)
        if all((number, i) in kept for indices in mine.values() for i in indices):
            continue
        told(f"{way.model}, {', '.join(f'{k} {v}' for k, v in way.settings().items()) or 'its own settings'}")
        policy = load(way)
        asked = [_asked(prompt, policy.info().chats) for prompt in prompts]
        for times, indices in mine.items():
            left = [i for i in indices if (number, i) not in kept]
            for some in _batched(left):
                seeds = [derive(seed, "collect", number, i) for i in some]
                groups = policy.generate([asked[i] for i in some], times, seeds=seeds, decoding=way.decoding())
                lines = []
                for i, each, group in zip(some, seeds, groups, strict=True):
                    answers = [{"text": c.text, "finished": c.finished} for c in group.completions]
                    kept[number, i] = {"way": number, "prompt": i, "seed": each, "answers": answers}
                    lines.append(line_of(kept[number, i]))
                with open(part, "a", encoding="utf-8", opener=for_owner) as file:
                    file.writelines(lines)
        del policy
    rows = [_row(prompt, i, by, kept) for i, prompt in enumerate(prompts)]
    write_text(out, "".join(map(line_of, rows)), private=True)
    part.unlink()
    return rows


def _asked(prompt: Prompt, chats: bool) -> Prompt:
    """The prompt as this model is asked: a text is a user's turn where it has a chat template."""
    if not isinstance(prompt.messages, str) or prompt.chat == "plain":
        return prompt
    return replace(prompt, chat="user" if chats else "plain")


def _shares(prompts: int, n: int, ways: int, number: int, seed: int) -> dict[int, list[int]]:
    """The prompts by how many answers of this way they get.

    Over all answers the ways take turns. Whenever each has had as many as the others at the end of a prompt, they go on
    in another order: else the third of four ways would never answer the same prompt as the first, where each has two.
    """
    found: dict[int, list[int]] = defaultdict(list)
    together = math.lcm(n, ways) // n
    for i in range(prompts):
        order = shuffled(ways, "collect", seed, i // together) if i >= together else range(ways)
        times = sum(order[(i * n + j) % ways] == number for j in range(n))
        if times:
            found[times].append(i)
    return found


def _batched(values: Sequence[int]) -> list[Sequence[int]]:
    return [values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE)]


def _digest(prompts: Sequence[Prompt]) -> str:
    texts = [(prompt.messages, prompt.chat) for prompt in prompts]
    return hashlib.sha256(written(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _kept(part: Path, about: Mapping[str, Any]) -> dict[tuple[int, int], dict[str, Any]]:
    """What an earlier start has generated."""
    if not part.exists() or not part.read_bytes().strip():
        part.parent.mkdir(parents=True, exist_ok=True)
        write_text(part, line_of(about), private=True)
        return {}
    head, *rest = read_lines(part)
    if head != json.loads(json.dumps(about)):
        raise RunError(
            f"{part} is of a collection with other models, prompts or settings: delete it, or give another --out"
        )
    whole = part.read_bytes()
    part.write_bytes(whole[: whole.rfind(b"\n") + 1])  # a line that was cut off in the writing
    return {(row["way"], row["prompt"]): row for row in rest}


def _row(prompt: Prompt, i: int, by: Sequence[Way], kept: Mapping[tuple[int, int], Any]) -> dict[str, Any]:
    mine = [(number, kept[number, i]) for number in range(len(by)) if (number, i) in kept]
    answers = [(by[number], line["seed"], answer) for number, line in mine for answer in line["answers"]]
    plain = isinstance(prompt.messages, str)
    return {
        "prompt": prompt.messages if plain else [dict(turn) for turn in prompt.messages if not isinstance(turn, str)],
        "completions": [
            answer["text"] if plain else [{"role": "assistant", "content": answer["text"]}] for _, _, answer in answers
        ],
        "origins": [{"model": way.model, **way.settings(), "seed": seed} for way, seed, _ in answers],
        "finished": [answer["finished"] for _, _, answer in answers],
    }


def prompts_of(path: Path, *, plain: bool) -> list[Prompt]:
    """The prompts of a file: a line each of a text file, or the questions of data in any format."""
    from alignzoo.data import READERS, Data, read
    from alignzoo.files import check_kind

    check_kind(path)
    if path.is_file() and not any(path.name.endswith(ending) for ending in READERS):
        try:
            lines = path.read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as text in UTF-8: {error}") from error
        found = [Prompt(line) for line in lines if line.strip()]
    else:
        found = list({written(prompt.messages): prompt for prompt in read(Data(str(path)))}.values())
    if not found or not all(prompt.messages for prompt in found):
        raise DataError(f"{path} holds no prompts, or an empty one: give one a line")
    chat = "plain" if plain else "auto"
    return [
        replace(
            prompt, completions=(), labels=(), info={}, chat=chat if isinstance(prompt.messages, str) else prompt.chat
        )
        for prompt in found
    ]
