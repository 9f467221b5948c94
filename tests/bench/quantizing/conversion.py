"""Converting and quantising as our command does it, against llama.cpp's own two programs.

Ours is ``inhouse step quantizer gguf MODEL``, from its start to the artifact in the store, digests of model and file
included; theirs is convert_hf_to_gguf.py and then llama-quantize. Both get the same number of threads and write the
same tensors, which is checked first.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

from training.lora import base_model
from training.measure import FOLDER, PEERS, BenchError, Row

from inhouse_gguf.convert import exact_type

from .compare import differing
from .models import LARGE, SMALL, random_llama
from .programs import CONVERT, QUANTIZE, Work, faster, in_turns, need_llama, run, threads

TYPES = ("q8_0", "q4_k_m")
TIMES = 1.1
REPEATS = 5
OURS, THEIRS = "ours", "llama.cpp's two programs"
HERE = FOLDER / "conversion"


def measure(quick: bool) -> list[Row]:
    """Every model as every type; raises ``BenchError`` where the two files are not the same."""
    need_llama()
    HERE.mkdir(parents=True, exist_ok=True)
    base, shape = base_model(), SMALL if quick else LARGE
    models = {
        "SmolLM2-135M": base,
        shape.name: random_llama(FOLDER / "models" / shape.name.replace(" ", "-").replace(",", ""), base, shape),
    }
    rows = []
    for name, model in models.items():
        for kind in TYPES:
            print(f"  {name}, {kind}", flush=True)
            works = both(model, kind, HERE)
            check(works, HERE)
            answers = in_turns(1 if quick else REPEATS, works)
            rows.append(faster(f"{name}: convert and quantise, {kind}", THEIRS, TIMES, answers, ours=OURS))
    shutil.rmtree(HERE)
    return rows


def both(model: Path, kind: str, folder: Path) -> dict[str, Work]:
    """The two works; they write ``ours.gguf`` and ``theirs.gguf`` in ``folder``."""
    return {OURS: partial(our_command, model, kind, folder), THEIRS: partial(_their_programs, model, kind, folder)}


def our_command(model: Path, kind: str, folder: Path) -> float:
    """Converts and quantises with the command that a user types, into a store of its own."""
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    command = [sys.executable, "-m", "inhouse", "step", "quantizer", "gguf", model, "--type", kind]
    seconds = run([*command, "--threads", threads(), "--home", home])
    (made,) = home.glob("artifacts/*/*/model.gguf")
    made.replace(folder / "ours.gguf")
    shutil.rmtree(home)
    return seconds


def _their_programs(model: Path, kind: str, folder: Path) -> float:
    exact, target = folder / "exact.gguf", folder / "theirs.gguf"
    wanted = exact_type(model).lower()
    converted = run([PEERS, CONVERT, model, "--outfile", exact, "--outtype", wanted])
    quantised = run([QUANTIZE, exact, target, kind.upper(), threads()])
    exact.unlink()
    return converted + quantised


def check(works: dict[str, Work], folder: Path) -> None:
    """Does every work once, which also fills the caches, and compares the files."""
    for work in works.values():
        work()
    found = differing(folder / "ours.gguf", folder / "theirs.gguf")
    if found:
        raise BenchError("the two files differ, so there is nothing to compare:\n" + "\n".join(found[:20]))
    print("    the same tensors, byte by byte", flush=True)
