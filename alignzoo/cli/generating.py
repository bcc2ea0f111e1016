"""`alignzoo generate`: a model answers prompts of the command line, of a file, or of a conversation."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignzoo.cli.common import Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import DataError, ModelError, RecipeError, in_words
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
    drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    _check_asked(prompt, stop or (), n, drawn if greedy else {})
    asked = _read(prompts) if prompts is not None else None if prompt is None else [prompt]
    settings = drawn | {"max_new_tokens": max_new_tokens, "chat_template": chat_template}
    policy = load(registry(plugin, no_plugin), model, settings)
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


def _check_asked(prompt: str | None, stop: Sequence[str], n: int, undrawn: Mapping[str, Any]) -> None:
    """Raise RecipeError for what no tokenizer reads, or what has no effect: `undrawn` are settings of a drawing that
    does not take place."""
    for option, text in (("--prompt", prompt or ""), *(("--stop", each) for each in stop)):
        check_text(text, option)
    if not all(stop):
        raise RecipeError("--stop is an empty text, which would end every answer before it begins: leave it out")
    unread = [f"--{name.replace('_', '-')}" for name, value in undrawn.items() if value is not None]
    if unread:
        raise RecipeError(
            f"--greedy always takes the most likely token, so that {', '.join(unread)} would have no effect: leave "
            f"{'it' if len(unread) == 1 else 'them'} or --greedy out"
        )
    if undrawn and n > 1:
        raise RecipeError(f"--greedy answers a prompt in one way, so that all {n} answers would be the same: give -n 1")


def check_text(text: str, where: str) -> None:
    """Raise RecipeError for what was typed where it is no text in UTF-8, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ascii(text[max(0, error.start - 20) : error.end + 20])
        raise RecipeError(f"{where}: this is no text in UTF-8, found {found}: write it in UTF-8") from error


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
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else in_words(error)
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or why}") from error
    if _is_rows(path) and text.lstrip().startswith("["):  # a .json is a list more often than a row a line
        rows = list(enumerate(decoded(text, path), 1))
        prompts = [_row(row, f"{path}, row {number}") for number, row in rows]
    else:
        lines = text.split("\n")  # not splitlines: a text may hold U+2028 and the like
        numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]
        prompts = [_line(line, path, number) if _is_rows(path) else line for number, line in numbered]
    if not prompts:
        raise DataError(f"{path} holds no prompts: give one a line")
    return prompts


def _is_rows(path: Path) -> bool:
    """Whether a file's name says that it holds rows, and not lines of text."""
    return Path(path.name.removesuffix(".gz")).suffix in (".jsonl", ".json")


def _line(line: str, path: Path, number: int) -> Any:
    row = decoded(line, path, line=number, fix='Expected an object a line, as in {"prompt": "Hello"}')
    return _row(row, f"{path}, line {number}")


def _row(row: Any, where: str) -> Any:
    """The prompt of a row: a text, or a conversation; with the turn of its column `system` before it, as in a run."""
    said, system = (row.get("prompt"), row.get("system")) if isinstance(row, dict) else (None, None)
    if not isinstance(said, str) and not (isinstance(said, list) and said and all(map(_is_turn, said))):
        found = json.dumps(row, ensure_ascii=False)[:80]
        raise DataError(
            f"{where}: no `prompt` that is a text or a list of turns, each with a role and a content in text, found "
            f"{found}"
        )
    if not system:
        return said
    if not isinstance(system, str):
        raise DataError(f"{where}: `system` is what the system says, expected a text, found {str(system)[:60]}")
    from alignzoo.data.turns import with_system
    from alignzoo.types import Prompt

    asked = Prompt(said if isinstance(said, str) else tuple(said))
    return list(with_system(asked, system, lambda problem: DataError(f"{where}: {problem}")).messages)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(part), str) for part in ("role", "content"))


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
        except UnicodeDecodeError as error:
            raise DataError("what was typed is no text in UTF-8: set the terminal to UTF-8") from error
        check_text(text, "what was typed")
        if text == "/exit":
            return None
        if text:
            return text
