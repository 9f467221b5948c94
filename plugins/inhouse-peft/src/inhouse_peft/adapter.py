"""Making a LoRA adapter with peft, saving it in peft's format, and merging it into the base."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear

from inhouse.artifacts import write_text
from inhouse.errors import RecipeError

from . import Lora


def add_adapter(model: Any, options: Lora, seed: int) -> Any:
    """peft's model around ``model`` with a fresh fp32 adapter; ``seed`` decides its A matrices.

    Layers below ``first_layer`` stay as they are: nothing is propagated back through them. Raises
    ``RecipeError`` when ``targets`` names no layer of the model, or ``first_layer`` leaves none.
    """
    names = [name.strip() for name in options.targets.split(",") if name.strip()]
    layers = None
    if options.first_layer:
        layers = list(range(options.first_layer, model.config.get_text_config(decoder=True).num_hidden_layers))
        if not layers:
            raise RecipeError(f"first_layer = {options.first_layer} leaves no layer of this model", where="first_layer")
        names = _linear_names(model) if names == ["all-linear"] else names  # peft takes layers with names only
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft only divides by the rank
        lora_dropout=options.dropout,
        use_rslora=options.rslora,
        use_dora=options.dora,
        target_modules=names[0] if names == ["all-linear"] else names,
        layers_to_transform=layers,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():  # peft asks transformers for a property by its former name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(
            f"targets = {options.targets!r} fits no layer of this model",
            where="targets",
            hint="all-linear, or some of " + ", ".join(_linear_names(model)),
        ) from error


def _linear_names(model: Any) -> list[str]:
    """Last names of the linear layers but the output head, which is none of a layer's."""
    head = model.get_output_embeddings()
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors`` as peft does, without a base path."""
    config = model.peft_config["default"]
    was, config.base_model_name_or_path = config.base_model_name_or_path, ""
    model.save_pretrained(str(folder), safe_serialization=True)
    config.base_model_name_or_path = was
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(written["target_modules"], list):
        written["target_modules"].sort()  # peft holds a set: its order differs from process to process
    write_text(path, json.dumps(written, indent=2, sort_keys=True) + "\n")


def merge(model: PeftModel) -> Any:
    """The base with the adapter added to its weights, computed in fp32; ``model`` is used up."""
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, Linear):
                continue
            base = module.get_base_layer()
            if "default" in module.lora_variant:  # DoRA: more than a matrix to add
                base.float()
                module.merge(adapter_names=["default"])
            else:
                weight = cast("torch.Tensor", base.weight)
                weight.copy_(weight.float() + module.get_delta_weight("default").float())
    return model.unload()
