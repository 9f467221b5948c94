"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from inhouse.values import Request
from inhouse_transformers import Options, engine, memory


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc's allocator can be told")
def test_holes_are_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size, count = 64 << 10, 2000  # small enough that each comes from the heap
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
        libc.free(ctypes.c_void_p(block))
    before = psutil.Process().memory_info().rss
    memory.give_back()
    assert before - psutil.Process().memory_info().rss > size * count // 2
    libc.free(ctypes.c_void_p(blocks[-1]))


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    memory.give_back()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    memory.give_back()


def test_an_engine_gives_back_after_a_batch_and_at_its_end(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(engine, "give_back", lambda: given.append(1))
    with engine.TransformersRuntime(Options(dtype="float32", device="cpu", max_batch=2)).open(
        llama, context=64
    ) as opened:
        opened.generate([Request(prompt="order", max_tokens=1)] * 3)
        assert len(given) == 2
    assert len(given) == 3
