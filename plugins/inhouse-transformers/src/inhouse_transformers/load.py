"""From a folder to a model in memory: what is refused, where it runs, and in which dtype."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from attrs import frozen
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from inhouse.errors import DataError, EngineError
from inhouse_transformers import Options
from inhouse_transformers.packed import best_seconds, one_thread, pack

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@frozen
class Loaded:
    """A model and its tokenizer. ``limit`` is the longest context the model was made for, in tokens."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    limit: int


def load(folder: Path, options: Options) -> Loaded:
    """Loads an HF folder without network, pickle or remote code.

    Raises ``DataError`` for a folder that is no model of whole safetensors, ``EngineError`` with transformers' words.
    """
    config = _check(folder)
    device = _device(options.device)
    dtype = _dtype(options.dtype, device, folder, quantized="quantization_config" in config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            device_map={"": str(device)},
        )
    except Exception as error:  # transformers raises a dozen kinds here, all of them about the folder
        raise EngineError(
            f"transformers cannot load the model: {error}", where=str(folder), hint=_hint(error)
        ) from error
    model.eval()
    # int8 layers compute in fp16 and say so at every call of every layer
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if type(module).__name__ in ("Linear4bit", "LinearNF4", "LinearFP4"):
            module.compute_dtype = dtype  # the file names what suited the machine that quantised
    if device.type == "cpu" and dtype == torch.float32:
        pack(model)
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return Loaded(model, tokenizer, device, dtype, int(limit or 1 << 31))


def _check(folder: Path) -> dict[str, Any]:
    """The config of a folder that holds safetensors; refuses everything else by name."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no config.json: this is no model folder", where=str(folder)) from None
    except ValueError as error:
        raise DataError(f"config.json is no JSON: {error}", where=str(folder)) from None
    if not isinstance(config, dict):
        raise DataError("config.json holds no object", where=str(folder))
    if (folder / "adapter_config.json").exists():
        raise DataError("this is an adapter, not a model: merge it into its base first", where=str(folder))
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        why = f"only pickled weights ({pickles[0]}), which can run code" if pickles else "no *.safetensors"
        raise DataError(f"{why}: weights must be safetensors", where=str(folder))
    for path in sorted(folder.glob("*.safetensors")):
        _check_header(path)
    return config


def _check_header(path: Path) -> None:
    """The header of a safetensors file: the library compares it with the size of the file."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise DataError(f"is damaged: {error}", where=str(path), hint="copy or fetch the file again") from error


def _hint(error: Exception) -> str | None:
    return "pip install bitsandbytes" if "bitsandbytes" in str(error) else None


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EngineError('device = "cuda", but torch sees no GPU', hint="--set runtime.transformers.device=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _dtype(wanted: str, device: torch.device, folder: Path, *, quantized: bool) -> torch.dtype:
    """fp32 on a CPU unless bf16 measures faster there, or fp32 would not fit into free memory."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    needed = 2 * sum(p.stat().st_size for p in folder.glob("*.safetensors"))  # a 16-bit file in 32 bits
    if not quantized and needed > 0.8 * psutil.virtual_memory().available:
        return torch.bfloat16
    return faster_cpu_dtype()


def faster_cpu_dtype() -> torch.dtype:
    """bfloat16 where this CPU multiplies it faster than float32, else float32.

    Measured on a decode shape (16 rows) and a prefill shape (128 rows) over a 512 x 512 weight, because
    CPUs without bf16 units emulate it, slower by an order of magnitude; takes some 100 ms.
    """
    with one_thread():
        seconds = {dtype: sum(_gemm(rows, dtype) for rows in (16, 128)) for dtype in (torch.float32, torch.bfloat16)}
    return min(seconds, key=lambda dtype: seconds[dtype])


def _gemm(rows: int, dtype: torch.dtype, size: int = 512) -> float:
    x, weight = torch.ones(rows, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    return best_seconds(lambda: torch.nn.functional.linear(x, weight))
