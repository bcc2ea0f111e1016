"""Optimizer `forward-kd`: word-level knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from alignzoo_distillation.gkd import GKD


@dataclass(frozen=True)
class ForwardKD(GKD):
    """KL(π_T ‖ π) over the whole vocabulary at each token, averaged over the tokens: the teacher's modes are covered.

    Hinton et al. 2015 (arXiv:1503.02531) for classes; Kim and Rush 2016 (arXiv:1606.07947) sec. 3.1, word by word. The
    text is the data's, as theirs; the divergence is the limit β → 0 of the generalised one.
    """

    beta: Annotated[float, Ge(0), Le(1)] = 0.0
    """β: 0 is the forward KL."""
    online: ClassVar[bool] = False
