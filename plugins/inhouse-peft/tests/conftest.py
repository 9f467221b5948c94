"""A tiny model with a real tokenizer and chat template, and a step that records what it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inhouse_testing.recording import RecordingStep

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SYSTEM = {"role": "system", "content": "You answer questions about numbers in one short line."}


def make_chats(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Chats of one or two turns about sums."""
    rows = []
    for number in range(first, first + count):
        messages = [SYSTEM, {"role": "user", "content": f"What is {number} and {number % 7}?"}]
        messages.append({"role": "assistant", "content": f"Final: {number + number % 7}"})
        if number % 3 == 0:
            messages += [
                {"role": "user", "content": "Are you sure about it?"},
                {"role": "assistant", "content": f"Yes: {number + number % 7}"},
            ]
        rows.append({"id": f"row-{number}", "messages": messages})
    return rows


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Products this small only wait for each other on several threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with ChatML."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([m["content"] for row in make_chats(60) for m in row["messages"]], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=trained, bos_token=special[1], eos_token=special[2])
    made.chat_template = CHATML
    return made


@pytest.fixture(scope="session")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with tied embeddings, bf16, as a folder."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A text/chat artifact."""
    folder = tmp_path / "chats"
    folder.mkdir()
    for name, rows in (("train", make_chats(22)), ("heldout", make_chats(5, first=100))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make_step(tmp_path: Path) -> Any:
    """Steps with folders of their own; ``make_step("a")`` twice shares the checkpoints, as a resumed run does."""

    def make(name: str, *kinds: str, kill_at: int = 0) -> RecordingStep:
        return RecordingStep.at(tmp_path / name, *(kinds or ("model/hf", "adapter/peft")), kill_at=kill_at)

    return make
