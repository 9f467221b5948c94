"""What is compiled computes what torch does, the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inhouse_torch import flash, native
from inhouse_torch.attention import segment_attention
from inhouse_torch.cross_entropy import head_loss
from inhouse_torch.dense import _GatedUnit
from inhouse_torch.norm import rms_norm
from inhouse_torch.packing import Segments

ROUGH = torch.bfloat16
PREFIXED = Segments(3, (5, 9, 40, 40, 1))
needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler that takes the flags")


def norm(x: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", ROUGH):
        return rms_norm(x, weight, 1e-5)


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Segments = PREFIXED) -> Tensor:
    rotary = tuple(torch.linspace(-1, 1, 98 * 8).view(98, 8).roll(each).repeat(1, 2).to(ROUGH) for each in (0, 7))
    return segment_attention(q, k, v, layout, scale=0.3, rotary=rotary)  # type: ignore[arg-type]


def loss(hidden: Tensor, weight: Tensor) -> Tensor:
    targets = torch.arange(len(hidden)) * 7 % len(weight)
    with torch.autocast("cpu", ROUGH):
        return head_loss(hidden, weight, targets)


def joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, Segments(0, (49, 49)))


CASES: dict[str, tuple[Callable[..., Tensor], Sequence[Tensor]]] = {}
torch.manual_seed(0)
CASES["gated"] = (_GatedUnit.apply, [(torch.randn(37, 2 * 83) * 4).to(ROUGH)])
CASES["norm"] = (norm, [torch.randn(2, 37, 83) * 5, torch.rand(83)])
HEADS = [torch.randn(98, heads, 16).to(ROUGH) for heads in (6, 2, 2)]
CASES["attention"], CASES["joined"] = (attention, HEADS), (joined, HEADS)
CASES["loss"] = (loss, [torch.randn(37, 24), torch.randn(211, 24)])
ATTENTION = {"attend", "attend_backward"}
CALLED = {
    "gated": {"gated", "gated_backward"},
    "norm": {"norm", "norm_backward"},
    "attention": ATTENTION,
    "joined": ATTENTION,
    "loss": {"slopes"},
}


if native.library() is not None and not hasattr(native.library(), "attend"):  # a CPU without AVX512-BF16
    del CASES["attention"], CASES["joined"]


def results(case: str) -> list[Tensor]:
    function, tensors = CASES[case]
    inputs = [each.detach().clone().requires_grad_() for each in tensors]
    out = function(*inputs)
    slope = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype) if out.dim() else torch.tensor(0.5)
    return [out.detach(), *torch.autograd.grad(out, inputs, slope)]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_compiled_is_what_torch_computes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def counted(function: Any, *each: Any) -> None:
        used.append(function.__name__)
        native.call(function, *each)

    for module in ("cross_entropy", "dense", "flash", "norm"):
        monkeypatch.setattr(f"inhouse_torch.{module}.call", counted)
    found, count = results(case), len(used)
    for module in (native, flash):
        monkeypatch.setattr(module, "library", lambda: None)
    wanted = results(case)
    assert len(used) == count
    assert set(used) == CALLED[case]
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype == other.dtype
        assert torch.allclose(mine.float(), other.float(), rtol=0.02, atol=0.01 * float(other.abs().max()))


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_bits_do_not_depend_on_threads(case: str, threads: Callable[[int], None]) -> None:
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(results(case))
    for other in found[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[0], other, strict=True))


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_what_is_no_number_stays_none(case: str) -> None:
    function, tensors = CASES[case]
    broken = [each.clone() for each in tensors]
    broken[0].view(-1)[0] = float("nan")
    assert function(*broken).isnan().any()


@needs_compiler
def test_small_differences_of_the_loss_are_kept() -> None:
    """The gradient of a target that is nearly certain is not what is left of one rounded to bf16."""
    logits = torch.tensor([[8.0, 0.0, 1.0]]).to(ROUGH)
    losses = torch.empty(1, dtype=torch.float64)
    exact = torch.softmax(logits.double(), 1)
    native.call(native.library().slopes, logits, torch.tensor([0]), losses, 1, 3)
    assert losses.item() == pytest.approx(-exact[0, 0].log().item(), rel=1e-4)
    assert logits[0, 0].item() == pytest.approx(exact[0, 0].item() - 1, rel=1e-2)


@needs_compiler
def test_numbers_of_the_python_kind_that_c_does_not_have_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale of 1 from a config.json is an int, which C would take from another register."""
    q, k, v = HEADS
    found = [segment_attention(q, k, v, PREFIXED, scale=scale) for scale in (1, 1.0)]
    assert torch.equal(*found)


@needs_compiler
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -1])
def test_no_bits_of_no_number_become_one(bits: int) -> None:
    broken = torch.ones(2, 16)
    broken.view(torch.int32)[0, 0] = bits
    out = norm(broken, torch.ones(16))
    assert out[0].isnan().all()
    assert not out[1].isnan().any()


def test_a_target_that_is_no_token_is_refused() -> None:
    with pytest.raises(IndexError, match="none of the 211 tokens"):
        head_loss(torch.randn(3, 24), torch.randn(211, 24), torch.tensor([0, 211, 5]))


def test_without_a_compiler_there_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.library.__wrapped__() is None
    for compiler in ("false", "true", str(tmp_path)):
        monkeypatch.setenv("CC", compiler)
        assert native.library.__wrapped__() is None
    script = tmp_path / "cc"
    script.write_text("no program at all")
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    assert native.library.__wrapped__() is None


@needs_compiler
def test_a_compiler_may_come_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -DNOTHING")
    assert native.library.__wrapped__() is not None


@needs_compiler
def test_a_library_with_threads_of_its_own_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_shares_threads", lambda _: False)
    assert native.library.__wrapped__() is None
