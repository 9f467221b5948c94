"""``type = "auto"``: the types from large to small, each made, loaded and measured; the best that holds is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import asdict, frozen

from inhouse.artifacts import write_text
from inhouse.errors import EngineError, StepError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_evaluate.divergence import Marked, divergence, marked, write_reference
from inhouse_evaluate.load import measure_load
from inhouse_evaluate.tasks import load_dialogues
from inhouse_gguf.facts import read_facts

LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_nl", "q4_0", "iq4_xs", "q3_k_m", "q2_k")
"""From large to small; each is on the edge of size against divergence for some model."""

SURVIVAL = 0.25
"""Most that quantising may change, as a share of what tuning changed: the default of the gate ``survival``."""

_TOKENS = 1024
Make = Callable[[str, Path], None]
"""Writes a type's GGUF to a path."""


@frozen
class Rung:
    """A type as it was measured. ``why`` says why it cannot be taken; empty where it can."""

    type: str
    bits_per_weight: float
    bytes: int
    memory: int | None = None
    tokens_per_second: float | None = None
    nats: float | None = None
    same_top: float | None = None
    why: str = ""

    def line(self) -> str:
        """A row of the table."""
        memory = f"{self.memory / 1e6:7.0f} MB" if self.memory else "         -"
        speed = f"{self.tokens_per_second:7.1f}/s" if self.tokens_per_second else "        -"
        nats = f"{self.nats:8.4f}" if self.nats is not None else "       -"
        held = f"{self.same_top:6.1%}" if self.same_top is not None else "     -"
        size = f"{self.bits_per_weight:5.2f} bits {self.bytes / 1e6:6.0f} MB"
        return f"{self.type:8}{size}{memory}{speed}{nats} nats {held}  {self.why or 'holds'}"


@frozen
class Measure:
    """What every type is compared with: texts, the 16-bit model's distributions on them, what tuning changed (nats)."""

    texts: Sequence[Marked]
    reference: Path
    tuning: float | None
    filling: str


def choose(rungs: Sequence[Rung]) -> Rung:
    """The one that holds and diverges least; the largest where no divergence was measured. Raises ``StepError``."""
    holding = [each for each in rungs if not each.why]
    if not holding:
        nearest = "; ".join(f"{each.type}: {each.why}" for each in rungs)
        raise StepError(f"no type holds to the target: {nearest}", hint="a larger [target], or name the type you want")
    return min(holding, key=lambda each: (each.nats if each.nats is not None else 0.0, -each.bytes))


def climb(step: Step, make: Make, models: tuple[Artifact, Artifact], chats: Artifact | None) -> list[Rung]:
    """Measures every type of ``LADDER``; ``models`` are the one to quantise and the first of the run.

    Types that were measured before a kill are not measured again. Publishes the table as notices.
    """
    measure = _prepare(step, *models, chats)
    rungs = []
    for kind in step.track(LADDER, unit="type"):
        kept = step.checkpoints / f"{kind}.rung.json"
        if kept.exists():
            rung = Rung(**json.loads(kept.read_text(encoding="utf-8")))
        else:
            rung = _rung(step, kind, make, measure)
            write_text(kept, json.dumps(asdict(rung)))
        step.notice(rung.line())
        rungs.append(rung)
    measure.reference.unlink(missing_ok=True)
    return rungs


def _prepare(step: Step, model: Artifact, base: Artifact, chats: Artifact | None) -> Measure:
    path = chats.path / "heldout.jsonl" if chats else None
    dialogues = load_dialogues(path, 10_000) if path and path.exists() else []
    filling = "\n".join(turn.content for dialogue in dialogues for turn in dialogue)
    reference = step.checkpoints / "reference.f32"
    with step.services.engine(model) as engine:
        texts = marked(engine, dialogues, _TOKENS) if "distributions" in engine.features else []
        if texts:
            write_reference(engine, texts, reference)
    tuning = None
    if texts and base.digest != model.digest:
        with step.services.engine(base) as engine:
            tuning = divergence(engine, texts, reference).nats
    return Measure(texts, reference, tuning, filling)


def _rung(step: Step, kind: str, make: Make, measure: Measure) -> Rung:
    folder = step.checkpoints / "rung"
    folder.mkdir(exist_ok=True)
    try:
        make(kind, folder / "model.gguf")
        facts = read_facts(folder / "model.gguf")
        if facts.bytes > step.target.memory:
            return Rung(kind, facts.bits_per_weight, facts.bytes, why="the file is larger than the target's memory")
        return _loaded(step, Artifact("model/gguf", folder, ""), kind, facts.bits_per_weight, facts.bytes, measure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _loaded(step: Step, model: Artifact, kind: str, bits: float, size: int, measure: Measure) -> Rung:
    target = step.target
    try:
        with step.services.engine(model, context=target.context) as engine:
            load = measure_load(engine, measure.filling)
            found = divergence(engine, measure.texts, measure.reference) if measure.texts else None
    except EngineError as error:
        return Rung(kind, bits, size, why=f"cannot be loaded: {error.message}")
    why = ""
    if load.memory > target.memory:
        why = "takes more memory than the target has"
    elif load.tokens_per_second < target.speed:
        why = f"slower than {target.speed} tokens/s"
    elif found and measure.tuning is not None and found.nats > SURVIVAL * measure.tuning:
        why = f"changes more than {SURVIVAL:.0%} of what tuning did ({measure.tuning:.4f} nats)"
    return Rung(
        kind, bits, size, load.memory, load.tokens_per_second, found.nats if found else None,
        found.same_top if found else None, why,
    )  # fmt: skip
