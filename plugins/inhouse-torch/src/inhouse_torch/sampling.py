"""What a model writes while it is trained, to look at beside the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inhouse.protocols import Step

from .attention import register
from .bpe import end_of_text
from .loop import Moment

TOKENS = 40


def showing(step: Step, model: Any, tokenizer: Any, prompt: str) -> Callable[[Moment], None]:
    """A listener that tells a sample with each held-out loss."""

    def show(moment: Moment) -> None:
        if moment.heldout is not None:
            text = sample(model, tokenizer, prompt)
            step.notice(f"sample after {moment.step} of {moment.total} steps: {text}")

    return show


def sample(model: Any, tokenizer: Any, prompt: str) -> str:
    """A short text that the model writes after ``prompt`` (after the end of a text, where there is none).

    Of a prompt longer than half the model's context the end is what it sees.
    """
    model.set_attn_implementation("sdpa")
    model.eval()
    context = model.config.max_position_embeddings
    begin = [*end_of_text(tokenizer), *tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]]
    ids = torch.tensor([(begin or [0])[-(context // 2) :]], device=model.device)  # generate takes no empty prompt
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=min(TOKENS, context - ids.shape[1]),
        do_sample=True,
        temperature=0.8,
        top_k=50,
    )
    model.train()
    model.set_attn_implementation(register())
    return prompt + " ".join(str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)).split())
