"""Attention of joined sequences by a kernel with the cu_seqlens interface: a plain reference of it, and who is asked."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from inhouse_torch import attention, varlen
from inhouse_torch.attention import segment_attention
from inhouse_torch.packing import Segments

LAYOUTS = [Segments(0, (7,)), Segments(0, (5, 1, 9)), Segments(4, (6, 2, 8)), Segments(3, (300, 1))]
SCALE = 0.3


def reference(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, /, *,
    causal: bool, scale: float, window: int | None,
) -> Tensor:  # fmt: skip
    """Sequence by sequence with a dense mask aligned at the last query and the last key."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max())
    assert max_k == int(cu_seq_k.diff().max())
    pieces = []
    for i in range(len(cu_seq_q) - 1):
        rows, keys = slice(int(cu_seq_q[i]), int(cu_seq_q[i + 1])), slice(int(cu_seq_k[i]), int(cu_seq_k[i + 1]))
        mine, theirs, values = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (q[rows], k[keys], v[keys]))
        scores = torch.einsum("qhd,khd->hqk", mine, theirs) * scale
        ago = torch.arange(len(mine)).unsqueeze(1) + len(theirs) - len(mine) - torch.arange(len(theirs))
        seen = (ago >= 0) if causal else torch.ones_like(ago, dtype=torch.bool)
        if window is not None:
            seen &= ago < window
        weights = scores.masked_fill(~seen.to(scores.device), float("-inf")).softmax(-1)
        pieces.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(pieces)


def tensors(layout: Segments, dtype: torch.dtype = torch.float32, device: str = "cpu", size: int = 8) -> list[Tensor]:
    """q of 6 heads, k and v of 2, and a gradient; the first three want one."""
    torch.manual_seed(0)
    made = [torch.randn(layout.total, heads, size).to(device, dtype) for heads in (6, 2, 2, 6)]
    return [each.requires_grad_(number < 3) for number, each in enumerate(made)]


def result(inputs: list[Tensor], layout: Segments, **more: Any) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    *qkv, slope = inputs
    out = segment_attention(*qkv, layout, scale=SCALE, **more)
    return [out, *torch.autograd.grad(out, qkv, slope)]


def angles(layout: Segments, size: int = 8) -> tuple[Tensor, Tensor]:
    table = torch.outer(torch.arange(float(layout.total)), torch.ones(size) * 0.1)
    return table.cos(), table.sin()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("rotary", [False, True])
