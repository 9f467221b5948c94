"""Prompts of unequal length are computed in pieces, each for the rows that have a token in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inhouse_transformers import Options
from inhouse_transformers import forward as module
from inhouse_transformers.forward import CALL, Forward, pieces
from inhouse_transformers.load import load


@given(st.lists(st.integers(0, 300), max_size=90), st.integers(1, 40))
def test_pieces_hold_every_token_once_and_cost_no_more_than_one_call(begins: list[int], more: int) -> None:
    begins = sorted([0, *begins])
    columns = begins[-1] + more
    found = pieces(begins, columns)
    assert [start for start, _, _ in found[1:]] == [end for _, end, _ in found[:-1]]
    assert (found[0][0], found[-1][1], found[-1][2]) == (0, columns, len(begins))
    for start, end, rows in found:
        assert rows == sum(begin < end for begin in begins)
        assert (end - start) * rows <= module.CHUNK
    calls = -(-columns // (module.CHUNK // len(begins)))
    cost = sum((end - start) * rows for start, end, rows in found)
    assert cost <= len(begins) * columns + CALL * max(0, calls - 1)


def test_pieces_are_cut_where_many_rows_begin() -> None:
    assert pieces([0, 0, 200, 200, 200], 210) == [(0, 200, 2), (200, 210, 5)]
    assert pieces([0, 5, 9], 60) == [(0, 60, 3)]  # a call more would cost more


@pytest.mark.parametrize("call", [0, CALL])
def test_rows_that_join_late_are_as_if_alone(llama: Path, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL", call)
    forward = Forward(load(llama, Options(dtype="float32", device="cpu")))
    lengths = [120, 118, 40, 7, 7, 1]
    rows = [torch.randint(3, 60, (length,)) for length in lengths]
    ids = torch.zeros(len(rows), 120, dtype=torch.long)
    mask = torch.zeros(len(rows), 120, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, 120 - len(row) :] = row
        mask[at, 120 - len(row) :] = 1
    cache = forward.cache()
    computed: list[int] = []
    whole_call = Forward.__call__
    monkeypatch.setattr(Forward, "__call__", lambda *a, **k: computed.append(a[1].numel()) or whole_call(*a, **k))
    got = [forward.prefill(ids, mask, cache)]
    assert sum(computed) == sum(lengths) if call == 0 else sum(computed) < ids.numel()
    got.append(forward(torch.full((len(rows), 1), 5), torch.nn.functional.pad(mask, (0, 1), value=1), cache)[:, -1])
    for at, row in enumerate(rows):
        alone = forward.cache()
        whole = torch.ones(1, len(row) + 1, dtype=torch.long)
        expected = [forward(row[None], whole[:, :-1], alone)[0, -1], forward(torch.tensor([[5]]), whole, alone)[0, -1]]
        for logits, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(logits[at], wanted, atol=1e-4, rtol=1e-4)
