"""QLoRA: the frozen base in 4 or 8 bits while the adapter is trained (Dettmers et al. 2023, arXiv:2305.14314).

What is merged in the end is the 16-bit base: an adapter merged into 4-bit weights is lost in their rounding.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from inhouse.errors import ArtifactError
from inhouse_torch.folders import load_model, stored_dtype

from .adapter import merge


def missing() -> str | None:
    """What is not installed, and what to type."""
    found = importlib.util.find_spec("bitsandbytes")
    return None if found else "a quantised base needs bitsandbytes: pip install 'inhouse-peft[qlora]'"


def load_quantized(folder: Path, kind: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The causal model in ``folder`` on ``device``, linear layers in ``nf4`` or ``int8``, computing in ``dtype``.

    Raises ``ArtifactError`` with what transformers or bitsandbytes say.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if kind == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    else:
        settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=settings,
            dtype=dtype,
            device_map={"": device},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers and bitsandbytes raise many kinds
        raise ArtifactError(f"cannot be quantised for training: {error}", where=str(folder)) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # it would pack weights for inference, out of backward's reach
    return model


def merge_into(folder: Path, adapter: Path) -> Any:
    """The 16-bit base of ``folder`` with the saved ``adapter`` added to its weights."""
    model = load_model(folder, stored_dtype(folder))
    return merge(PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=True))
