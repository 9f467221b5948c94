"""Fine-tuning with peft: the trainer `lora`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import field, frozen, validators

from inhouse import TrainerSpec, hookimpl


@frozen
class Lora:
    """Options of the trainer `lora`. The defaults are for a few hundred examples."""

    rank: int = field(default=16, validator=validators.ge(1), metadata={"help": "rank of the adapter"})
    alpha: float = field(
        default=32, validator=validators.gt(0), metadata={"help": "the adapter counts alpha / rank times"}
    )
    dropout: float = field(
        default=0.05,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the adapter's inputs that is dropped in training"},
    )
    targets: str = field(
        default="all-linear",
        metadata={"help": "layers that get an adapter: all-linear, or names separated by commas"},
    )
    first_layer: int = field(
        default=0,
        validator=validators.ge(0),
        metadata={"help": "layers below this one get no adapter; a third of them left out saves a quarter of the time"},
    )
    rslora: bool = field(default=False, metadata={"help": "count the adapter alpha / sqrt(rank) times"})
    dora: bool = field(
        default=False,
        metadata={"help": "learn the length of each weight row apart from its direction (DoRA); slower"},
    )
    quantized_base: Literal["none", "nf4", "int8"] = field(
        default="none",
        metadata={"help": "hold the frozen base in nf4 or int8 (QLoRA, bitsandbytes): less memory, slower"},
    )
    quantization_aware: str = field(
        default="",
        metadata={
            "help": "after the epochs, go on with the weights as this format will store them: q4_0, nf4 … or auto, as "
            "the quantize step says",
            "service": "rounding",
        },
    )
    quantization_aware_epochs: int = field(
        default=1, validator=validators.ge(1), metadata={"help": "passes over the chats with those weights"}
    )
    quantization_aware_learning_rate: float = field(
        default=0.0,
        validator=validators.ge(0),
        metadata={"help": "peak learning rate of those passes; 0: half of learning_rate"},
    )
    learning_rate: float = field(
        default=1e-4, validator=validators.gt(0), metadata={"help": "peak learning rate of AdamW"}
    )
    batch_size: int = field(default=4, validator=validators.ge(1), metadata={"help": "chats in a step"})
    epochs: int = field(default=3, validator=validators.ge(1), metadata={"help": "passes over the chats"})
    context: int = field(
        default=1024, validator=validators.ge(8), metadata={"help": "tokens; longer chats are cut at turn borders"}
    )
    warmup: float = field(
        default=0.1,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the steps in which the learning rate rises"},
    )
    decay: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "how the learning rate falls after it"}
    )
    weight_decay: float = field(default=0.0, validator=validators.ge(0), metadata={"help": "AdamW's weight decay"})
    clip: float = field(
        default=1.0, validator=validators.gt(0), metadata={"help": "largest norm of the whole gradient"}
    )
    evaluations: int = field(
        default=1,
        validator=validators.ge(0),
        metadata={"help": "measurements of the held-out loss in an epoch; 0: none"},
    )
    patience: int = field(
        default=2,
        validator=validators.ge(0),
        metadata={"help": "measurements without a lower held-out loss that end the training (0: never)"},
    )
    heldout: float = field(
        default=0.05,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the chats kept for the held-out loss, where the data brings none"},
    )
    micro_batch_tokens: int = field(
        default=4096,
        validator=validators.ge(1),
        metadata={"help": "most tokens computed at once; larger batches are accumulated"},
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "format of the frozen base; auto: the faster on this machine, measured once"}
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata={"help": "where it is trained; auto: the GPU when there is one", "counts": False}
    )
    checkpoint_seconds: float = field(
        default=60.0,
        validator=validators.gt(0),
        metadata={"help": "seconds between checkpoints", "counts": False},
    )


@hookimpl
def inhouse_trainers() -> Iterator[TrainerSpec]:
    """Declares the trainer."""
    yield TrainerSpec(
        name="lora",
        summary="LoRA on a frozen base, merged into it; the adapter is kept",
        factory="inhouse_peft.lora:LoraTrainer",
        options=Lora,
        consumes=("model/hf", "text/chat"),
        produces=("model/hf", "adapter/peft"),
        version=5,
    )
