"""Attention with a shared prefix equals attention to the two parts joined."""

from __future__ import annotations

import pytest
import torch

from inhouse_transformers.attention import _flash, _softmaxed, attend


@pytest.mark.parametrize(("new", "positions"), [(1, 1), (1, 9), (5, 5), (5, 9)])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_attention_to_the_whole(new: int, positions: int, padded: bool) -> None:
    torch.manual_seed(3)
    rows, heads, kv, size, length = 3, 6, 2, 4, 11
    query = torch.randn(rows, heads, new, size)
    key, value = torch.randn(2, rows, kv, positions, size)
    prefix_key, prefix_value = torch.randn(2, 1, kv, length, size)
    mask = torch.ones(new, positions, dtype=torch.bool).tril(positions - new).expand(rows, 1, -1, -1).clone()
    if padded:
        mask[0, :, :, : positions // 2] = False
    whole_key, whole_value = (
        torch.cat([first.expand(rows, -1, -1, -1), second], dim=2).repeat_interleave(heads // kv, dim=1)
        for first, second in ((prefix_key, key), (prefix_value, value))
    )
    seen = torch.cat([mask.new_ones(rows, 1, new, length), mask], dim=3)
    expected = torch.nn.functional.scaled_dot_product_attention(query, whole_key, whole_value, seen)
    got = attend(query * size**-0.5, key, value, mask if padded else None, prefix_key, prefix_value)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_of_a_cpu_gives_what_other_devices_compute(masked: bool) -> None:
    query, key, value = torch.randn(3, 2, 2, 7, 4)
    mask = torch.ones(2, 1, 7, 7, dtype=torch.bool).tril() if masked else None
    if mask is not None:
        mask[0, :, :, :3] = False  # padding: the first three queries of that row see nothing
    for got, expected in zip(_flash(query, key, value, mask), _softmaxed(query, key, value, mask), strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
