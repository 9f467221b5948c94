"""What an importance matrix gives on the domain's own text: the service desk, one tuned model, held-out chats.

Every type is made without and with the matrix that the quantizer computes over the training chats, and the
Kullback-Leibler divergence from the 16-bit model is taken at every place of the held-out chats. All chats begin with
the same system text, a third to a half of their tokens; so the figures stand there once for all tokens, once for
those after it, and once for the assistant's turns, which the gate ``survival`` looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from training.measure import FOLDER, BenchError, Row

from inhouse_evaluate.divergence import Marked, marked
from inhouse_evaluate.tasks import load_dialogues
from inhouse_gguf.convert import convert, exact_type
from inhouse_gguf.engine import collect, quantize
from inhouse_gguf.facts import Facts, read_facts

from .desk import PLAIN, QUICK, product, run_recipe
from .spread import Spread, opened, spreads, write_every

SEED = 7
TYPES = ("q4_k_m", "q4_0", "iq4_nl", "q3_k_m")
TOKENS, CHATS, CONTEXT = 16384, 58, 1024
RATIO = 0.85
HERE = FOLDER / "imatrix"
Places = Callable[[Marked], NDArray[np.bool_]]
"""Which of the places 1 … n-1 of a chat count."""


@frozen
class Measured:
    """A type without (0) and with (1) the matrix: what its file is, and every chat's spread."""

    facts: tuple[Facts, Facts]
    spreads: tuple[Sequence[Spread], Sequence[Spread]]


def measure(quick: bool) -> list[Row]:
    """Tunes the model where it is not in the store (ten minutes on two cores), quantises and compares."""
    HERE.mkdir(parents=True, exist_ok=True)
    record = run_recipe({"seed": SEED, **PLAIN, **(QUICK if quick else {})}, until="finetune")
    model, data = product(record, "finetune", "model/hf"), product(record, "data", "text/chat")
    tokens, chats = (1024, 3) if quick else (TOKENS, CHATS)
    texts, found = every_type(model, data, TYPES, (tokens, chats), HERE)
    return _rows(texts, found)


def every_type(
    model: Path, data: Path, kinds: Sequence[str], size: tuple[int, int], folder: Path
) -> tuple[list[Marked], dict[str, Measured]]:
    """The held-out chats of ``data`` (``text/chat``), and every type on them.

    ``size``: tokens that the matrix is computed over, chats. Raises ``BenchError`` where no chat is left.
    """
    tokens, chats = size
    exact, whole, reference = folder / "exact.gguf", folder / "16", folder / "reference.f32"
    whole.mkdir(exist_ok=True)
    convert(model, exact, exact_type(model), _quiet)
    convert(model, whole / "model.gguf", "F16", _quiet)
    matrix = folder / "chats.imatrix"
    train = data / "train.jsonl"
    told = collect(exact, matrix, chats=train, corpus=None, tokens=tokens, seed=SEED, threads=0, progress=_quiet)
    with opened(whole, CONTEXT) as engine:
        texts = marked(engine, load_dialogues(data / "heldout.jsonl", chats), 1 << 30)
        if not texts:
            raise BenchError(f"no chat of {data / 'heldout.jsonl'} has an answer within {CONTEXT} tokens")
        ids = [each.ids for each in texts]
        write_every(engine, ids, reference)
    count = sum(map(len, ids))
    print(f"  matrix over {told.tokens} tokens; {len(texts)} held-out chats, {count} tokens", flush=True)
    found = {}
    for kind in kinds:
        made = [_made(kind, exact, each, ids, reference) for each in (None, matrix)]
        found[kind] = Measured((made[0][0], made[1][0]), (made[0][1], made[1][1]))
        _tell(kind, found[kind], texts)
    reference.unlink()
    return texts, found


def _made(
    kind: str, exact: Path, matrix: Path | None, texts: Sequence[Sequence[int]], reference: Path
) -> tuple[Facts, list[Spread]]:
    folder = reference.with_name("type")
    folder.mkdir(exist_ok=True)
    target = folder / "model.gguf"
    quantize(exact, target, kind, 0, _quiet, matrix)
    with opened(folder, CONTEXT) as engine:
        found = list(spreads(engine, texts, reference))
    facts = read_facts(target)
    target.unlink()
    return facts, found


def views(texts: Sequence[Marked]) -> Mapping[str, Places]:
    """By name, which places count. The system text is what all chats begin with."""
    shortest = min(len(each.ids) for each in texts)
    system = next((n for n in range(shortest) if len({each.ids[n] for each in texts}) > 1), 0)

    def answers(text: Marked) -> NDArray[np.bool_]:
        picked = np.zeros(len(text.ids) - 1, np.bool_)
        picked[text.places] = True
        return picked

    return {
        "all tokens": lambda text: np.ones(len(text.ids) - 1, np.bool_),
        "after the system text": lambda text: np.arange(1, len(text.ids)) >= system,
        "answers": answers,
    }


def divergences(found: Measured, texts: Sequence[Marked], places: Places) -> tuple[float, float]:
    """Mean nats without and with the matrix, at the places that count."""
    without, given = (
        float(np.concatenate([each.nats[places(text)] for each, text in zip(one, texts, strict=True)]).mean())
        for one in found.spreads
    )
    return without, given


def _tell(kind: str, found: Measured, texts: Sequence[Marked]) -> None:
    sizes = " and ".join(f"{each.bytes / 1e6:.1f} MB ({each.bits_per_weight:.2f} bits)" for each in found.facts)
    print(f"  {kind}: {sizes} without and with the matrix", flush=True)
    for name, places in views(texts).items():
        without, given = divergences(found, texts, places)
        counted = sum(int(places(each).sum()) for each in texts)
        # chats are what was drawn: their tokens hang together
        apart = [
            float((b.nats[places(text)] - a.nats[places(text)]).mean())
            for a, b, text in zip(*found.spreads, texts, strict=True)
        ]
        error = float(np.std(apart) / len(apart) ** 0.5)
        print(
            f"    {name + ':':24} {without:.4f} and {given:.4f} nats, {given / without:.2f} times, over {counted} tokens;"
            f" a chat {np.mean(apart):+.4f} with a standard error of {error:.4f}",
            flush=True,
        )


def _rows(texts: Sequence[Marked], found: Mapping[str, Measured]) -> list[Row]:
    rows = []
    for kind, each in found.items():
        for name, places in views(texts).items():
            without, given = divergences(each, texts, places)
            ratio = given / without
            work = f"service desk, KL of {kind}, {name}"
            rows.append(Row(work, "no matrix", given, without, ratio, "nats", f"<= {RATIO} times", ratio <= RATIO))
        without, given = (one.bytes / 1e6 for one in each.facts)
        ratio = given / without
        work = f"service desk, file of {kind}"
        rows.append(Row(work, "no matrix", given, without, ratio, "MB", "within 1 %", abs(ratio - 1) <= 0.01))
    return rows


def _quiet(done: int, total: int, name: str) -> None:
    """No progress."""
