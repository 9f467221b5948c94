"""Batches: which texts are together, and on which of torch's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from inhouse_minilm.passes import in_batches


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """Whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


class Seen:
    """What was worked on, and what torch and the process were at then."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.torch_threads: set[int] = set()
        self.threads: set[int] = set()
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._met = threading.Event()

    def __call__(self, batch: list[int]) -> None:
        with self._lock:
            self.batches.append(batch)
            self.torch_threads.add(torch.get_num_threads())
            self.threads.add(threading.get_ident())
            self._now += len(batch)
            self.most = max(self.most, self._now)
            if len(self.threads) > 1:
                self._met.set()
        if threading.current_thread() is not threading.main_thread():
            assert self._met.wait(30), "batches are not worked on side by side"
        with self._lock:
            self._now -= len(batch)


def test_batches_run_side_by_side_on_a_thread_each() -> None:
    seen = Seen()
    lengths = [7 * at % 101 for at in range(100)]
    in_batches(seen, lengths, size=32, threads=0)
    assert sorted(at for batch in seen.batches for at in batch) == list(range(100))
    assert seen.torch_threads == {1}
    assert 2 <= len(seen.threads) <= 3
    assert seen.most <= 33
    together = sorted([lengths[at] for at in batch] for batch in seen.batches)
    assert [length for batch in reversed(together) for length in batch] == sorted(lengths, reverse=True)


@pytest.mark.parametrize(("texts", "threads", "of_torch"), [(8, 0, 3), (1, 2, 2), (100, 1, 1)])
def test_a_batch_that_is_alone_has_all_threads(texts: int, threads: int, of_torch: int) -> None:
    seen = Seen()
    in_batches(seen, [5] * texts, size=32, threads=threads)
    assert seen.torch_threads == {of_torch}
    assert seen.threads == {threading.get_ident()}


def test_nothing_is_no_batch() -> None:
    in_batches(Seen(), [], size=32, threads=0)


@pytest.mark.parametrize("texts", [1, 100])
def test_an_error_comes_out_and_ends_it(texts: int) -> None:
    tried: list[int] = []

    def fail(batch: list[int]) -> None:
        tried.extend(batch)
        time.sleep(0.05)  # time for the first error to come out before all have been tried
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_batches(fail, [5] * texts, size=8, threads=0)
    assert len(tried) < max(texts, 2)
