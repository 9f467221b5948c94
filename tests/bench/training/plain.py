"""A child that computes the loss of one batch twice: padded in plain transformers and peft, and as we train.

The job: ``base`` and ``data`` (folders; the data is one batch), ``rank``, ``alpha``. Answers, for each format
of the base and for a fresh adapter (which adds nothing) and a random one, the summed losses of both ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from inhouse_peft import Lora
from inhouse_peft.adapter import add_adapter
from inhouse_peft.lora import LoraTask, read_chats
from inhouse_torch.folders import load_model, load_tokenizer
from inhouse_torch.packing import Sample
from inhouse_torch.precision import compute_dtype
from training.child import answer, job


def padded_loss(model: Any, samples: list[Sample]) -> float:
    """The summed loss of a padded batch through the model's own forward, logits in fp32."""
    ids = pad_sequence([torch.tensor(s.ids) for s in samples], batch_first=True)
    learn = pad_sequence([torch.tensor(s.learn) for s in samples], batch_first=True)
    there = pad_sequence([torch.ones(len(s.ids), dtype=torch.int64) for s in samples], batch_first=True)
    logits: Tensor = model(input_ids=ids, attention_mask=there, use_cache=False).logits
    picked = learn[:, 1:]
    return float(torch.nn.functional.cross_entropy(logits[:, :-1][picked].float(), ids[:, 1:][picked], reduction="sum"))


def adapted(base: Path, dtype: torch.dtype, options: Lora, *, random: bool) -> Any:
    """peft's model; a random adapter has the same values in every format of the base."""
    model = add_adapter(load_model(base, dtype), options, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if random and "lora_B" in name:
            parameter.data.normal_(std=0.03, generator=generator)
    return model.eval()


def main() -> None:
    """Computes and answers."""
    asked = job()
    options = Lora(rank=asked["rank"], alpha=asked["alpha"], dropout=0.0)
    base = Path(asked["base"])
    samples, _ = read_chats(Path(asked["data"]) / "train.jsonl", load_tokenizer(base), options.context)
    found = []
    with torch.no_grad():
        for adapter in ("a fresh adapter", "a random adapter"):
            random = adapter == "a random adapter"
            plain = padded_loss(adapted(base, torch.float32, options, random=random), samples)
            for dtype in dict.fromkeys((torch.float32, compute_dtype("auto"))):
                task = LoraTask(adapted(base, dtype, options, random=random), samples, [], options)
                ours = sum(float(loss) for loss in task.losses(range(len(samples))))
                name = str(dtype).removeprefix("torch.")
                found.append({"what": f"{adapter}, {name}", "dtype": name, "ours": ours, "plain": plain})
    answer(found=found)


if __name__ == "__main__":
    main()