def test_a_kernel_of_this_interface_is_what_the_blocks_compute(
    monkeypatch: pytest.MonkeyPatch, layout: Segments, window: int | None, rotary: bool
) -> None:
    """Several segments, grouped heads, a shared prefix: output and gradients of both ways."""
    inputs, more = tensors(layout), {"window": window, "rotary": angles(layout) if rotary else None}
    wanted = result(inputs, layout, **more)
    monkeypatch.setattr(attention, "varlen_kernel", lambda *_: reference)
    for mine, theirs in zip(result(inputs, layout, **more), wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


# --- which kernel is asked, and with what ---------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Both kernels are the reference and write down their keywords; the device counts as a GPU that has them."""
    made: list[tuple[str, dict[str, Any]]] = []

    def plain(args: tuple[Any, ...], causal: bool, scale: float, window_size: tuple[int, int]) -> Tensor:
        window = None if window_size[0] < 0 else window_size[0] + 1
        return reference(*args, causal=causal, scale=scale, window=window)

    def varlen_attn(*args: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> Tensor:
        made.append(("torch", {"window_size": window_size, "enable_gqa": enable_gqa, "scale": scale}))
        return plain(args, window_size[1] == 0, scale, window_size)

    def flash_attn_varlen_func(
        *args: Any, softmax_scale: float, causal: bool, window_size: tuple[int, int], deterministic: bool
    ) -> Tensor:
        made.append(("flash_attn", {"window_size": window_size, "causal": causal, "deterministic": deterministic}))
        return plain(args, causal, softmax_scale, window_size)

    flash_attn = ModuleType("flash_attn")
    flash_attn.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    fresh = varlen.varlen_kernel.__wrapped__
    monkeypatch.setattr(attention, "varlen_kernel", lambda _, *rest: fresh(torch.device("cuda"), *rest))
    return made


@pytest.mark.parametrize(("window", "reach"), [(None, (-1, 0)), (4, (3, 0))])
def test_on_a_gpu_torchs_kernel_is_asked(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, window: int | None, reach: tuple[int, int]
) -> None:
    layout = Segments(4, (6, 2, 8))
    inputs = tensors(layout, torch.bfloat16)
    found = result(inputs, layout, window=window)
    assert calls == [("torch", {"window_size": reach, "enable_gqa": True, "scale": SCALE})]
    assert {each.dtype for each in found} == {torch.bfloat16}
    monkeypatch.undo()
    for mine, theirs in zip(found, result(inputs, layout, window=window), strict=True):
        assert torch.allclose(mine, theirs, atol=0.06)
    assert len(calls) == 1  # in this process's own device nothing is asked


@pytest.mark.parametrize("torch_has", ["none", "an old one"])
def test_without_torchs_kernel_flash_attn_is_asked(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch, torch_has: str
) -> None:
    if torch_has == "none":
        monkeypatch.delattr("torch.nn.attention.varlen.varlen_attn")
    else:
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda q, k, v, cu_q, cu_k, max_q, max_k: None)
    result(tensors(LAYOUTS[1], torch.float16), LAYOUTS[1])
    assert calls == [("flash_attn", {"window_size": (-1, 0), "causal": True, "deterministic": True})]


def test_an_older_kernel_of_torchs_gets_keys_for_each_head(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = torch.nn.attention.varlen.varlen_attn
    heads = []

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, *rest: Any, scale: float, window_size: tuple[int, int]) -> Tensor:
        heads.append((q.shape[1], k.shape[1], v.shape[1]))
        return cast("Tensor", grouped(q, k, v, *rest, scale=scale, window_size=window_size, enable_gqa=False))

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    layout = Segments(4, (6, 2, 8))
    inputs = tensors(layout, torch.bfloat16)
    found = result(inputs, layout)
    assert set(heads) == {(inputs[0].shape[1],) * 3}
    monkeypatch.undo()
    for mine, theirs in zip(found, result(inputs, layout), strict=True):
        assert torch.allclose(mine, theirs, atol=0.06)


def test_wide_queries_of_autocast_go_in_the_format_of_the_values(calls: list[Any]) -> None:
    q, k, v, _ = tensors(LAYOUTS[1])
    out = segment_attention(q, k, v.to(torch.bfloat16), LAYOUTS[1], scale=SCALE)
    assert len(calls) == 1
    assert out.dtype == torch.float32
    assert torch.equal(out, out.to(torch.bfloat16).float())


def test_what_no_kernel_takes_is_computed_in_blocks(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Segments(0, (5, 3))
    result(tensors(layout, torch.float32), layout)
    result(tensors(layout, torch.bfloat16, size=12), layout)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    result(tensors(layout, torch.bfloat16), layout)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    monkeypatch.delattr("torch.nn.attention.varlen.varlen_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    result(tensors(layout, torch.bfloat16), layout)
    assert calls == []


def test_torchs_own_kernel_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its real function, on tensors without data: keywords, shapes, and gradients for grouped heads."""
    pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    kernel = varlen.varlen_kernel.__wrapped__(torch.device("cuda"), torch.bfloat16, 8)
    if kernel is None:
        pytest.skip("this torch's is an old one")
    monkeypatch.setattr(attention, "varlen_kernel", lambda *_: kernel)
    layout = Segments(4, (6, 2, 8))
    inputs = tensors(layout, torch.bfloat16, "meta")
    for window in (None, 4):
        found = result(inputs, layout, window=window)
        assert [each.shape for each in found] == [inputs[0].shape, *(each.shape for each in inputs[:3])]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_of_this_gpu_is_the_reference(layout: Segments, window: int | None) -> None:
    inputs = tensors(layout, torch.bfloat16, "cuda", size=64)
    if varlen.varlen_kernel(inputs[0].device, torch.bfloat16, 64) is None:
        pytest.skip("neither torch nor flash_attn has a kernel for it")
    found = result(inputs, layout, window=window)
    exact = [each.detach().float().cpu().requires_grad_(number < 3) for number, each in enumerate(inputs)]
    for mine, theirs in zip(found, result(exact, layout, window=window), strict=True):
        assert torch.allclose(mine.float().cpu(), theirs, atol=0.02 * float(theirs.abs().max()))
