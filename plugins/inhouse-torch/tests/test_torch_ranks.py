"""Several processes read the corpus in parts: disjoint, complete up to the remainder, as many windows each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inhouse.errors import StepError
from inhouse_testing.recording import RecordingStep
from inhouse_torch import Scratch, schedule
from inhouse_torch.bpe import train_tokenizer
from inhouse_torch.corpus import Tokens
from inhouse_torch.loop import Settings, fit
from inhouse_torch.schedule import batch, steps_in_epoch
from inhouse_torch.scratch import ScratchTask
from inhouse_torch.shape import by_depth, fresh_model
from inhouse_torch.shards import Shards, ShardWriter

CONTEXT, WINDOWS = 32, 23


def epoch_of(monkeypatch: pytest.MonkeyPatch, rank: int, world: int, *, count: int, size: int, epoch: int) -> list[int]:
    monkeypatch.setattr(schedule, "rank_and_world", lambda: (rank, world))
    found = [batch(count, size, place, seed=5, epoch=epoch) for place in range(steps_in_epoch(count, size))]
    assert batch(count, size, len(found), seed=5, epoch=epoch) == []
    assert all(len(rows) == size for rows in found[:-1])
    return [row for rows in found for row in rows]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 12, 23])
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_parts_are_every_nth_row_of_the_order(
    monkeypatch: pytest.MonkeyPatch, world: int, count: int, epoch: int
) -> None:
    order = torch.randperm(count, generator=torch.Generator().manual_seed((5 << 20) ^ epoch)).tolist()
    parts = [epoch_of(monkeypatch, rank, world, count=count, size=4, epoch=epoch) for rank in range(world)]
    whole = count // world * world
    assert parts == [order[rank:whole:world] for rank in range(world)]
    assert {len(part) for part in parts} == {count // world}
    assert sorted(row for part in parts for row in part) == sorted(order[:whole])


def test_a_process_alone_reads_all() -> None:
    assert steps_in_epoch(23, 4) == 6
    assert sorted(row for place in range(6) for row in batch(23, 4, place, seed=5, epoch=0)) == list(range(23))


def write_tokens(folder: Path) -> None:
    """A row of tokens of which each tells its place, in several files, and a tokenizer."""
    train_tokenizer(["the blue bag is on its way"] * 9, 280, context=CONTEXT).save_pretrained(folder / "tokenizer")
    for name, windows in (("train", WINDOWS), ("heldout", 1)):
        with ShardWriter(folder / name, 1 << 16, shard_tokens=100) as writer:
            writer.write(range((windows + 1) * CONTEXT))


def make_task(folder: Path, read: list[int]) -> ScratchTask:
    """A tiny model on these tokens; the first token of each window that is trained on goes to ``read``."""

    class Recording(Shards):
        def read(self, start: int, length: int) -> torch.Tensor:
            found = super().read(start, length)
            read.append(int(found[0]))
            return found

    tokens = Tokens(None, Recording(folder / "train"), Shards(folder / "heldout"), documents=1)
    options = Scratch(
        depth=1, context=CONTEXT, batch_size=4, grow_context=0.0, epochs=2, optimizer="adamw", compute_dtype="float32"
    )
    vocabulary = (WINDOWS + 1) * CONTEXT
    model = fresh_model(by_depth(1, vocabulary=vocabulary, context=CONTEXT), bos=1, eos=2, pad=0)
    return ScratchTask(model, tokens, options)


CHILD = f"""
import json, sys
from pathlib import Path
import torch
from torch import distributed
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_torch_ranks import make_task
from inhouse_torch.loop import Settings, fit

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{{folder}}/meeting", rank=rank, world_size=2)
read = []
settings = Settings(learning_rate=1e-3, batch_size=4, epochs=2, evaluations=0)
progress = fit(make_task(folder, read), settings, seed=7, folder=folder / f"rank-{{rank}}", tell=lambda moment: None)
steps = torch.tensor([progress.step])
distributed.all_reduce(steps)  # every process takes as many steps, else this would hang
distributed.destroy_process_group()
Path(sys.argv[3]).write_text(json.dumps({{"read": read, "steps": progress.step, "all": int(steps)}}))
"""


def test_two_processes_train_on_parts_of_their_own(tmp_path: Path) -> None:
    """With gloo and a file to meet at; without them, one process reads what the two read together, and the rest."""
    write_tokens(tmp_path)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(rank), str(tmp_path / f"{rank}.json")],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for child in children:
            _, said = child.communicate(timeout=120)
            assert child.returncode == 0, said
    finally:
        for child in children:
            child.kill()
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    each = WINDOWS // 2
    steps = -(-each // 4) * 2
    assert [(one["steps"], one["all"], len(one["read"])) for one in found] == [(steps, 2 * steps, 2 * each)] * 2
    alone: list[int] = []
    settings = Settings(learning_rate=1e-3, batch_size=4, epochs=2, evaluations=0)
    fit(make_task(tmp_path, alone), settings, seed=7, folder=tmp_path / "alone", tell=lambda moment: None)
    for epoch in range(2):
        parts = [set(one["read"][epoch * each : (epoch + 1) * each]) for one in found]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == set(alone[epoch * WINDOWS : epoch * WINDOWS + 2 * each])


def test_fewer_rows_than_processes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(tmp_path)
    monkeypatch.setattr(schedule, "rank_and_world", lambda: (0, WINDOWS + 1))
    step = RecordingStep.at(tmp_path / "a")
    with pytest.raises(StepError, match="23 rows of data are fewer than the processes"):
        fit(make_task(tmp_path, []), Settings(learning_rate=1e-3, batch_size=4, epochs=1), seed=7,
            folder=step.checkpoints, tell=lambda moment: None)  # fmt: skip
