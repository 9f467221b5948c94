"""Attention in one pass: what the blocks compute in fp32, for every form that a model or a batch may have."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from inhouse_torch.attention import segment_attention
from inhouse_torch.flash import flash_kernel
from inhouse_torch.packing import Segments

ROUGH = torch.bfloat16
pytestmark = pytest.mark.skipif(
    flash_kernel(*torch.zeros(3, 1, 1, 16, dtype=ROUGH)) is None, reason="no C compiler, or a CPU without AVX512-BF16"
)
HEADS = {"alone": (3, 3, 16), "grouped": (9, 3, 64), "one": (4, 1, 128), "odd": (2, 2, 80), "wide": (1, 1, 256)}
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


def test_large_scores_do_not_overflow() -> None:
    inputs, slope, _ = made(HEADS["alone"], LAYOUTS["prefix"])
    large = [each * 100 for each in inputs]
    for mine in computed(large, slope, LAYOUTS["prefix"], None):
        assert mine.isfinite().all()


@pytest.mark.parametrize("number", range(3))
def test_what_is_no_number_reaches_its_segment_only(number: int) -> None:
    inputs, slope, tables = made(HEADS["grouped"], Segments(0, (40, 50)))
    inputs[number][40] = float("nan")
    found = computed(inputs, slope, Segments(0, (40, 50)), tables)
    assert found[0][40:].isnan().any()
    assert not any(mine[:40].isnan().any() for mine in found)
