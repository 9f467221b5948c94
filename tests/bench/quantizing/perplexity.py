"""WikiText-2 before and after quantising, for every type of llama.cpp: perplexity, and divergence against size.

The table is in build/bench/quantize-types.json and its plot beside it. Types are made as the quantizer makes them when
there is text: with an importance matrix (over the validation split; the test split is what is measured) unless the type
ignores one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from attrs import asdict, frozen
from training.lora import base_model
from training.measure import FOLDER, ROOT, BenchError, Row, within
from transformers import AutoModelForCausalLM

from inhouse.artifacts import write_text
from inhouse.errors import EngineError, StepError
from inhouse_gguf import IGNORING_TYPES, PLAIN_TYPES, TYPES
from inhouse_gguf.convert import convert, exact_type
from inhouse_gguf.engine import collect, quantize
from inhouse_gguf.facts import read_facts

from .spread import Spread, nats, opened, perplexity, same_top, spreads, write_every

TEXT, MATRIX_TEXT = (ROOT.parent / "shared" / "data" / f"wikitext2-{split}.txt" for split in ("test", "valid"))
WINDOW, WINDOWS = 1024, 8
QUICK_TYPES = ("q8_0", "q4_k_m", "q4_0", "iq2_xxs")
SIXTEEN = "f16"
TOLERANCE = 5e-3
"""Of the perplexities of both sides: llama.cpp computes products of 16-bit weights in 16 bit, transformers in 32."""

HERE = FOLDER / "types"


@frozen
class Point:
    """A type: ``nats`` is the mean KL(16 bit || type), ``why`` says why llama.cpp did not make it."""

    type: str
    matrix: bool = False
    bytes: int = 0
    bits_per_weight: float = 0.0
    perplexity: float = 0.0
    nats: float = 0.0
    same_top: float = 0.0
    why: str = ""

    def line(self) -> str:
        """A row of the table."""
        if self.why:
            return f"    {self.type:10} {self.why}"
        return (
            f"    {self.type:10}{'matrix' if self.matrix else '':8}{self.bits_per_weight:6.2f} bits"
            f" {self.bytes / 1e6:6.1f} MB  perplexity {self.perplexity:8.2f}  {self.nats:8.4f} nats"
            f"  {self.same_top:6.1%} the same token"
        )


def measure(quick: bool) -> list[Row]:
    """Table, plot and rows. Raises ``BenchError`` without the text, or where transformers computes otherwise."""
    for path in (TEXT, MATRIX_TEXT):
        if not path.is_file():
            raise BenchError(f"there is no text at {path}: WikiText-2, one split a file")
    HERE.mkdir(parents=True, exist_ok=True)
    text = TEXT.read_text(encoding="utf-8")
    window, windows, tokens = (256, 2, 512) if quick else (WINDOW, WINDOWS, 16384)
    base = base_model()
    corpus = write_corpus(MATRIX_TEXT.read_text(encoding="utf-8"), HERE / "corpus.jsonl")
    kinds = [kind for kind in (QUICK_TYPES if quick else TYPES) if kind not in PLAIN_TYPES]
    points, theirs = every_type(base, text, corpus, kinds, (window, windows, tokens), HERE)
    name = "quantize-types-quick" if quick else "quantize-types"
    write_text(FOLDER / f"{name}.json", json.dumps([asdict(each) for each in points], indent=1) + "\n")
    plot(points, FOLDER / f"{name}.png")
    print(f"  written: build/bench/{name}.json and .png", flush=True)
    return _rows(points, theirs)


def every_type(
    base: Path, text: str, corpus: Path, kinds: Sequence[str], size: tuple[int, int, int], folder: Path
) -> tuple[list[Point], float]:
    """The 16-bit model and every type on the first windows of ``text``; and transformers' perplexity of the first.

    ``size``: tokens of a window, windows, tokens that the importance matrix is computed over. Raises ``BenchError``
    where ours and transformers' are not the same.
    """
    window, windows, tokens = size
    whole, exact, reference = folder / "16", folder / "exact.gguf", folder / "reference.f32"
    whole.mkdir(exist_ok=True)
    convert(base, whole / "model.gguf", SIXTEEN.upper(), _quiet)
    convert(base, exact, exact_type(base), _quiet)
    with opened(whole, window) as engine:
        ids = engine.tokenize(text[: 16 * window * windows])
        texts = [ids[start : start + window] for start in range(0, window * windows, window)]
        write_every(engine, texts, reference)
        found = list(spreads(engine, texts, reference))
    theirs = plain_perplexity(base, texts)
    within("perplexity of the 16-bit model, ours and transformers'", perplexity(found), theirs, TOLERANCE)
    points = [_point(SIXTEEN, whole / "model.gguf", found, matrix=False)]
    print(points[0].line(), flush=True)
    matrix = folder / f"{corpus.stem}.imatrix"
    collect(exact, matrix, chats=None, corpus=corpus, tokens=tokens, seed=7, threads=0, progress=_quiet)
    for kind in kinds:
        points.append(_measured(kind, exact, None if kind in IGNORING_TYPES else matrix, texts, reference))
        print(points[-1].line(), flush=True)
    reference.unlink()
    return points, theirs


def _measured(kind: str, exact: Path, matrix: Path | None, texts: Sequence[Sequence[int]], reference: Path) -> Point:
    folder = reference.with_name("type")
    folder.mkdir(exist_ok=True)
    made = folder / "model.gguf"
    try:
        quantize(exact, made, kind, 0, _quiet, matrix)
        with opened(folder, max(map(len, texts))) as engine:
            return _point(kind, made, list(spreads(engine, texts, reference)), matrix=matrix is not None)
    except (StepError, EngineError) as error:
        return Point(kind, why=f"cannot be made: {error.message}")
    finally:
        made.unlink(missing_ok=True)


def _point(kind: str, path: Path, found: Sequence[Spread], *, matrix: bool) -> Point:
    facts = read_facts(path)
    values = (perplexity(found), nats(found), same_top(found))
    return Point(kind, matrix, facts.bytes, facts.bits_per_weight, *values)


def plain_perplexity(base: Path, texts: Sequence[Sequence[int]]) -> float:
    """Plain transformers in float32, one window at a time."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids in texts:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
    return float(torch.tensor(total / count).exp())


