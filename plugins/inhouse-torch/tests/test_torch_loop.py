"""The parts of the loop that trainers share."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inhouse.errors import ArtifactError
from inhouse.memory import resident_bytes
from inhouse_testing.recording import RecordingStep
from inhouse_torch import checkpoint, inhouse_step
from inhouse_torch.allocator import REST, Kept, freed_memory_kept
from inhouse_torch.attention import segment_attention
from inhouse_torch.cross_entropy import head_loss
from inhouse_torch.loop import Moment, Progress, Settings, fit
from inhouse_torch.packing import Sample, Segments, pack, split_by_tokens
from inhouse_torch.precision import compute_dtype, gemm_rate
from inhouse_torch.report import telling
from inhouse_torch.schedule import batch, batches, learning_rate


def test_rate_rises_then_falls() -> None:
    rates = [learning_rate(s, 100, peak=1.0, warmup=0.1, decay="cosine") for s in range(100)]
    assert 0 < rates[0] < rates[9] < rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert learning_rate(50, 100, peak=1.0, warmup=0.0, decay="linear") == 0.5
    assert learning_rate(0, 1, peak=1.0, warmup=0.1, decay="cosine") == 1.0


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 99), st.integers(0, 3))
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(count: int, size: int, seed: int, epoch: int) -> None:
    found = [batch(count, size, place, seed=seed, epoch=epoch) for place in range(-(-count // size))]
    assert sorted(row for rows in found for row in rows) == list(range(count))
    assert found[-1] == batch(count, size, len(found) - 1, seed=seed, epoch=epoch)
    assert all(len(rows) == size for rows in found[:-1])


def sample(ids: list[int], first_target: int) -> Sample:
    return Sample(tuple(ids), tuple(i >= first_target for i in range(len(ids))), "s")


def test_the_prefix_is_shared_once_and_stops_before_the_first_target() -> None:
    packed = pack([sample([1, 2, 3, 4, 5], 3), sample([1, 2, 3, 9], 3), sample([1, 2, 3, 4, 5], 4)])
    assert packed.segments == Segments(2, (2, 1, 2))
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 3, 3, 4]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2, 2, 3]]
    assert packed.rows.tolist() == [2, 3, 4, 6]
    assert packed.targets.tolist() == [4, 5, 9, 5]
    assert packed.real_tokens == 14


def test_a_sample_without_target_is_named() -> None:
    with pytest.raises(ValueError, match="s has no token to learn"):
        pack([sample([1, 2], 2)])


def test_micro_batches_keep_order_and_limit() -> None:
    samples = [sample([1] * n, 1) for n in (5, 5, 9, 2, 30, 2)]
    assert [[len(s.ids) for s in piece] for piece in split_by_tokens(samples, 12)] == [[5, 5], [9, 2], [30], [2]]


@pytest.mark.parametrize("window", [None, 4])
def test_attention_is_that_of_torch_for_each_segment(window: int | None) -> None:
    torch.manual_seed(0)
    layout = Segments(5, (7, 3))
    q, k, v = torch.randn(15, 6, 8), torch.randn(15, 2, 8), torch.randn(15, 2, 8)
    for tensor in (q, k, v):
        tensor.requires_grad_()
    found = segment_attention(q, k, v, layout, scale=0.3, window=window)
    pieces, start = [], 5
    for length in layout.lengths:
        rows = [*range(5), *range(start, start + length)]
        place = torch.arange(len(rows))
        mask = place.unsqueeze(1) >= place
        if window:
            mask &= place > place.unsqueeze(1) - window
        parts = [t[rows].transpose(0, 1).unsqueeze(0) for t in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask, scale=0.3, enable_gqa=True)
        pieces.append(out[0].transpose(0, 1)[5 if pieces else 0 :])
        start += length
    wanted = torch.cat(pieces)
    assert torch.allclose(found, wanted, atol=1e-5)
    weights = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_head_loss_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    from inhouse_torch import cross_entropy

    torch.manual_seed(0)
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * 31 * 3)
    hidden, weight = torch.randn(10, 6, requires_grad=True), torch.randn(31, 6, requires_grad=True)
    targets = torch.randint(0, 31, (10,))
    found = head_loss(hidden, weight, targets)
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(found * 0.5, (hidden, weight)),
        torch.autograd.grad(wanted * 0.5, (hidden, weight)),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert head_loss(hidden * 1e4, weight, targets).isfinite()


def test_checkpoints_replace_each_other_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, 3, {"a": torch.ones(2)}, {"losses": [0.1 + 0.2]})
    checkpoint.save(tmp_path, 12, {"a": torch.zeros(2)}, {"losses": [0.1 + 0.2]})
    checkpoint.save(tmp_path, 12, {"a": torch.zeros(2)}, {"losses": [0.1 + 0.2]})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found[1] == {"step": 12, "losses": [0.1 + 0.2]}
    with pytest.raises(ArtifactError, match="another shape"):
        checkpoint.restore({"a": torch.ones(3)}, found[0])
    (tmp_path / "step-00000012" / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match=r"cannot be read.*\n.*remove"):
        checkpoint.load(tmp_path)


def test_the_format_is_chosen_by_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    from inhouse_torch import precision

    assert gemm_rate(torch.float32, size=64, repeats=1) > 0
    assert compute_dtype("bfloat16") == torch.bfloat16
    rates = {torch.float32: 100.0, torch.bfloat16: 120.0}
    monkeypatch.setattr(precision, "gemm_rate", lambda dtype, device: rates[dtype])
    assert compute_dtype("auto") == torch.float32
    rates[torch.bfloat16] = 900.0
    assert compute_dtype("auto") == torch.bfloat16


def test_allocator_says_whether_it_took_the_settings() -> None:
    with freed_memory_kept() as kept:
        assert kept.taken in (True, False)
        assert torch.ones(1 << 20).sum() == 1 << 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc's allocator can be told")
def test_memory_in_gaps_that_steps_leave_goes_back_when_it_has_grown() -> None:
    with freed_memory_kept() as kept:
        kept.hold()
        before = resident_bytes()
        blocks = [torch.ones(1 << 17) for _ in range(1024)]  # 512 MiB
        between = blocks[::64]
        del blocks
        grown = resident_bytes()
        assert grown - before > 400 << 20
        for _ in range(REST - 2):
            kept.hold()
        assert grown - resident_bytes() < 100 << 20  # not after every step
        kept.hold()
        assert grown - resident_bytes() > 400 << 20
        assert len(between) == 16


def test_every_trainer_that_tells_holds_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held: list[Kept] = []

    def hold(kept: Kept) -> None:
        held.append(kept)

    monkeypatch.setattr(Kept, "hold", hold)

    def fitting(tell: Callable[[Moment], None]) -> Progress:
        for step in (1, 2, 3):
            tell(Moment(step, 3, 0.5, 1e-3, 8))
        return Progress([0.5] * 3)

    telling(RecordingStep.at(tmp_path), fitting)
    assert len(held) == 3


def test_batches_of_ever_other_sizes_do_not_fill_the_memory() -> None:
    """oneDNN keeps what it compiled for each shape, two thirds of a megabyte in bf16."""
    code = """
