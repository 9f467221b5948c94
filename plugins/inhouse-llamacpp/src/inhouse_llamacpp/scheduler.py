"""Continuous batching: every step decodes what all running requests need next, in one llama_decode.

A request takes a free slot, takes over the longest prefix that any slot has (also one that is just being decoded
for another request), decodes the rest of its prompt in chunks between the tokens of the others, and leaves its
tokens in the slot for whoever comes next with the same beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inhouse.errors import RecipeError
from inhouse_llamacpp.cache import Cache, Slot, common_prefix
from inhouse_llamacpp.job import Job
from inhouse_llamacpp.native import BATCH, Context, Model, Row
from inhouse_llamacpp.score import score, write_distribution

WORTH_WAITING = 32
"""Tokens of a prefix that another request is decoding for which a request waits instead of computing them."""


class Scheduler:
    """Runs jobs on one model. ``context`` tokens for one job; at most ``most_cells`` for all together."""

    def __init__(
        self, model: Model, *, context: int, slots: int, cache_memory: int, cache_type: str, threads: int
    ) -> None:
        self.model = model
        self.context = context
        self.threads = threads
        self.cache_type = cache_type
        affordable = cache_memory // max(1, model.bytes_per_cell(cache_type))
        self.most_cells = max(context, min(slots * context, affordable))
        self.cache = self._open(context, slots)
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.decoded = 0

    def _open(self, cells: int, slots: int) -> Cache:
        # one sequence more than slots: that one is for scoring
        size, kind = _rounded(cells), self.cache_type
        context = Context(self.model, cells=size, sequences=slots + 1, threads=self.threads, cache_type=kind)
        return Cache(context, slots)

    @property
    def busy(self) -> bool:
        """Whether there is anything to step for."""
        return bool(self.waiting or self.running)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs. With nothing running, the cache grows first to what they need together."""
        if not self.busy:
            self._grow(self._cells_for(jobs))
        self.waiting.extend(jobs)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Drops jobs wherever they are; their slots keep what has been decoded."""
        for job in jobs:
            if job in self.waiting:
                self.waiting.remove(job)
            elif job in self.running:
                self._leave(job)
            if job.finish is None:
                job.end("length")

    def step(self) -> list[Job]:
        """Admits what fits, decodes one batch, and returns the jobs that ended. Raises ``EngineError``."""
        self._admit()
        for job in self.running:
            self._take_over(job)
        rows, wanted = self._rows()
        logits = self.cache.context.decode(rows)
        self.decoded += len(rows)
        ended = []
        for job, row in zip(wanted, logits, strict=True):
            try:
                job.take(job.sampler.choose(row), self.model)
            except RecipeError as error:  # this grammar has a dead end; the other jobs go on
                job.fail(error)
            if job.finish is not None:
                self._leave(job)
                ended.append(job)
        return ended

    def reset(self) -> list[Job]:
        """Forgets the whole cache after a failed step; returns the jobs that were under way."""
        lost = [*self.running, *self.waiting]
        for job in lost:
            job.sampler.close()
        self.running.clear()
        self.waiting.clear()
        for slot in self.cache.slots:
            self.cache.truncate(slot, 0)
        return lost

    def score(self, sequences: Sequence[Sequence[int]], tick: Callable[[], None]) -> list[list[float]]:
        """Log-probabilities, see ``score``; only while nothing runs. The slots' tokens go when room is needed."""
        self._make_cells(max((len(each) for each in sequences), default=0))
        return score(self.cache.context, len(self.cache.slots), sequences, tick)

    def write_distribution(self, ids: Sequence[int], path: str, tick: Callable[[], None]) -> None:
        """Logits into a file, see ``score``; only while nothing runs."""
        self._make_cells(len(ids))
        write_distribution(self.cache.context, len(self.cache.slots), ids, path, tick)

    def _make_cells(self, tokens: int) -> None:
        cache = self.cache
        for slot in sorted(cache.slots, key=lambda slot: slot.used_at):
            if cache.context.cells - cache.used < tokens:
                cache.truncate(slot, 0)

    def statistics(self) -> dict[str, int]:
        """Tokens decoded so far, cells of the cache, cells in use."""
        cache = self.cache
        return {"decoded_tokens": self.decoded, "cells": cache.context.cells, "used_cells": cache.used}

    # --- room ---------------------------------------------------------------------------------------

    def _cells_for(self, jobs: Sequence[Job]) -> int:
        """Cells that the largest jobs need side by side, their common beginning counted once."""
        largest = sorted(jobs, key=lambda job: job.still_needs(), reverse=True)[: len(self.cache.slots)]
        if not largest:
            return 0
        shared = min(common_prefix(largest[0].prompt, job.prompt) for job in largest)
        return sum(job.still_needs() - shared for job in largest) + shared

    def _grow(self, cells: int) -> None:
        wanted = min(cells, self.most_cells)
        if wanted <= self.cache.context.cells:
            return
        slots = len(self.cache.slots)
        self.cache.context.close()
        # a quarter more, since conversations get longer from turn to turn
        self.cache = self._open(min(wanted + wanted // 4, self.most_cells), slots)

    def _make_room(self, job: Job, keep: Slot | None) -> bool:
        """Whether the job fits beside the others, after forgetting idle slots (oldest first) but ``keep``."""
        cache = self.cache
        promised = sum(each.still_needs() for each in self.running)
        idle = sorted(self._idle(), key=lambda slot: slot.used_at)
        for slot in [None, *idle]:
            if slot is not None and slot is not keep:
                cache.truncate(slot, 0)
            if cache.used + promised + job.still_needs() <= cache.context.cells:
                return True
        return False

    def _idle(self) -> list[Slot]:
        taken = {job.slot.number for job in self.running if job.slot is not None}
        return [slot for slot in self.cache.slots if slot.number not in taken]

    # --- admission ----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Gives free slots to waiting jobs; the jobs that find the most of their prompt come first."""
        while self.waiting and (idle := self._idle()):
            window = self.waiting[: len(idle)]
            finds = [(self._find(job), job) for job in window]
            (shared, decoded, source), job = max(finds, key=lambda find: find[0][1])
            if not self._place(job, source, shared if shared >= decoded + WORTH_WAITING else decoded, idle):
                return
            self.waiting.remove(job)
            self.running.append(job)

    def _find(self, job: Job) -> tuple[int, int, Slot]:
        """The best prefix in any slot: its length once all is decoded, its length now, and the slot."""
        running = {each.slot.number: each for each in self.running if each.slot is not None}
        best = (0, 0, self.cache.slots[0])
        most = len(job.prompt) - 1  # at least one token is decoded, for its logits
        for slot in self.cache.slots:
            now = min(most, common_prefix(slot.tokens, job.prompt))
            later = now
            if slot.number in running:
                later = max(now, min(most, common_prefix(running[slot.number].prompt, job.prompt)))
            if (later, now) > best[:2]:
                best = (later, now, slot)
        return best

    def _place(self, job: Job, source: Slot, shared: int, idle: list[Slot]) -> bool:
        """Chooses the job's slot, and makes room; False when there is none yet."""
        job.shared = shared
        free = source in idle
        others = [slot for slot in idle if slot is not source]
        if free and (not others or 2 * shared >= len(source.tokens)):
            target = source  # it goes on where the slot ends, or nearly so
        else:
            target = min(others, key=lambda slot: (len(slot.tokens) > 0, slot.used_at))
        if not self._make_room(job, keep=source):
            if self.running:
                job.shared = 0
                return False
            job.shared, shared, target = 0, 0, source  # alone it fits an empty cache
            for slot in self.cache.slots:
                self.cache.truncate(slot, 0)
        if target is source:
            self.cache.truncate(source, shared)
        else:
            self.cache.truncate(target, 0)
            job.source = source
        job.slot = target
        self.cache.touch(target)
        self._take_over(job)
        return True

    def _take_over(self, job: Job) -> None:
        """Shares the awaited prefix as soon as it is decoded."""
        if job.source is None or job.slot is None or len(job.source.tokens) < job.shared:
            return
        self.cache.share(job.source, job.slot, job.shared)
        job.source = None

    def _leave(self, job: Job) -> None:
        self.running.remove(job)
        for other in self.running:  # whoever waits for this slot's prefix gets it now, or what there is of it
            if other.source is job.slot and job.slot is not None:
                other.shared = min(other.shared, len(job.slot.tokens))
                self._take_over(other)

    # --- the batch ----------------------------------------------------------------------------------

    def _rows(self) -> tuple[list[Row], list[Job]]:
        """The next batch: first one token for each job that generates, then prompts until it is full."""
        rows: list[Row] = []
        wanted: list[Job] = []
        ready = [(job, job.to_decode()) for job in self.running if not job.waits]
        ready.sort(key=lambda pair: len(pair[1]) > 1)
        for job, tokens in ready:
            assert job.slot is not None
            chunk = tokens[: BATCH - len(rows)]
            start = len(job.slot.tokens)
            complete = len(chunk) == len(tokens)
            last = len(chunk) - 1
            rows.extend(Row(token, start + i, job.slot.number, complete and i == last) for i, token in enumerate(chunk))
            self.cache.add(job.slot, chunk)
            if complete and chunk:
                wanted.append(job)
        return rows, wanted


def _rounded(cells: int) -> int:
    """Up to a multiple of 256, as llama.cpp would round it."""
    return -(-cells // 256) * 256
