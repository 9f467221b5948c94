"""Training with torch: the shared loop, and the trainer `pretrain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen, validators

from inhouse import TrainerSpec, hookimpl


@frozen
class Pretrain:
    """Options of the trainer `pretrain`."""

    learning_rate: float = field(
        default=2e-5, validator=validators.gt(0), metadata={"help": "peak learning rate of AdamW"}
    )
    batch_size: int = field(default=8, validator=validators.ge(1), metadata={"help": "documents in a step"})
    epochs: int = field(default=1, validator=validators.ge(1), metadata={"help": "passes over the corpus"})
    context: int = field(
        default=1024, validator=validators.ge(8), metadata={"help": "tokens; longer documents are cut into pieces"}
    )
    warmup: float = field(
        default=0.1,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the steps in which the learning rate rises"},
    )
    decay: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "how the learning rate falls after it"}
    )
    weight_decay: float = field(default=0.01, validator=validators.ge(0), metadata={"help": "AdamW's weight decay"})
    clip: float = field(
        default=1.0, validator=validators.gt(0), metadata={"help": "largest norm of the whole gradient"}
    )
    heldout: float = field(
        default=0.1,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the documents kept for the held-out loss"},
    )
    micro_batch_tokens: int = field(
        default=4096,
        validator=validators.ge(1),
        metadata={"help": "most tokens computed at once; larger batches are accumulated"},
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "what is multiplied in; auto: what this machine measures as faster"}
    )
    checkpoint_seconds: float = field(
        default=120.0,
        validator=validators.gt(0),
        metadata={"help": "seconds between checkpoints", "counts": False},
    )


@hookimpl
def inhouse_trainers() -> Iterator[TrainerSpec]:
    """Declares the trainer."""
    yield TrainerSpec(
        name="pretrain",
        summary="continues pre-training of all weights on the corpus",
        factory="inhouse_torch.pretrain:PretrainTrainer",
        options=Pretrain,
        consumes=("model/hf", "text/corpus"),
        produces="model/hf",
    )
