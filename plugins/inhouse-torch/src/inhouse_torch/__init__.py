"""Training with torch: the shared loop, and the trainers `pretrain` and `scratch`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Literal

from attrs import field, frozen, validators

from inhouse import Input, TrainerSpec, hookimpl


@frozen
class Pretrain:
    """Options of the trainer `pretrain`."""

    learning_rate: float = field(default=2e-5, validator=validators.gt(0), metadata={"help": "peak learning rate"})
    optimizer: Literal["adamw", "muon"] = field(
        default="adamw", metadata={"help": "adamw, or muon for the layers' matrices with AdamW for the rest"}
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
    sample: str = field(
        default="",
        metadata={"help": "beginning of a text that the model goes on with at each held-out loss", "counts": False},
    )
    micro_batch_tokens: int = field(
        default=4096,
        validator=validators.ge(1),
        metadata={"help": "most tokens computed at once; larger batches are accumulated"},
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "what is multiplied in; auto: the faster on this machine, measured once"}
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata={"help": "where it is trained; auto: the GPU when there is one", "counts": False}
    )
    checkpoint_seconds: float = field(
        default=120.0,
        validator=validators.gt(0),
        metadata={"help": "seconds between checkpoints", "counts": False},
    )


@frozen
class Scratch:
    """Options of the trainer `scratch`."""

    depth: int = field(
        default=6,
        validator=[validators.ge(1), validators.le(80)],
        metadata={"help": "layers; width, heads and the rest follow from it"},
    )
    parameters: str = field(
        default="", metadata={"help": "instead of depth: how large, such as 10M; the nearest depth is taken"}
    )
    first_weights: Literal["random", "bigrams"] = field(
        default="random",
        metadata={"help": "how embedding and head begin: at random, or as a bigram model of the corpus"},
    )
    vocabulary: int = field(
        default=8192,
        validator=[validators.ge(300), validators.le(1 << 20)],
        metadata={"help": "tokens of the tokenizer, where no step made one"},
    )
    context: int = field(default=512, validator=validators.ge(32), metadata={"help": "tokens of a sequence"})
    epochs: int = field(default=1, validator=validators.ge(1), metadata={"help": "passes over the corpus"})
    batch_size: int = field(default=16, validator=validators.ge(1), metadata={"help": "sequences in a step"})
    optimizer: Literal["muon", "adamw"] = field(
        default="muon", metadata={"help": "muon (AdamW for embeddings and norms), or adamw for all"}
    )
    learning_rate: float = field(default=3e-3, validator=validators.gt(0), metadata={"help": "peak learning rate"})
    warmup: float = field(
        default=0.05,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the steps in which the learning rate rises"},
    )
    decay: Literal["cosine", "linear", "constant"] = field(
        default="linear", metadata={"help": "how the learning rate falls after it"}
    )
    weight_decay: float = field(default=0.1, validator=validators.ge(0), metadata={"help": "decoupled weight decay"})
    clip: float = field(
        default=1.0, validator=validators.gt(0), metadata={"help": "largest norm of the whole gradient"}
    )
    grow_context: float = field(
        default=0.3,
        validator=[validators.ge(0), validators.le(1)],
        metadata={"help": "share of the steps in which sequences grow from an eighth of context; 0: never"},
    )
    heldout: float = field(
        default=0.05,
        validator=[validators.ge(0), validators.lt(1)],
        metadata={"help": "share of the corpus kept for the held-out loss"},
    )
    evaluations: int = field(
        default=4, validator=validators.ge(0), metadata={"help": "held-out losses and samples in an epoch"}
    )
    sample: str = field(default="", metadata={"help": "how the samples during training begin", "counts": False})
    micro_batch_tokens: int = field(
        default=8192,
        validator=validators.ge(1),
        metadata={"help": "most tokens computed at once; larger batches are accumulated"},
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "what is multiplied in; auto: the faster on this machine, measured once"}
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata={"help": "where it is trained; auto: the GPU when there is one", "counts": False}
    )
    checkpoint_seconds: float = field(
        default=120.0,
        validator=validators.gt(0),
        metadata={"help": "seconds between checkpoints", "counts": False},
    )


@hookimpl
def inhouse_trainers() -> Iterator[TrainerSpec]:
    """Declares the trainers."""
    yield TrainerSpec(
        name="pretrain",
        summary="continues pre-training of all weights on the corpus",
        factory="inhouse_torch.pretrain:PretrainTrainer",
        options=Pretrain,
        consumes=("model/hf", "text/corpus"),
        produces="model/hf",
        version=4,
    )
    yield TrainerSpec(
        name="scratch",
        summary="trains a tokenizer and a model of its own on the corpus, from nothing",
        factory="inhouse_torch.scratch:ScratchTrainer",
        options=Scratch,
        consumes=("text/corpus", Input("tokenizer", optional=True)),
        produces="model/hf",
        version=5,
    )


@hookimpl
def inhouse_step() -> Generator[None, None, None]:
    """What a step took goes back to the system: optimizer states outlive the block that keeps freed memory."""
    yield
    from .allocator import give_back

    give_back()
