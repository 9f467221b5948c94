"""Attention in one pass: what the blocks compute in fp32, for every form that a model or a batch may have."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from inhouse_torch.attention import segment_attention
from inhouse_torch.flash import flash_attention, flash_fits
from inhouse_torch.packing import Segments

ROUGH = torch.bfloat16
pytestmark = pytest.mark.skipif(
    not flash_fits(*torch.zeros(3, 1, 1, 16, dtype=ROUGH)), reason="no C compiler, or a CPU without AVX512-BF16"
)
HEADS = {
    "alone": (3, 3, 16),
    "grouped": (9, 3, 64),
    "one": (4, 1, 128),
    "odd": (2, 2, 80),
    "phi": (2, 2, 96),
    "more": (4, 2, 112),
    "wide": (1, 1, 256),
}
LAYOUTS = {
    "one": Segments(0, (1,)),
    "ends of blocks": Segments(0, (31, 32, 33, 64, 65)),
    "long": Segments(0, (300,)),
    "prefix": Segments(37, (5, 64, 1, 90, 3, 17)),
    "prefix of one": Segments(1, (40,)),
    "prefix alone": Segments(50, ()),
    "long prefix": Segments(200, (2, 2)),
}


def made(heads: tuple[int, int, int], layout: Segments) -> tuple[list[Tensor], Tensor, tuple[Tensor, Tensor]]:
    """q, k and v side by side in one tensor, as a product of all three gives them; a gradient; tables."""
    torch.manual_seed(0)
    many, few, size = heads
    both = torch.randn(layout.total, (many + 2 * few) * size).to(ROUGH)
    parts = torch.split(both, [many * size, few * size, few * size], 1)
    angles = torch.outer(torch.arange(float(layout.total)), torch.rand(size // 2)).repeat(1, 2)
    slope = torch.randn(layout.total, many, size).to(ROUGH)
    return [each.view(layout.total, -1, size) for each in parts], slope, (angles.cos(), angles.sin())


def computed(
    inputs: Sequence[Tensor], slope: Tensor, layout: Segments, rotary: tuple[Tensor, Tensor] | None
) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    out = segment_attention(*leaves, layout, scale=leaves[0].shape[2] ** -0.5, rotary=rotary)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope)]


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_is_what_the_blocks_compute(heads: tuple[int, int, int], layout: Segments, rotated: bool) -> None:
    inputs, slope, tables = made(heads, layout)
    rotary = tables if rotated else None
    exact = computed([each.float() for each in inputs], slope.float(), layout, rotary)
    for mine, wanted in zip(computed(inputs, slope, layout, rotary), exact, strict=True):
        assert mine.dtype == ROUGH
        error = (mine.float() - wanted).norm(dim=2)
        assert float(error.norm()) <= 6e-3 * float(wanted.norm()) + 1e-6
        assert bool((error <= 0.03 * wanted.norm(dim=2) + 0.01 * wanted.norm(dim=2).max() + 1e-6).all())


def test_inputs_of_any_strides() -> None:
    """Heads before tokens in memory, as transformers' own code hands them over; a gradient that is one number."""
    layout = LAYOUTS["prefix"]
    inputs, _, tables = made(HEADS["grouped"], layout)
    slope = torch.ones((), dtype=ROUGH).expand(layout.total, 9, 64)
    turned = [each.transpose(0, 1).contiguous().transpose(0, 1) for each in inputs]
    wanted = computed(inputs, slope.contiguous(), layout, tables)
    for mine, other in zip(computed(turned, slope, layout, tables), wanted, strict=True):
        assert torch.equal(mine, other)


def test_large_scores_choose_one_value() -> None:
    inputs, slope, _ = made(HEADS["alone"], LAYOUTS["prefix"])
    large = [inputs[0] * 100, inputs[1] * 100, inputs[2]]
    exact = computed([each.float() for each in large], slope.float(), LAYOUTS["prefix"], None)
    found = computed(large, slope, LAYOUTS["prefix"], None)
    assert torch.allclose(found[0].float(), exact[0], rtol=0.02, atol=0.02)
    assert all(each.isfinite().all() for each in found)


@pytest.mark.parametrize("number", range(3))
def test_what_is_no_number_reaches_its_segment_only(number: int) -> None:
    """One thread works off the long broken segment first, and then the other in the same memory."""
    inputs, slope, tables = made(HEADS["grouped"], Segments(0, (50, 33)))
    inputs[number][49] = float("nan")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = computed(inputs, slope, Segments(0, (50, 33)), tables)
    finally:
        torch.set_num_threads(before)
    assert found[0][49].isnan().any()
    assert found[1][:50].isnan().any() or number == 0
    assert not any(mine[50:].isnan().any() for mine in found)


def test_what_does_not_fit_together_is_refused_before_c_sees_it() -> None:
    inputs, _, (cos, sin) = made(HEADS["grouped"], Segments(0, (40, 50)))
    for layout in (Segments(0, (40, 51)), Segments(0, (40,)), Segments(1, (40, 50))):
        with pytest.raises(ValueError, match="tokens in segments"):
            flash_attention(*inputs, layout, scale=0.1, rotary=None)
    with pytest.raises(ValueError, match="tokens in segments"):
        flash_attention(*inputs, Segments(0, (40, 50)), scale=0.1, rotary=(cos[:-1], sin))
    q, k, v = inputs
    assert not flash_fits(q, k, v[..., :32])
    assert not flash_fits(*(each[..., :24].contiguous() for each in inputs))
    assert not flash_fits(*(each.float() for each in inputs))
