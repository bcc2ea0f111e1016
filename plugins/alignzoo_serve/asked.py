"""What a request asks: a body of the completions interface, checked, as prompts and one `Decoding`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignzoo.decoding import Decoding
from alignzoo.types import Prompt

MOST = 128
"""Completions of one prompt at most."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False, None),
    "stream_options": (None,),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "echo": (False, None),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "top_logprobs": (None, 0),
}
"""Settings that this server does not have, with the values that ask for nothing."""

IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"}
"""What says something of the caller, and nothing of the text."""

BOTH = {"model", "n", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "logprobs"}
BOTH |= {"return_token_ids", "stop_token_ids"}
KNOWN = {"chat": BOTH | {"messages", "max_completion_tokens"}, "text": BOTH | {"prompt"}}


class BadRequest(ValueError):
    """A request that cannot be answered, and why; `code` is the status."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Asked:
    """A request: one prompt or several, and how they are answered."""

    prompts: tuple[Prompt | tuple[int, ...], ...]
    """Conversations or texts, or tokens to go on from."""
    n: int
    decoding: Decoding
    seeds: tuple[int, ...]
    """One a prompt."""
    logprobs: bool
    token_ids: bool


def chat(body: Mapping[str, Any]) -> Asked:
    """A request for the next turn of a conversation."""
    _check_keys(body, "chat")
    turns = body.get("messages")
    if not isinstance(turns, list) or not turns:
        raise BadRequest("messages: expected a list with one turn at least")
    messages = tuple(_turn(turn, place) for place, turn in enumerate(turns))
    limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
    return _asked(body, (Prompt(messages),), next((limit for limit in limits if limit is not None), None))


def text(body: Mapping[str, Any]) -> Asked:
    """A request for what comes after texts, or after tokens."""
    _check_keys(body, "text")
    given = body.get("prompt")
    several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    return _asked(body, tuple(_prompt(each) for each in several), body.get("max_tokens"))


def _check_keys(body: Mapping[str, Any], kind: str) -> None:
    for name, value in body.items():
        if name in NEUTRAL and not any(value == neutral for neutral in NEUTRAL[name]):
            raise BadRequest(f"{name}: {value!r} is not supported by this server; leave it out")
        if name not in KNOWN[kind] | IGNORED | set(NEUTRAL):
            raise BadRequest(f"{name}: this server knows no such setting; it knows {', '.join(sorted(KNOWN[kind]))}")


def _turn(turn: Any, place: int) -> dict[str, Any]:
    where = f"messages[{place}]"
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise BadRequest(f"{where}: expected an object with role and content")
    if odd := [name for name, value in turn.items() if name not in ("role", "content", "name") and value is not None]:
        raise BadRequest(f"{where}: {', '.join(odd)} cannot be read; role and content can")
    content = turn.get("content")
    if isinstance(content, list):  # parts, of which texts can be read
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise BadRequest(f"{where}.content: only parts of type text can be read")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise BadRequest(f"{where}.content: expected text")
    return {"role": turn["role"], "content": _whole(content, f"{where}.content")}


def _whole(text: str, where: str) -> str:
    """The text, where every letter in it is a whole one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start]).strip("'")
        raise BadRequest(f"{where}: {half} is half of a surrogate pair, which is no character: drop it") from error
    return text


def _prompt(given: Any) -> Prompt | tuple[int, ...]:
    if isinstance(given, str):
        return Prompt(_whole(given, "prompt"), chat="plain")
    if isinstance(given, list) and given and all(type(token) is int and token >= 0 for token in given):
        return tuple(given)
    raise BadRequest("prompt: expected a text, a list of texts, a list of token ids, or a list of such lists")


def _asked(body: Mapping[str, Any], prompts: tuple[Prompt | tuple[int, ...], ...], limit: Any) -> Asked:
    n = _number(body, "n", int, 1, lambda n: 1 <= n <= MOST, f"a whole number from 1 to {MOST}")
    seed = _number(body, "seed", int, None, lambda n: True, "a whole number")
    temperature = _number(body, "temperature", float, None, lambda t: 0 <= t < float("inf"), "a number of at least 0")
    decoding = Decoding(
        max_new_tokens=_number({"max_tokens": limit}, "max_tokens", int, None, lambda n: n > 0, "a number above 0"),
        temperature=temperature or None,
        greedy=None if temperature is None else temperature == 0,
        top_k=max(0, _number(body, "top_k", int, 0, lambda k: k >= -1, "-1, 0 or more")),
        top_p=_number(body, "top_p", float, None, lambda p: 0 < p <= 1, "a number above 0, and 1 at most"),
        min_p=_number(body, "min_p", float, None, lambda p: 0 <= p <= 1, "a number from 0 to 1"),
        stop=_stop(body.get("stop")),
        stop_tokens=_stop_tokens(body.get("stop_token_ids")),
    )
    return Asked(
        prompts,
        n,
        decoding,
        tuple(_seed(seed, place) for place in range(len(prompts))),
        _flag(body, "logprobs"),
        _flag(body, "return_token_ids"),
    )


def _seed(seed: int | None, place: int) -> int:
    """Another one for each prompt; drawn where none is given."""
    from alignzoo.functional import derive

    return secrets.randbits(48) if seed is None else derive(seed % 2**63, "serve", place)


def _number(
    body: Mapping[str, Any], name: str, kind: Any, default: Any, fits: Callable[[Any], bool], expected: str
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    right = type(value) is int or (kind is float and type(value) is float)
    if not right or not fits(value):
        raise BadRequest(f"{name}: expected {expected}, found {value!r}")
    return kind(value)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    """True or false; the number of alternatives of the completions interface is 0 or 1, which are the token alone."""
    value = body.get(name)
    if value not in (None, False, True, 0, 1):
        raise BadRequest(f"{name}: this server tells the log-probability of the generated token alone, found {value!r}")
    return value is not None and value is not False


def _stop(given: Any) -> tuple[str, ...] | None:
    found: Sequence[Any] = [given] if isinstance(given, str) else given or []
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise BadRequest("stop: expected a text or a list of texts, none of them empty")
    return tuple(_whole(each, "stop") for each in found) or None


def _stop_tokens(given: Any) -> tuple[int, ...] | None:
    found = given or []
    if not isinstance(found, list) or not all(type(each) is int and each >= 0 for each in found):
        raise BadRequest("stop_token_ids: expected a list of token ids")
    return tuple(found) or None
