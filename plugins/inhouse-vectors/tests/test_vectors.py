"""The store that is the measure of the others, and the arithmetic that stores share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inhouse.errors import DataError
from inhouse_testing import conformance, stores
from inhouse_vectors import inhouse_vector_stores
from inhouse_vectors.exact import ExactStore
from inhouse_vectors.vectors import one, ranked, unit


def test_declares_one_store_without_loading_numpy() -> None:
    conformance.check_light("inhouse_vectors")
    (spec,) = inhouse_vector_stores()
    conformance.check_spec(spec)
    assert (spec.name, spec.kind) == ("exact", "vector_store")


@pytest.mark.parametrize("check", [*stores.CHECKS, stores.check_exact_ties])
def test_it_is_a_vector_store(check: Callable[[stores.Make, Path], None], tmp_path: Path) -> None:
    check(ExactStore, tmp_path)
    assert not list(tmp_path.iterdir()), "it keeps nothing"


def test_it_says_what_is_wrong_with_a_call(tmp_path: Path) -> None:
    store = ExactStore()
    with pytest.raises(ValueError, match="not open"):
        store.count()
    store.open(tmp_path, dimension=4, generation=1)
    with pytest.raises(ValueError, match="one vector at a time"):
        store.search(np.ones((2, 4)), 1)
    with pytest.raises(ValueError, match="do not fit dimension 4"):
        store.search(np.ones(3), 1)
    store.close()
    with pytest.raises(ValueError, match="not open"):
        store.search(np.ones(4), 1)


NEAR = [0.1, 0.1 + 1e-9, 0.1 + 4e-7, 0.1 + 6e-7, 0.1 + 1.1e-6, 0.5, -1.0, -1e-9]


@given(scores=st.lists(st.sampled_from(NEAR), max_size=30), k=st.integers(-1, 40))
def test_ranked_is_a_stable_sort(scores: list[float], k: int) -> None:
    ids = np.arange(len(scores), 0, -1)
    hits = [(int(key), round(float(np.float32(score)), 6)) for key, score in zip(ids, scores, strict=True)]
    expected = sorted(hits, key=lambda hit: (-hit[1], hit[0]))[: max(k, 0)]
    found = ranked(ids, np.array(scores, np.float32), k)
    assert found == expected
    assert not any(str(score) == "-0.0" for _, score in found)


BUSY = """
import os
from pathlib import Path
import numpy as np
from inhouse_vectors.exact import ExactStore

store = ExactStore()
store.open(Path(), dimension=384, generation=1)
vectors = np.random.default_rng(0).normal(size=(10_000, 384)).astype(np.float32)
store.rebuild(range(1, 10_001), vectors, generation=1)
tasks = [each for each in Path("/proc/self/task").iterdir() if each.name != str(os.getpid())]
used = lambda: sum(sum(map(int, (each / "stat").read_text().rpartition(")")[2].split()[11:13])) for each in tasks)
before = used()
for query in vectors[:300]:
    store.search(query, 5)
print(used() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux what threads did")
def test_a_search_keeps_to_its_own_thread() -> None:
    """BLAS's threads, which wait busily, would be in the way of the embedder's."""
    done = subprocess.run([sys.executable, "-c", BUSY], check=True, capture_output=True, text=True)
    assert int(done.stdout) <= 1, "hundredths of a second in which others than the searching thread worked"


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-7, 1.0, 1e7, 1e20, 3e38])
def test_a_query_of_any_length_has_length_one(scale: float) -> None:
    vector = np.array([3.0, -4.0, 0.0, 1e-3]) / 5 * scale
    found = one(vector, 4)
    assert found.dtype == np.float32
    assert found == pytest.approx(unit(vector, 4)[0], abs=2e-7)
    assert one(vector.tolist(), 4) == pytest.approx(found)
    assert one(vector[None], 4) == pytest.approx(found), "a matrix of one"


def test_a_query_that_is_none_is_told() -> None:
    for bad in ([np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(DataError, match="NaN or infinity"):
            one(np.array(bad), 2)
    for shape in ((3,), (2, 2), (0,)):
        with pytest.raises(ValueError, match="vector"):
            one(np.ones(shape), 2)
    assert one(np.zeros(2), 2).tolist() == [0.0, 0.0]
