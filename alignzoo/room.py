"""How much goes through a policy at once: what suits its device, and half of it where memory does not suffice."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator

import torch

from alignzoo.errors import RunError
from alignzoo.interfaces import HasRoom, Policy
from alignzoo.types import Alert, Batch

MEMORY = "memory"
"""The kind of alert that says that micro-batches are smaller from now on."""

SIGNS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch says where memory runs out without an error of its own kind."""


class NoRoomError(Exception):
    """A micro-batch did not fit; there is less room now, and so it is worth another try."""


def on_stderr(alert: Alert) -> None:
    """Warn as Python does."""
    warnings.warn(alert.message, stacklevel=4)


class Room:
    """Rows and tokens per pass, of which the tokens only ever become fewer. Micro-batches change no result, so that
    any number is as good."""

    def __init__(
        self, policy: Policy, *, rows: int = 0, tokens: int = 0, told: Callable[[Alert], None] = on_stderr
    ) -> None:
        self.rows = rows
        self.tokens = tokens or (policy.room() if isinstance(policy, HasRoom) else 0)
        self.told = told
        self.halved = False

    def chunks(self, batch: Batch, *, couples: str = "row") -> Iterator[Batch]:
        """Micro-batches that should fit, never through what `couples` names."""
        return batch.chunks(self.rows, tokens=self.tokens, couples=couples)

    def holds(self, batch: Batch) -> bool:
        """Whether all of it should fit at once."""
        return next(self.chunks(batch)) is batch

    @contextlib.contextmanager
    def trying(self, part: Batch, *, couples: str = "row") -> Iterator[None]:
        """Inside, a part of a batch is computed. Raises NoRoomError where memory does not suffice; RunError where the
        part cannot be made smaller."""
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._halve(part, couples, error)
            traceback.clear_frames(error.__traceback__)  # they hold on to what did not fit
            raise NoRoomError from None

    def _halve(self, part: Batch, couples: str, error: Exception) -> None:
        size = int(part.attend.sum())
        before = min(self.tokens or size, size)
        groups = len(part.group_sizes())
        if len(part) == 1 or couples == "minibatch" or (couples == "group" and groups == 1):
            rows = "row" if len(part) == 1 else f"rows of a {'group' if groups == 1 else 'minibatch'}"
            raise RunError(
                f"out of memory with a micro-batch of {len(part)} {rows} and {size} tokens, which cannot be made "
                "smaller: use shorter texts (policy.max_length, policy.max_new_tokens), fewer completions of a prompt "
                "(sampler.n), an adapter (policy.lora_rank), a lower precision (policy.dtype), or a smaller model"
            ) from error
        self.tokens = max(1, before // 2)
        if not self.halved:
            self.halved = True
            self.told(
                Alert(
                    MEMORY,
                    f"out of memory with a micro-batch of {len(part)} rows and {size} tokens: it goes on with "
                    f"{self.tokens} tokens at once, and half of those where need be, which changes no result; "
                    f"schedule.micro_tokens = {self.tokens} begins there",
                    {"rows": float(len(part)), "tokens": float(size)},
                )
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
