"""The service-desk recipe, run as its user runs it; what was made once lies in the benchmark's own store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.measure import FOLDER, ROOT, BenchError

RECIPE = ROOT / "contrib" / "recipes" / "service-desk" / "recipe.toml"
HOME = FOLDER / "quantize"
PLAIN: Mapping[str, Any] = {"finetune.lora.quantization_aware": ""}
"""Tuned as at 16 bit, without the recipe's second pass against the weights as they will be stored."""

QUICK: Mapping[str, Any] = {"data.jsonl.limit": 40}


def run_recipe(sets: Mapping[str, Any], *, until: str) -> dict[str, Any]:
    """The run's record. Raises ``BenchError`` with the end of what it said when it fails."""
    command = [sys.executable, "-m", "inhouse", "run", str(RECIPE), "--home", str(HOME), "--until", until, "--json"]
    command += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def product(record: Mapping[str, Any], step: str, kind: str) -> Path:
    """The folder of what a step of a run made."""
    made = next(each for each in record["steps"] if each["name"] == step)
    return HOME / "artifacts" / made["fingerprint"] / kind.replace("/", "-")
