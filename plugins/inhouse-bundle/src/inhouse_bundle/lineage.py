"""How a bundle came about: inputs by digest, steps, versions, machine; nothing that says where it lay."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath

from attrs import asdict

from inhouse.protocols import Step
from inhouse.values import Artifact, Json

FORMAT = 1


def lineage(step: Step, name: str, inputs: Sequence[Artifact], plugins: Mapping[str, str]) -> dict[str, Json]:
    """The content of ``lineage.json``. A digest is the SHA-256 over "<sha256>  <path>" lines of the files."""
    return {
        "format": FORMAT,
        "name": name,
        "seed": step.seed,
        "target": {"memory": step.target.memory, "context": step.target.context},
        "inputs": [
            {
                "kind": each.kind,
                "step": each.step,
                "stage": each.stage,
                "digest": each.digest,
                "meta": without_paths(dict(each.meta)),
            }
            for each in inputs
        ],
        "steps": [without_paths(asdict(each)) for each in step.history],
        "answering": dict(plugins),
        "installed": _installed(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
    }


def without_paths(value: Json) -> Json:
    """The same data, absolute paths cut to their last name."""
    if isinstance(value, str):
        for path in (PurePosixPath(value), PureWindowsPath(value)):
            if path.is_absolute():
                return path.name
        return value
    if isinstance(value, Mapping):
        return {str(key): without_paths(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(each) for each in value]
    return value


def _installed() -> dict[str, str]:
    """inhouse, its plugins, and what these directly need, with versions."""
    found: dict[str, str] = {}
    for point in metadata.entry_points(group="inhouse"):
        if point.dist is None:
            continue
        found[point.dist.name] = point.dist.version
        for line in point.dist.requires or ():
            required = re.match(r"[A-Za-z0-9._-]+", line)
            if required and "extra ==" not in line:
                try:
                    found[required[0]] = metadata.version(required[0])
                except metadata.PackageNotFoundError:
                    continue
    return dict(sorted(found.items()))


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()
