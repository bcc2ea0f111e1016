"""The optimizer of a stage that trains nothing: it generates and scores, and leaves data for a later stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from alignzoo.traits import NOTHING

if TYPE_CHECKING:
    from alignzoo.types import Batch, Forward, Terms


@dataclass(frozen=True)
class Nothing:
    """It needs no column, keeps every row, and has no loss."""

    earlier: str = ""
    """An earlier stage that leaves data, as stage:NAME, "last:NAME or stage:OTHER" or "last:NAME or none": its data are
    left again, before what is generated here, so that the data of all rounds add up; empty: only what is generated
    here."""
    needs: ClassVar[frozenset[str]] = frozenset()
    epochs: ClassVar[int] = 0
    trains: ClassVar[str] = NOTHING
    online: ClassVar[bool] = True

    def prepare(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, out: Forward) -> Terms:
        raise NotImplementedError(self.__doc__)