import torch
from inhouse.memory import resident_bytes
from inhouse_testing.recording import RecordingStep
from inhouse_torch.device import training_on
with training_on("cpu"):
    weight = torch.ones(1536, 576, dtype=torch.bfloat16)
    def product(rows): torch.nn.functional.linear(torch.ones(rows, 576, dtype=torch.bfloat16), weight)
    for rows in range(200, 400): product(rows)
    before = resident_bytes()
    for rows in range(400, 1000): product(rows)
    print(resident_bytes() - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert grown < 200 << 20  # 390 MB without a bound


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc's allocator can be told")
def test_a_step_gives_back_what_it_took() -> None:
    wrapper = inhouse_step()
    next(wrapper)
    with freed_memory_kept():
        held = [torch.ones(1 << 18) for _ in range(256)]  # 256 MiB that outlive the block, as an optimizer's states do
    held.append(held)  # type: ignore[arg-type]
    del held
    before = resident_bytes()
    next(wrapper, None)
    assert before - resident_bytes() > 200 << 20


class Line:
    """Rows of one number each, ``sizes`` tokens long, to which one weight is fitted; keeps what was computed."""

    def __init__(self, sizes: list[int]) -> None:
        self.count = len(sizes)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.parameters = {"weight": self.weight}
        self.matrices: list[str] = []
        self.buffers: dict[str, torch.Tensor] = {}
        self.computed: list[list[int]] = []
        self._sizes = sizes

    def begin(self, *key: int) -> None:
        """Nothing is random."""

    def targets(self, rows: Sequence[int]) -> int:
        return len(rows)

    def tokens(self, rows: Sequence[int]) -> int:
        return sum(self._sizes[row] for row in rows)

    def losses(self, rows: Sequence[int]) -> Iterator[torch.Tensor]:
        self.computed.append(list(rows))
        yield sum((self.weight * row - 1).square().sum() for row in rows)  # type: ignore[misc]

    def heldout(self) -> None:
        return None

    def name(self, row: int) -> str:
        return str(row)


@pytest.mark.parametrize("begun", [0, 2])
def test_the_largest_batch_is_rehearsed_once_and_changes_nothing(tmp_path: Path, begun: int) -> None:
    settings = Settings(learning_rate=0.1, batch_size=2, epochs=2)
    order = [rows for epoch in (0, 1) for rows in batches(8, 2, seed=3, epoch=epoch)]
    sizes = [9 if row in order[3] else 1 for row in range(8)]

    def run(task: Line, folder: str, stop_at: int = 0) -> list[float]:
        def tell(moment: Moment) -> None:
            if moment.step == stop_at:
                raise KeyboardInterrupt

        return fit(task, settings, seed=3, folder=tmp_path / folder, tell=tell).losses

    plain, uneven = Line([1] * 8), Line(sizes)
    wanted = run(plain, "plain")
    assert plain.computed == order
    if begun:
        with pytest.raises(KeyboardInterrupt):
            run(Line(sizes), "uneven", stop_at=begun)
    assert run(uneven, "uneven") == wanted
    assert uneven.computed == [order[begun], order[3], *order[begun + 1 :]]
    assert torch.equal(plain.weight, uneven.weight)
