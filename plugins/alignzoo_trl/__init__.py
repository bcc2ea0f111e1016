"""TRL's own losses on given log-probabilities, without a model: the oracles of optimizers that name it as their twin.

Each calls TRL's code with a trainer that has what that code reads. Written for TRL 1.16.
"""

from __future__ import annotations
