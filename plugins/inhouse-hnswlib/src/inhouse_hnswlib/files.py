"""The graph on disk: ``hnswlib-<digest>.bin`` and ``hnswlib.json``, which is renamed last and says what fits.

Killed or out of space at any point, the old pair is still whole. hnswlib reads a damaged file into a
crash, so nothing reaches it whose SHA-256 is not the one in ``hnswlib.json``, which is checked itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attrs import asdict

from inhouse_hnswlib import Options
from inhouse_hnswlib.graph import Graph

FORMAT = 1
METRIC = "cosine"
SIDECAR = "hnswlib.json"


def expected(options: Options, dimension: int, generation: int) -> dict[str, Any]:
    """What a file must say of itself to be used: all that shapes the graph, and whose vectors they are."""
    built_with = {name: asdict(options)[name] for name in ("m", "ef_construction", "seed")}
    return {
        "format": FORMAT,
        "metric": METRIC,
        "dimension": dimension,
        "generation": generation,
        "hnswlib": version("hnswlib"),
        **built_with,
    }


def save(graph: Graph, folder: Path, *, generation: int) -> None:
    """Writes ``graph`` aside, syncs, renames. Raises ``OSError``; the files from before are whole then."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    aside, sidecar = (folder / f".hnswlib-{os.getpid()}.{each}.part" for each in ("bin", "json"))
    try:
        _write_graph(graph, aside)
        digest = _digest(aside)
        body = {
            **expected(graph.options, graph.dimension, generation),
            "count": len(graph),
            "dead": sorted(graph.dead),
            "file": f"hnswlib-{digest[:16]}.bin",
            "size": aside.stat().st_size,
            "sha256": digest,
        }
        # Both are written before the first is renamed, so that a disk that gets full leaves no graph without its name.
        _write(sidecar, json.dumps({"body": body, "sha256": _digest_of(body)}, indent=1).encode() + b"\n")
        aside.replace(folder / str(body["file"]))
        sidecar.replace(folder / SIDECAR)
    except BaseException:
        aside.unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    for old in folder.glob("hnswlib-*.bin"):
        if old.name != body["file"]:
            old.unlink(missing_ok=True)


def load(folder: Path, options: Options, *, dimension: int, generation: int) -> Graph | None:
    """The graph kept in ``folder``; ``None`` when missing, damaged, or not :func:`expected`."""
    try:
        stored = json.loads((folder / SIDECAR).read_bytes())
        body = stored["body"]
        if stored["sha256"] != _digest_of(body):
            return None
        wanted = expected(options, dimension, generation)
        if any(body[key] != value for key, value in wanted.items()):
            return None
        path = folder / Path(body["file"]).name
        if path.stat().st_size != body["size"] or _digest(path) != body["sha256"]:
            return None
        graph = Graph.load(str(path), options, dimension, set(body["dead"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
        return None
    return graph if len(graph) == body["count"] else None


def _sweep(folder: Path) -> None:
    """Removes what killed processes left half written."""
    for part in folder.glob(".hnswlib-*.part"):
        owner = part.name.removeprefix(".hnswlib-").partition(".")[0]
        if not (owner.isdecimal() and Path("/proc").is_dir() and Path("/proc", owner).exists()):
            part.unlink(missing_ok=True)


def _write_graph(graph: Graph, path: Path) -> None:
    """hnswlib ignores failed writes: the size tells whether all of it arrived."""
    try:
        graph.save(str(path))
    except RuntimeError as error:
        raise OSError(f"hnswlib cannot write {path}: {error}") from error
    _sync(path)
    if path.stat().st_size != graph.index.index_file_size():
        raise OSError(f"{path} is incomplete: no space left on the disk?")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
