"""The decode engine: continuous batching over any causal model of transformers whose cache is keys and values.

Each distinct prompt is computed once, without padding, and its keys and values are copied to the slots of its
completions. A completion that has ended leaves its slot at once, and the next that waits takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import EngineModel, Generated, stopped_at
from alignzoo_hf.decode import slots
from alignzoo_hf.decode.graphs import Graphs
from alignzoo_hf.decode.sampling import draw, uniforms
from alignzoo_hf.decode.slots import Pack, SlotCache, Step
from alignzoo_hf.forward.rotary import rotating
from alignzoo_hf.forward.unread import left_out
from alignzoo_hf.model.models import bare

PACK = 2048
"""Prompt tokens that are computed at once."""


@dataclass(frozen=True)
class Pace:
    """How steps are laid out for a device. No text depends on it."""

    steps: int = 1
    """Steps between two looks at what has ended: a look waits for the device."""
    seats: int = 0
    """Smallest of the sizes of a step, which are its doubles; 0: as many as there are rows."""
    columns: int = 1
    """The columns that a step reads are a multiple of this."""
    page: int = 0
    """Columns that the cache grows by; 0: all of them are there at first, which on a CPU takes no memory."""
    graphs: bool = False
    """Whether the steps of a size are recorded as a CUDA graph and replayed."""

    def size(self, n: int, limit: int) -> int:
        """The number of slots of a step for `n` rows."""
        size = self.seats or n
        while size < n:
            size *= 2
        return min(size, limit)

    def width(self, width: int, capacity: int) -> int:
        """The columns that a step reads when it needs so many."""
        return min(-(-width // self.columns) * self.columns, capacity)


GPU = Pace(steps=8, seats=16, columns=256, page=256, graphs=True)
"""Launching a step's kernels one by one takes longer than running them, and so does waiting for each step's end."""

Tokens = tuple[int, ...]


class SlotEngine:
    """Generates with one model, in slots."""

    def __init__(self, model: EngineModel) -> None:
        self.model = bare(model.module)
        self.device = self.model.device
        self.stop_ids, self.text = model.stop_ids, model.text
        self.pace = GPU if self.device.type == "cuda" else Pace()

    def generate(
        self,
        prefixes: Sequence[Sequence[int]],
        n: int,
        decoding: CompleteDecoding,
        *,
        seeds: Sequence[int],
        at_once: int,
    ) -> list[Generated]:
        """As `OpenEngine.generate`.

        Not in inference mode: there autocast casts every weight again at every step, and else once.
        """
        prompts = [tuple(prefix) for prefix in prefixes]
        with torch.no_grad(), attention(self.model), column_major(self.model), rotating(self.model):
            return _Generating(self, prompts, n, decoding, seeds, at_once).run()

    def close(self) -> None:
        """It holds nothing between two calls."""

    def ends(self, decoding: CompleteDecoding) -> Tensor:
        """For each token of the vocabulary, whether it ends a completion."""
        ids = sorted(self.stop_ids | set(decoding.stop_tokens))
        size = max(self.model.config.get_text_config().vocab_size, ids[-1] + 1)
        stops = torch.zeros(size, dtype=torch.bool, device=self.device)
        stops[ids] = True
        return stops

    def logits(self, what: Pack | Step, cache: SlotCache, tokens: Tensor, keep: int | Tensor) -> Tensor:
        """One forward pass."""
        reading = left_out(self.model.base_model, what.last) if isinstance(what, Pack) else nullcontext()
        with slots.during(what), reading:
            positions = what.positions if isinstance(what, Pack) else what.positions[:, None]
            out = self.model(tokens, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        return out.logits.flatten(0, 1)


attention = slots.attention


@contextmanager
def column_major(model: nn.Module) -> Iterator[None]:
    """Inside, linear layers on a CPU hold their weights by columns.

    The values and shapes are the same; a product of few rows with x·Wᵀ then reads the weights in the order in which
    they lie, which is 1.2 to 2.3 times as fast (measured from 64 rows to 8). The copies go when writing ends.
    """
    former = {}
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu":
            former[module] = module.weight
            columns = slots.cast(module.weight.detach()).t().contiguous().t()
            module.weight = nn.Parameter(columns, requires_grad=False)
    try:
        yield
    finally:
        for module, weight in former.items():
            module.weight = weight


class Slots:
    """Who sits where, on the model's device: for each slot its newest token, that token's position in the text, how
    many tokens are written, which completion it is, and whether it is still being written."""

    def __init__(self, engine: SlotEngine, rows: int, limit: int, decoding: CompleteDecoding, uniform: Tensor) -> None:
        self.engine, self.decoding, self.rows, self.limit = engine, decoding, rows, limit
        self.stops = engine.ends(decoding)
        self.stopped = [False] * rows
        """Which completions a stop text has ended."""
        steps, device = decoding.max_new_tokens, engine.device
        # A row and a column more than there are, for slots that have nothing to write.
        self.tokens = torch.zeros(rows + 1, steps + 1, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows + 1, steps + 1, device=device)
        self.uniform = nn.functional.pad(uniform, (0, 1, 0, 1)).to(device)
        self.lengths = [0] * rows
        self.checked = [0] * rows
        """How many tokens of each completion have been looked at for stop texts."""
        self.state = torch.zeros(5, limit, dtype=torch.long, device=device)
        self.token, self.position, self.written, self.row, self.alive = self.state
        self.row.fill_(rows)
        self.n = 0

    def seat(self, rows: Sequence[int], lengths: Sequence[int]) -> slice:
        """Give completions the next free slots; their prompts are so long. Which slots these are."""
        seats = slice(self.n, self.n + len(rows))
        new = [[0, length - 1, 0, row, 1] for row, length in zip(rows, lengths, strict=True)]
        self.state[:, seats] = torch.tensor(new, device=self.state.device).t()
        self.n = seats.stop
        return seats

    def write(self, logits: Tensor, seats: slice) -> None:
        """Draw a token for each of these slots and write it down."""
        row, alive = self.row[seats], self.alive[seats]
        column = torch.where(alive.bool(), self.written[seats], self.decoding.max_new_tokens)
        token, logprob = draw(logits, self.uniform[row, column], self.decoding)
        self.tokens[row, column] = token
        self.logprobs[row, column] = logprob
        self.token[seats] = token
        self.position[seats] += alive
        self.written[seats] += alive
        alive *= ~(self.stops[token] | (self.written[seats] >= self.decoding.max_new_tokens))

    def _stop(self, written: list[int], row: Sequence[int], alive: list[int]) -> None:
        """End the completions in which a stop text has come since the last look: `written` and `alive` are changed.
        Where several steps lie between two looks, what came after it is dropped."""
        for slot, tokens in enumerate(self.tokens[list(row)].tolist()):
            end = stopped_at(
                tokens[: written[slot]], self.decoding.stop, self.engine.text, checked=self.checked[row[slot]]
            )
            self.checked[row[slot]] = written[slot]
            if end is not None:
                written[slot], alive[slot], self.stopped[row[slot]] = end, 0, True

    def leave(self) -> tuple[list[int], list[int], list[int]]:
        """Let ended completions go, and close the gaps: which slots move where, and the positions of those that stay.

        The last of the slots move into the gaps, so that as few as possible do.
        """
        _, position, written, row, alive = self.state[:, : self.n].tolist()
        if self.decoding.stop:
            self._stop(written, row, alive)
        gone = [slot for slot in range(self.n) if not alive[slot]]
        for slot in gone:
            self.lengths[row[slot]] = written[slot]
        stay = self.n - len(gone)
        targets = [slot for slot in gone if slot < stay]
        sources = [slot for slot in range(stay, self.n) if alive[slot]]
        if targets:
            self.state[:, targets] = self.state[:, sources]
        if gone:
            self.state[:, stay : self.n] = 0
            self.row[stay : self.n] = self.rows
            self.n = stay
        return sources, targets, [position[slot] for slot in range(len(alive)) if alive[slot]]


class _Generating:
    """One call of the engine."""

    def __init__(
        self,
        engine: SlotEngine,
        prompts: Sequence[Tokens],
        n: int,
        decoding: CompleteDecoding,
        seeds: Sequence[int],
        limit: int,
    ) -> None:
        self.engine, self.n = engine, n
        rows, steps = len(prompts) * n, decoding.max_new_tokens
        limit = min(limit, rows)
        random = torch.zeros(rows, steps, dtype=torch.float64) if decoding.greedy else uniforms(seeds, n, steps)
        self.slots = Slots(engine, rows, limit, decoding, random)
        longest = max(map(len, prompts), default=0) + steps
        self.cache = SlotCache(limit, engine.pace.width(longest, 1 << 62), engine.pace.page)
        self.graphs = Graphs() if engine.pace.graphs else None
        self.unread = deque(dict.fromkeys(prompts))
        self.rows: dict[Tokens, deque[int]] = {prompt: deque() for prompt in self.unread}
        for row in range(rows):
            self.rows[prompts[row // n]].append(row)
        self.pack: Pack | None = None
        self.first = torch.empty(0)
        """The packed prompts' last logits."""
        self.waiting: deque[tuple[int, int]] = deque()
        """Completions of the packed prompts that have no slot yet: prompt of the pack, and row."""

    def run(self) -> list[Generated]:
        while True:
            positions = self._leave()
            while self.slots.n < self.slots.limit and self._admit():
                positions = self._leave()
            if not self.slots.n:
                return self._result()
            self._steps(max(positions) + 1)

    def _leave(self) -> list[int]:
        sources, targets, positions = self.slots.leave()
        if targets:
            device = self.engine.device
            to, of = torch.tensor(targets, device=device), torch.tensor(sources, device=device)
            self.cache.move(of, to, max(positions))
        return positions

    def _steps(self, width: int) -> None:
        """The next steps, from one that reads so many columns."""
        pace = self.engine.pace
        n = pace.size(self.slots.n, self.slots.limit)
        width = pace.width(width + pace.steps - 1, self.cache.limit)
        self.cache.reach(width)
        for _ in range(pace.steps):
            if self.graphs is None:
                self._step(n, width)
            else:
                # A cache that has grown lies elsewhere, and what was recorded would write where it was.
                self.graphs.run((n, width, self.cache.capacity), lambda: self._step(n, width))

    def _step(self, n: int, width: int) -> None:
        step = Step(self.slots.position[:n], width)
        logits = self.engine.logits(step, self.cache, self.slots.token[:n, None], 1)
        self.slots.write(logits, slice(0, n))

    def _admit(self) -> bool:
        """Give free slots to completions that wait, and draw their first tokens; whether there were any."""
        if not self.waiting and not self._read():
            return False
        assert self.pack is not None
        count = min(len(self.waiting), self.slots.limit - self.slots.n)
        prompts, rows = zip(*(self.waiting.popleft() for _ in range(count)), strict=True)
        seats = self.slots.seat(rows, [self.pack.lengths[p] for p in prompts])
        self.cache.seat(self.pack, prompts, seats.start)
        self.slots.write(self.first[list(prompts)], seats)
        return True

    def _read(self) -> bool:
        """Compute the next prompts; whether there were any."""
        chosen: list[Tokens] = []
        while self.unread and (not chosen or sum(map(len, chosen)) + len(self.unread[0]) <= PACK):
            chosen.append(self.unread.popleft())
        if not chosen:
            return False
        self.pack = Pack(chosen, self.engine.device)
        self.first = self.engine.logits(self.pack, self.cache, self.pack.tokens, self.pack.last)
        self.waiting.extend((p, row) for p, prompt in enumerate(chosen) for row in self.rows[prompt])
        return True

    def _result(self) -> list[Generated]:
        tokens, logprobs = self.slots.tokens.tolist(), self.slots.logprobs.tolist()
        stops, stopped = self.slots.stops.tolist(), self.slots.stopped
        return [
            Generated(
                tuple(tokens[row][:length]),
                tuple(logprobs[row][:length]),
                stopped[row] or stops[tokens[row][length - 1]],
            )
            for row, length in enumerate(self.slots.lengths)
        ]
