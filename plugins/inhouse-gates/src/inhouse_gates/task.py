"""Gate ``task``: the held-out tasks lose little against 16 bit."""

from __future__ import annotations

from inhouse.values import Json

from . import GatesOptions
from .row import Row, judged


def task(options: GatesOptions, tasks: Json) -> Row:
    """Compares what the evaluator ``tasks`` measured of the model before and after quantising."""
    before, after = tasks.get("tuned") or tasks.get("base"), tasks.get("quantized")
    if not before or not after:
        return Row("task", "skipped", "no tasks were set: there is no [evaluate] in the recipe")
    was, now = (100.0 * each["solved"] / each["total"] for each in (before, after))
    return judged(
        "task",
        was - now <= options.task,
        f"{before['solved']} of {before['total']} tasks at 16 bit, {after['solved']} quantised: {was - now:+.1f} points"
        f" lost, at most {options.task:g} may be",
        'a larger type, or [finetune.lora] quantization_aware = "auto"',
        before=was,
        after=now,
    )
