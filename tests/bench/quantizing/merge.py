"""A LoRA merged while its base is converted, against peft's merge, a saved model and its conversion.

Ours is ``inhouse step quantizer gguf MODEL --adapter ADAPTER``, from its start to the artifact in the store. Theirs is
the script of a user of peft and then a converter: llama.cpp's, and our own beside it.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from training.lora import base_model
from training.measure import FOLDER, PEERS, BenchError, Row

from inhouse_gguf.convert import convert

from .compare import apart
from .models import LARGE, SMALL, random_adapter, random_llama
from .programs import CONVERT, Work, faster, in_turns, need_llama, run

RANK = 16
TIMES = 0.5
REPEATS = 5
STEPS = 1.0
"""Most steps of bfloat16 between both: the sums are made in another order, and each is rounded once."""

OURS = "ours"
THEIRS, BESIDE = "peft, llama.cpp", "peft, our converter"
SCRIPT = Path(__file__).with_name("peft_merge.py")
HERE = FOLDER / "merge"


def measure(quick: bool) -> list[Row]:
    """Raises ``BenchError`` where the merged weights are not the same but for rounding."""
    need_llama()
    HERE.mkdir(parents=True, exist_ok=True)
    shape = SMALL if quick else LARGE
    name = shape.name.replace(" ", "-").replace(",", "")
    model = random_llama(FOLDER / "models" / name, base_model(), shape)
    adapter = random_adapter(FOLDER / "models" / f"{name}-lora", model, RANK)
    works: dict[str, Work] = {
        OURS: partial(our_command, model, adapter, HERE / "ours.gguf"),
        THEIRS: partial(_peft, model, adapter, HERE / "theirs.gguf", ours=False),
        BESIDE: partial(_peft, model, adapter, HERE / "beside.gguf", ours=True),
    }
    print(f"  {shape.name}, LoRA of rank {RANK} on all linear layers", flush=True)
    check(works, model, HERE)
    answers = in_turns(1 if quick else REPEATS, works)
    shutil.rmtree(HERE)
    work = f"{shape.name}: merge a LoRA and convert"
    return [faster(work, peer, TIMES, answers, ours=OURS) for peer in (THEIRS, BESIDE)]


def our_command(model: Path, adapter: Path | None, target: Path) -> float:
    """Our command, with the adapter merged in its one pass, or without one; in a store of its own."""
    home = target.with_name("home")
    shutil.rmtree(home, ignore_errors=True)
    command = [sys.executable, "-m", "inhouse", "step", "quantizer", "gguf", model, "--type", "bf16", "--home", home]
    seconds = run([*command, *(["--adapter", adapter] if adapter else [])])
    (made,) = home.glob("artifacts/*/*/model.gguf")
    made.replace(target)
    shutil.rmtree(home)
    return seconds


def _peft(model: Path, adapter: Path, target: Path, *, ours: bool) -> float:
    merged = target.with_name("merged")
    seconds = run([PEERS, SCRIPT, model, adapter, merged])
    if ours:
        seconds += our_command(merged, None, target)
    else:
        seconds += run([PEERS, CONVERT, merged, "--outfile", target, "--outtype", "bf16"])
    shutil.rmtree(merged)
    return seconds


def check(works: dict[str, Work], model: Path, folder: Path) -> None:
    """Does every work once, which also fills the caches, and compares the weights."""
    for work in works.values():
        work()
    base = folder / "base.gguf"
    convert(model, base, "BF16", lambda *_: None)
    for name in ("theirs.gguf", "beside.gguf"):
        found = apart(folder / "ours.gguf", folder / name, base)
        print(
            f"    {name}: {found.equal:.2%} of the weights are equal, the others {found.steps:g} steps of bfloat16 apart"
            f" at most (at most {STEPS:g} are let pass)",
            flush=True,
        )
        if found.steps > STEPS:
            raise BenchError("the two sides do not merge the same, so there is nothing to compare")
    base.unlink()
