"""What is quantised: SmolLM2-135M out of its pip package, a larger random Llama, and an adapter of either."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import frozen
from safetensors.torch import save_file

from inhouse_gguf.source import open_source

SEED = 7


@frozen
class Shape:
    """A Llama: ``width`` columns, ``between`` of them in the MLP, ``heads`` of which ``groups`` have keys and values."""

    name: str
    width: int
    between: int
    layers: int
    heads: int
    groups: int

    def tensors(self, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, for a vocabulary of ``rows``; the head is the embedding."""
        narrow = self.width // self.heads * self.groups
        yield "model.embed_tokens.weight", (rows, self.width)
        for layer in range(self.layers):
            front = f"model.layers.{layer}."
            for name, size in (("q", self.width), ("k", narrow), ("v", narrow), ("o", self.width)):
                yield f"{front}self_attn.{name}_proj.weight", (size, self.width)
            for name in ("gate", "up"):
                yield f"{front}mlp.{name}_proj.weight", (self.between, self.width)
            yield f"{front}mlp.down_proj.weight", (self.width, self.between)
            yield f"{front}input_layernorm.weight", (self.width,)
            yield f"{front}post_attention_layernorm.weight", (self.width,)
        yield "model.norm.weight", (self.width,)


LARGE = Shape("random Llama, 1.1B", width=2048, between=8192, layers=16, heads=32, groups=8)
SMALL = Shape("random Llama, 14M", width=256, between=512, layers=2, heads=4, groups=2)
"""The same for ``--quick``, and for tests."""


def random_llama(folder: Path, base: Path, shape: Shape) -> Path:
    """A model folder in bf16 with random weights, and the tokenizer and other settings of ``base``; made once."""
    if folder.exists():
        return folder
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(base, aside, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": shape.width, "intermediate_size": shape.between, "num_hidden_layers": shape.layers}
    config |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.groups, "dtype": "bfloat16"}
    config |= {"tie_word_embeddings": True, "head_dim": shape.width // shape.heads}
    (aside / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    generator = torch.Generator().manual_seed(SEED)
    tensors = {
        name: torch.randn(size, generator=generator).mul_(0.02).bfloat16()
        if len(size) > 1
        else torch.ones(size, dtype=torch.bfloat16)
        for name, size in shape.tensors(config["vocab_size"])
    }
    save_file(tensors, aside / "model.safetensors", {"format": "pt"})
    aside.rename(folder)
    return folder


def random_adapter(folder: Path, base: Path, rank: int) -> Path:
    """A LoRA of ``rank`` on all linear layers of ``base``, as peft saves one, with random A and B; made once."""
    if folder.exists():
        return folder
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    generator = torch.Generator().manual_seed(SEED)
    tensors, modules = {}, set()
    for name, stored in open_source(base).tensors.items():
        module = name.removesuffix(".weight")
        if module.endswith("_proj"):
            rows, columns = stored.shape
            front = f"base_model.model.{module}"
            tensors[f"{front}.lora_A.weight"] = torch.randn(rank, columns, generator=generator).mul_(0.02)
            tensors[f"{front}.lora_B.weight"] = torch.randn(rows, rank, generator=generator).mul_(0.02)
            modules.add(module.rsplit(".", 1)[-1])
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "inference_mode": True,
        "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none", "target_modules": sorted(modules),
    }  # fmt: skip
    (aside / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, aside / "adapter_model.safetensors", {"format": "pt"})
    aside.rename(folder)
    return folder
