"""Plugin `preference`: optimizers that learn from pairs of a better and a worse answer, one file each."""

from __future__ import annotations

import alignzoo


@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.optimizer(
        "dpo",
        "alignzoo_preference.dpo:DPO",
        family="preference",
        summary="Direct preference optimization: best against worst",
    )
