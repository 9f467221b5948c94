"""What is known about this build of llama.cpp on this machine, remembered between runs.

As pip builds it, llama.cpp dies on some CPUs (AMX) as soon as it multiplies repacked weights. Whoever finds that
out writes it down here, so that the next start does not crash first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
from pathlib import Path


def library_files() -> list[Path]:
    """The shared libraries of the installed llama-cpp-python, without loading any."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return []
    folder = Path(spec.origin).parent / "lib"
    return sorted(each.resolve() for each in folder.glob("*ggml*")) + sorted(folder.glob("*llama.*"))


def build_key() -> str:
    """Digest of the libraries' contents and the CPU's name and features."""
    digest = hashlib.sha256()
    for path in sorted(set(library_files())):
        digest.update(path.read_bytes())
    digest.update(_processor().encode())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features")
        return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in wanted)
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def cache_folder() -> Path:
    """Where this user's caches lie on this system."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "inhouse" / "llamacpp"


def repacking_crashes() -> str:
    """What was said when repacked weights crashed this build on this machine; "" where that is not written down."""
    try:
        verdict = json.loads((cache_folder() / f"{build_key()[:32]}.json").read_text(encoding="utf-8"))
        return str(verdict.get("said") or "no more is known") if verdict.get("repack") is False else ""
    except (OSError, ValueError, AttributeError):
        return ""


def remember_crash(said: str) -> None:
    """Writes that down, durably; a cache folder that cannot be written only costs the next start a crash."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8") as file:
            json.dump({"repack": False, "said": said}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(folder / f"{build_key()[:32]}.json")
    except OSError:
        return
