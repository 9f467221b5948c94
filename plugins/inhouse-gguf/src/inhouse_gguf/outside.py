"""Runs llama.cpp's own converter, for architectures that are not known here."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from inhouse.errors import StepError
from inhouse_gguf.convert import Progress, commit
from inhouse_gguf.engine import ending

PATIENCE = 0.5
"""Seconds between two looks at how far it is."""

LINES = 6
"""How much of what it said is in the error."""


def convert_outside(script: Path, folder: Path, target: Path, wanted: str, progress: Progress) -> None:
    """Writes ``folder`` as the GGUF file ``target`` with ``script``, llama.cpp's ``convert_hf_to_gguf.py``.

    ``wanted`` is F32, F16 or BF16. It runs in a child process of this Python, without a shell; whatever ``progress``
    raises stops it. The file appears under its name only when it is whole. Raises ``StepError`` with the end of what
    the child said on stderr.
    """
    aside = target.with_name(target.name + ".part")
    command = [sys.executable, str(script.resolve()), str(folder.resolve()), "--outfile", str(aside.resolve())]
    total = sum(each.stat().st_size for each in folder.glob("*.safetensors"))
    try:
        with tempfile.TemporaryFile() as said:
            child = subprocess.Popen(  # noqa: S603  (no shell; the script is the one that the recipe names)
                [*command, "--outtype", wanted.lower()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            try:
                while child.poll() is None:
                    progress(min(aside.stat().st_size, total) if aside.exists() else 0, total, f"with {script.name}")
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(PATIENCE)
            finally:
                child.kill()
                child.wait()
            said.seek(0)
            tail = " ".join(said.read().decode(errors="replace").split("\n")[-LINES:]).strip()
        if child.returncode != 0:
            raise StepError(f"failed ({ending(child.returncode)}){': ' + tail if tail else ''}", where=str(script))
        if not _is_gguf(aside):
            raise StepError("ended well and wrote no GGUF file", where=str(script))
        commit(aside, target)
        progress(total, total, "")
    finally:
        aside.unlink(missing_ok=True)


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"
