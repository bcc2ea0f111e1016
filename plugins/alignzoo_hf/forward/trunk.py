"""The hidden states that heads read: packed where a model's attention allows it, padded where not."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alignzoo import functional as fn
from alignzoo.calling import kept
from alignzoo.types import Batch
from alignzoo_hf.forward.layers import EXACT
from alignzoo_hf.forward.packed import Packing, attending, pack
from alignzoo_hf.forward.recompute import recomputing
from alignzoo_hf.forward.rotary import rotating
from alignzoo_hf.forward.unread import left_out
from alignzoo_hf.model import models

log = logging.getLogger("alignzoo")

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
"""What transformers calls the kinds of attention that can be packed."""


@dataclass(frozen=True)
class States:
    """Last hidden states, and where each token's lie."""

    hidden: Tensor
    """(P, H); of a token whose state nobody asked for, without meaning."""
    place: Tensor
    """(N, T): the line of `hidden` that belongs to a row's token."""


def padded(model: Any, tokens: Tensor, *, recompute: bool = False) -> States:
    """Row by row, with the padding computed and never read."""
    with recomputing(models.bare(model).base_model) if recompute else contextlib.nullcontext():
        hidden = models.states(model, tokens)
    place = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)
    return States(hidden.flatten(0, 1), place)


def packed(model: Any, batch: Batch, used: Tensor, read: Tensor, *, recompute: bool = False) -> States:
    """The used tokens alone, with what the rows of a group begin with computed once; states where `read` (N, T)."""
    packing = pack(batch.tokens, used, batch.prompt)
    return States(_through(model, packing, read, recompute=recompute), packing.place)


def _through(model: Any, packing: Packing, read: Tensor, *, recompute: bool = False) -> Tensor:
    base = models.bare(model).base_model
    inside = partial(_inside, base, packing, packing.place[read].unique())
    with inside(), recomputing(base, inside) if recompute else contextlib.nullcontext():
        out = base(packing.tokens, position_ids=packing.positions, use_cache=False)
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


@contextlib.contextmanager
def _inside(base: Any, packing: Packing, read_in_line: Tensor) -> Iterator[None]:
    """What a trunk runs under over one line."""
    with attending(base.config.get_text_config(), packing), left_out(base, read_in_line), rotating(base):
        yield


def predicting(batch: Batch) -> tuple[Tensor, Tensor]:
    """The tokens whose states predict a completion token, with those before them (all but the last, as a rule), and
    these alone; (N, T) each."""
    after = batch.mask.flip(1).long().cumsum(1).flip(1) - batch.mask.long()  # completion tokens that are still to come
    return batch.attend & (after > 0), torch.nn.functional.pad(fn.predicted(batch.mask), (0, 1))


# --- which of the two -------------------------------------------------------------------------------------------------


def can_pack(model: Any) -> bool:
    """Whether packed states equal padded ones: tried on a few short random rows, and told once where they do not."""
    with kept() as failed:  # transformers' models raise many kinds; each means that this one cannot
        why = _difference(model)
    if (error := failed.error) is not None:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"[:300]
    if why:
        log.warning(
            "%s cannot be packed, so padding is computed with its rows, exactly but more slowly (%s)",
            type(models.bare(model)).__name__,
            why,
        )
    return not why


@torch.no_grad()
def _difference(model: Any) -> str:
    """Why a model cannot be packed; empty when it can."""
    config = models.bare(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS
    if kinds:
        return f"it has layers of {', '.join(sorted(kinds))}"
    rng = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    tokens = torch.randint(0, config.vocab_size, (5, 14), generator=rng)
    tokens[:3, :6] = tokens[0, :6]
    used = torch.arange(14) < torch.tensor([14, 9, 6, 11, 3])[:, None]
    tokens, used = tokens.to(device), used.to(device)
    packing = pack(tokens, used, torch.tensor([0, 0, 0, 1, 2], device=device))
    read = used & (torch.arange(14, device=device) >= 5)
    ours, theirs = _through(model, packing, read)[packing.place[read]], models.states(model, tokens)[read]
    if not packing.windows:
        return "its attention is its own, not one that transformers can exchange"
    expected = set(windows(config))
    if packing.windows != expected:
        return f"its layers ask for the windows {_told(packing.windows)}, its config for {_told(expected)}"
    exact = theirs.dtype in EXACT and not torch.is_autocast_enabled(device.type)
    ours, theirs = ours.double(), theirs.double()
    off = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
    if not off < (1e-3 if exact else 5e-2):
        return f"packed and padded states differ by {off:.1e} of their length"
    return ""


def windows(config: Any) -> list[int | None]:
    """The sliding window of each layer, as far as a config tells."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window if getattr(config, "use_sliding_window", True) else None]
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _told(windows: set[int | None]) -> str:
    return ", ".join("none" if window is None else str(window) for window in sorted(windows, key=lambda w: w or 0))