def write_corpus(text: str, path: Path) -> Path:
    """One row for each article: they begin with a line ``= Title =``."""
    articles = [each for each in re.split(r"(?m)^(?= = [^=])", text) if each.strip()]
    write_text(path, "".join(json.dumps({"text": each}) + "\n" for each in articles))
    return path


def plot(points: Sequence[Point], target: Path) -> None:
    """Size against divergence; the types that no other is both smaller and nearer than are joined by a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    made = sorted((each for each in points if not each.why and each.nats > 0), key=lambda each: each.bytes)
    edge = [each for n, each in enumerate(made) if all(each.nats < other.nats for other in made[:n])]
    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    axes.plot([each.bytes / 1e6 for each in edge], [each.nats for each in edge], color="0.7", zorder=1)
    axes.scatter([each.bytes / 1e6 for each in made], [each.nats for each in made], s=16, zorder=2)
    for n, each in enumerate(made):
        axes.annotate(
            each.type, (each.bytes / 1e6, each.nats), xytext=(4, (5, -9)[n % 2]), textcoords="offset points", fontsize=7
        )
    axes.set(yscale="log", xlabel="file, MB", ylabel="KL divergence from 16 bit, nats a token")
    axes.set_title(f"WikiText-2, perplexity {points[0].perplexity:.2f} at 16 bit")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(target, dpi=150)
    pyplot.close(figure)


def _rows(points: Sequence[Point], theirs: float) -> list[Row]:
    before, work = points[0].perplexity, "WikiText-2 perplexity"
    goal = f"within {TOLERANCE:.1%}"
    first = Row(f"{work}, 16 bit", "transformers, fp32", before, theirs, before / theirs, "", goal, True)
    return [first] + [
        Row(f"{work}, {each.type}", "before, 16 bit", each.perplexity, before, each.perplexity / before, "", "", True)
        for each in points[1:]
        if not each.why
    ]


def _quiet(done: int, total: int, name: str) -> None:
    """No progress."""
