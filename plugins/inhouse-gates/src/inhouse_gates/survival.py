"""Gate ``survival``: what quantising changed is little beside what tuning changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from inhouse.protocols import Engine, Step
from inhouse.values import Artifact, Message
from inhouse_evaluate.divergence import Divergence, divergence, marked, write_reference

from . import GatesOptions
from .row import Row, judged


def survival(
    step: Step, options: GatesOptions, models: Mapping[str, Artifact], dialogues: Sequence[Sequence[Message]]
) -> Row:
    """KL divergence from the tuned model to the quantised one, and to the base, on what the assistant says.

    The tuned model's distributions lie in a file meanwhile: no two models are held at once.
    """
    if "tuned" not in models:
        return Row("survival", "skipped", "nothing was tuned")
    if not dialogues:
        return Row("survival", "skipped", "there are no held-out dialogues: [data.jsonl] heldout")
    try:
        found = _divergences(step, models, dialogues, options.survival_tokens)
    except _Unable as why:
        return Row("survival", "skipped", str(why))
    tuning, quantising = found["base"], found["quantized"]
    share = quantising.nats / tuning.nats if tuning.nats > 0 else float("inf")
    return judged(
        "survival",
        share <= options.survival,
        f"tuning changed {tuning.nats:.4f} nats a token, quantising {quantising.nats:.4f}, that is {share:.0%} of it"
        f" (at most {options.survival:.0%}); of {quantising.tokens} likeliest tokens {quantising.same_top:.1%} stayed",
        'a larger type, an importance matrix, or [finetune.lora] quantization_aware = "auto"',
        tuning=tuning.nats,
        quantising=quantising.nats,
        same_top=quantising.same_top,
        tokens=quantising.tokens,
    )


class _Unable(Exception):
    """Why there is nothing to compare."""


def _divergences(
    step: Step, models: Mapping[str, Artifact], dialogues: Sequence[Sequence[Message]], tokens: int
) -> dict[str, Divergence]:
    reference = step.checkpoints / "tuned.f32"
    try:
        with _opened(step, models, "tuned") as engine:
            texts = marked(engine, dialogues, tokens)
            if not texts:
                raise _Unable(f"no held-out dialogue fits the context of {engine.context}")
            write_reference(engine, texts, reference)
        found = {}
        for role in ("base", "quantized"):
            with _opened(step, models, role) as engine:
                found[role] = divergence(engine, texts, reference)
    finally:
        reference.unlink(missing_ok=True)
    return found


@contextmanager
def _opened(step: Step, models: Mapping[str, Artifact], role: str) -> Iterator[Engine]:
    with step.services.engine(models[role]) as engine:
        if "distributions" not in engine.features:
            runtime = step.services.runtime_name(models[role].kind)
            raise _Unable(f"the runtime {runtime} of the {role} model gives no distributions")
        yield engine
