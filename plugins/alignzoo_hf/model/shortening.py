"""A conversation that is longer than the context beside a completion, cut."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from alignzoo_hf.model.template import Turns


def shortened(turns: Turns, room: int, tokens: Callable[[Turns], list[int]], tell: Callable[[str], None]) -> list[int]:
    """The tokens of what is kept of it, at most `room`: it loses its first turns but for the system's, then the
    beginning of the first that is left. A system's turn that leaves that one no room loses its end. `tokens` are those
    of turns that an answer is to follow."""
    system = turns[: next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))]
    starts = [i for i in range(len(system), len(turns)) if turns[i]["role"] == "user"]
    for start in starts[1:]:
        if len(shorter := tokens((*system, *turns[start:]))) <= room:
            return shorter
    if not starts:
        return tokens(turns)[-room:]
    first, *rest = turns[starts[-1] :]
    asked = len(first["content"])

    def left(told: Turns, size: int) -> list[int]:
        """After these turns, so much of the end of the first that is left."""
        return tokens((*told, {**first, "content": first["content"][asked - size :]}, *rest))

    def begun(size: int) -> Turns:
        """So much of the beginning of what the system says."""
        return ({**system[0], "content": system[0]["content"][:size]},) if size else ()

    if system and len(left(system, min(asked, 1))) > room:
        tell(f"system turns longer than {room} tokens lose their end")
        whole = len(system[0]["content"])
        system = begun(bisect_left(range(1, whole + 1), True, key=lambda size: len(left(begun(size), asked)) > room))
    if len(shorter := left(system, asked)) <= room:
        return shorter
    return left(system, bisect_left(range(1, asked + 1), True, key=lambda size: len(left(system, size)) > room))[-room:]
