"""`alignzoo generate`: a model answers prompts of the command line, of a file, or of a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import DataError, ModelError, RecipeError
from alignzoo.files import check_kind, decoded
from alignzoo.printable import escaped, printable

if TYPE_CHECKING:
    from alignzoo.interfaces import Policy
    from alignzoo.registry import Registry
    from alignzoo.types import Group, Message, Prompt

AT_ONCE = 32
"""Prompts of a file that are answered together."""


@told
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL_DIR", help="A model's directory, or a hub id.")],
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Answer this.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answer each line; of a .jsonl, each row's `prompt`.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; default 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k most likely tokens; 0: all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the fewest tokens that make up p.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length limit of an answer; default 128.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Sample among what is p times as likely as the likeliest.")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End where this comes; repeatable.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most likely token.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed generates the same text.")] = 0,
    chat_template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="chatml, dialogue, or a Jinja file; default: the tokenizer's own."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="A prompt is text to go on with, not a user's turn.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON Lines: a prompt and its completions each.")] = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Generate text with a model. Without --prompt and --prompts it is a chat: /exit or Ctrl-D ends it."""
    if prompt is not None and prompts is not None:
        raise RecipeError("--prompt and --prompts were both given: choose one")
    asked = _read(prompts) if prompts is not None else None if prompt is None else [prompt]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": max_new_tokens}
    settings["min_p"] = min_p
    policy = load(registry(plugin, no_plugin), model, settings | {"chat_template": chat_template})
    chats = not plain and _has_template(policy)

    def answer(some: Sequence[Prompt], at: int) -> list[Group]:
        from alignzoo.decoding import Decoding
        from alignzoo.functional import derive

        decoding = Decoding(greedy=greedy, stop=tuple(stop or ()))
        return policy.generate(some, n, seeds=[derive(seed, at + i) for i in range(len(some))], decoding=decoding)

    if asked is None:
        _talk(lambda said, turn: answer([said], turn)[0].completions[0].text, chats=chats)
        return
    for start in range(0, len(asked), AT_ONCE):
        with _status(start, len(asked)):
            groups = answer([_prompt(each, chats) for each in asked[start : start + AT_ONCE]], start)
        for group in groups:
            (_print_json if as_json else _print)(group)


def load(zoo: Registry, model: str, settings: dict[str, Any]) -> Policy:
    """The `hf` policy of a model's directory, for generation only."""
    _check_place(model)
    from alignzoo import allocator
    from alignzoo.policies import loaded
    from alignzoo.recipe.parts import build
    from alignzoo.recipe.tables import tree

    allocator.keep_freed_memory()
    given = {"model": model, **{key: value for key, value in settings.items() if value is not None}}
    options = tree(given, lambda path: f"--{path[-1]}".replace("_", "-") if path else "alignzoo generate")
    spec = build(zoo.get("policy", "hf"), options, "policy")
    return loaded(spec, frozenset())


def _check_place(model: str) -> None:
    """A run's folder is not a model's, but holds some."""
    inside = sorted(Path(model).glob("models/*/config.json"))
    if inside and not (Path(model) / "config.json").exists():
        choices = " or ".join(str(path.parent) for path in inside)
        raise ModelError(f"{model} is the folder of a run: give one of its models, {choices}")


def _has_template(policy: Policy) -> bool:
    """Whether the policy can read conversations."""
    return policy.info().chats


def _prompt(said: Any, chats: bool) -> Prompt:
    from alignzoo.types import Prompt

    if not isinstance(said, str):
        return Prompt(tuple(said))
    return Prompt(({"role": "user", "content": said},)) if chats else Prompt(said, chat="plain")


def _read(path: Path) -> list[Any]:
    """The prompts of a file: texts, or conversations in a .jsonl."""
    check_kind(path)
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # not splitlines: a text may hold U+2028 and the like
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is not text in UTF-8'}"
        ) from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path} holds no prompts: give one a line")
    return [_row(line, path, number) if _is_jsonl(path) else line for number, line in numbered]


def _is_jsonl(path: Path) -> bool:
    return path.suffix in (".jsonl", ".json")


def _row(line: str, path: Path, number: int) -> Any:
    row = decoded(line, path, line=number, fix='Expected an object a line, as in {"prompt": "Hello"}')
    said = row.get("prompt") if isinstance(row, dict) else None
    turns = (
        isinstance(said, list)
        and said
        and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in said)
    )
    if not isinstance(said, str) and not turns:
        raise DataError(f"{path}, line {number}: no `prompt` that is a text or a list of turns, found {line[:80]}")
    return said


@contextmanager
def _status(start: int, total: int) -> Iterator[None]:
    out = console(stderr=True)
    if not out.is_terminal:
        yield
        return
    with out.status(f"writing, {start} of {total} done"):
        yield


def _print(group: Group) -> None:
    """The prompt, and its answers beneath it."""
    from alignzoo.report import asked

    text = asked(group.prompt.messages)
    for completion in group.completions:
        sys.stdout.write(printable(f"> {text}\n{completion.text}{'' if completion.finished else ' …'}\n\n"))


def _print_json(group: Group) -> None:
    completions = [{"text": c.text, "finished": c.finished, "tokens": len(c.tokens)} for c in group.completions]
    messages = group.prompt.messages if isinstance(group.prompt.messages, str) else list(group.prompt.messages)
    sys.stdout.write(escaped(json.dumps({"prompt": messages, "completions": completions}, ensure_ascii=False)) + "\n")


def _talk(answer: Callable[[Prompt, int], str], *, chats: bool) -> None:
    """A conversation: with memory where the model has a chat template, else each text is gone on with."""
    from alignzoo.types import Prompt

    what = "a chat" if chats else "no chat template: each text is gone on with"
    sys.stdout.write(f"({what}; /exit or Ctrl-D ends)\n")
    turns: tuple[Message, ...] = ()
    turn = 0
    while (said := _said()) is not None:
        turn += 1
        turns = (*turns, {"role": "user", "content": said})
        text = answer(Prompt(turns) if chats else _prompt(said, chats), turn)
        turns = (*turns, {"role": "assistant", "content": text})
        sys.stdout.write(printable(f"{text}\n\n"))


def _said() -> str | None:
    """What the user says next; None at the end."""
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return None
        if text == "/exit":
            return None
        if text:
            return text
