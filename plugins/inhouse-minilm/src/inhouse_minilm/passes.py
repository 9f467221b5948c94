"""Texts in batches of like length, and batches side by side, each on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

LEAST = 8
"""Texts of a batch that is made smaller so that every thread has some: below it products get slow."""

TURNS = 4
"""Batches for each thread, so that none waits long for the one that has the longest texts."""


def in_batches(function: Callable[[list[int]], None], lengths: Sequence[int], *, size: int, threads: int) -> None:
    """Calls ``function`` with the places of some texts at a time, the longest first, until all had it.

    Batches run side by side on one of torch's threads each: where all work on one batch they wait for each other
    after every operation, which costs a tenth. A batch that is alone has them all. ``size``: texts that are worked on
    at any time, by all threads together (each has one at least). ``threads``: 0 = as many as torch has; in the end it
    has as many again. Raises what ``function`` raises.
    """
    before = torch.get_num_threads()
    threads = threads or before
    order = sorted(range(len(lengths)), key=lambda at: (-lengths[at], at))
    size = min(-(-size // threads), max(LEAST, len(order) // (TURNS * threads)))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    try:
        if threads == 1 or len(batches) < 2:
            torch.set_num_threads(threads)
            for batch in batches:
                function(batch)
            return
        with ThreadPoolExecutor(threads, "minilm", torch.set_num_threads, (1,)) as pool:
            for _ in pool.map(function, batches):
                pass
    finally:
        torch.set_num_threads(before)  # a thread that torch has not seen yet takes what was set last, by whomever
