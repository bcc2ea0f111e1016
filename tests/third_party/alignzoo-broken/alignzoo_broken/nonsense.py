"""It registers what is no optimizer, under a name that it works out."""

from dataclasses import dataclass

import alignzoo


@dataclass(frozen=True)
class Nonsense:
    """It has neither `prepare` nor `loss`."""

    needs = frozenset({"logprobs"})
    epochs: int = 1


@alignzoo.hookimpl
def alignzoo_register(zoo):
    for number in range(1):
        zoo.optimizer(f"nonsense-{number}", Nonsense)
