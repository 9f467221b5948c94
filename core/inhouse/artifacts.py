"""The store: content-addressed, immutable, nothing half there.

<home>/artifacts/<fingerprint>/manifest.json   who made it, of what, and the digest of every file
                              /model-hf/…      one folder for each product
<home>/work/<fingerprint>/                     a step that is running, or was killed: checkpoints live here
<home>/locks/<fingerprint>.lock                one writer for each fingerprint
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from inhouse import codec
from inhouse.errors import ArtifactError, ResourceError
from inhouse.values import Artifact

MANIFEST = "manifest.json"
SPARE_DISK = 200 << 20
"""Bytes left free beside what a plan needs."""


@frozen
class FileEntry:
    """One file of a product: path inside it, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@frozen
class Product:
    """One artifact of a step. ``digest`` is the SHA-256 over its files' paths and digests."""

    kind: str
    folder: str
    digest: str
    files: tuple[FileEntry, ...]


@frozen
class Manifest:
    """What a committed step says of itself. The store fills in ``products`` and ``created``."""

    fingerprint: str
    step: str
    stage: str
    backend: str
    plugin: str
    version: int
    options: Mapping[str, Any]
    seed: int
    parents: tuple[str, ...]
    seconds: float
    peak_memory_bytes: int
    meta: Mapping[str, Any] = field(factory=dict)
    products: tuple[Product, ...] = ()
    created: float = 0.0


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what decides a step's output."""
    return hashlib.sha256(codec.dumps(dict(parts)).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(path: Path) -> str:
    """SHA-256 over a file, or over the relative paths and contents of a folder's files."""
    if path.is_file():
        return file_digest(path)
    files = [each for each in sorted(path.rglob("*")) if each.is_file()]
    lines = [f"{file_digest(each)}  {each.relative_to(path).as_posix()}" for each in files]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


def write_text(path: Path, text: str) -> None:
    """Writes aside, fsyncs, renames: the file is either the old one or the whole new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    _write_synced(aside, text)
    aside.replace(path)
    sync_folder(path.parent)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Makes renames inside ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*"))
    for link in filter(Path.is_symlink, found):
        raise ArtifactError("is a symbolic link; artifacts hold files only", where=str(link))
    return [each for each in found if each.is_file()]


def _entry(path: Path, root: Path) -> FileEntry:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return FileEntry(path.relative_to(root).as_posix(), path.stat().st_size, file_digest(path))


class Store:
    """Artifacts of finished steps by fingerprint, under ``home``."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()

    def check_disk(self, needed: int) -> None:
        """Makes ``home``. Raises ``ResourceError`` when its disk has less than ``needed`` bytes and a reserve."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"cannot be made: {error.strerror}", where=str(self.home), hint="--home FOLDER"
            ) from error
        free = shutil.disk_usage(self.home).free
        if free < needed + SPARE_DISK:
            raise ResourceError(
                f"the plan needs {(needed + SPARE_DISK) / 1e9:.1f} GB on disk and {free / 1e9:.1f} GB are free",
                where=str(self.home),
                hint="free some space, or put the store elsewhere: INHOUSE_HOME=/big/disk/inhouse",
            )

    def find(self, key: str) -> Manifest | None:
        """The manifest of a committed step; None when there is none or its files are not all there."""
        folder = self.home / "artifacts" / key
        try:
            manifest = codec.loads((folder / MANIFEST).read_bytes(), Manifest, where=str(folder / MANIFEST))
        except (FileNotFoundError, NotADirectoryError, ArtifactError):
            return None
        files = [(folder / p.folder / each.path, each.size) for p in manifest.products for each in p.files]
        return manifest if all(path.is_file() and path.stat().st_size == size for path, size in files) else None

    def artifacts(self, manifest: Manifest) -> tuple[Artifact, ...]:
        """The products of a step, in the order its spec produces them."""
        folder = self.home / "artifacts" / manifest.fingerprint
        return tuple(
            Artifact(p.kind, folder / p.folder, p.digest, manifest.step, manifest.stage, manifest.meta)
            for p in manifest.products
        )

    def all(self) -> list[Manifest]:
        """Every committed step, oldest first."""
        found = [manifest for each in (self.home / "artifacts").glob("*") if (manifest := self.find(each.name))]
        return sorted(found, key=lambda each: each.created)

    def earlier(self, step: str, backend: str) -> Iterator[Artifact]:
        """What committed steps of this name and backend made, of whatever inputs and options, newest first."""
        alike = (each for each in reversed(self.all()) if (each.step, each.backend) == (step, backend))
        return itertools.chain.from_iterable(map(self.artifacts, alike))

    def verify(self, manifest: Manifest) -> list[str]:
        """Files whose bytes are no longer those that were committed."""
        folder = self.home / "artifacts" / manifest.fingerprint
        return [
            f"{product.folder}/{entry.path}"
            for product in manifest.products
            for entry in product.files
            if file_digest(folder / product.folder / entry.path) != entry.sha256
        ]

    def resumable(self, key: str) -> bool:
        """Whether a killed step left a checkpoint."""
        folder = self.home / "work" / key / "checkpoints"
        return folder.is_dir() and any(folder.iterdir())

    @contextmanager
    def lock(self, key: str, waiting: Callable[[int], None] = lambda _: None) -> Iterator[None]:
        """Waits until no other run is making the same step; calls ``waiting(times)`` ten times a second."""
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{key}.lock").open("w") as stream:
            for times in itertools.count():
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting(times)
                    time.sleep(0.1)
            yield

    def begin(self, key: str, kinds: Sequence[str]) -> tuple[dict[str, Path], Path]:
        """Empty output folders by kind, and the checkpoint folder as the last try left it."""
        work = self.home / "work" / key
        shutil.rmtree(work / "output", ignore_errors=True)
        outputs = {kind: work / "output" / kind.replace("/", "-") for kind in kinds}
        for folder in outputs.values():
            folder.mkdir(parents=True)
        checkpoints = work / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        return outputs, checkpoints

    def commit(self, unsealed: Manifest, outputs: Mapping[str, Path]) -> Manifest:
        """Digests and fsyncs the outputs, writes the manifest last, renames the whole into place."""
        products = []
        for kind, folder in outputs.items():
            files = tuple(_entry(path, folder) for path in _files(folder))
            if not files:
                raise ArtifactError(f"step wrote nothing for {kind}", where=unsealed.step, plugin=unsealed.plugin)
            lines = "\n".join(f"{each.sha256}  {each.path}" for each in files)
            digest = hashlib.sha256(lines.encode()).hexdigest()
            products.append(Product(kind, folder.name, digest, files))
        manifest = evolve(unsealed, products=tuple(products), created=time.time())
        work = self.home / "work" / unsealed.fingerprint
        _write_synced(work / "output" / MANIFEST, codec.dumps(manifest, indent=1))  # the folder is renamed as a whole
        final = self.home / "artifacts" / unsealed.fingerprint
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # damaged: find() refused it
            shutil.rmtree(final)
        (work / "output").rename(final)
        sync_folder(final.parent)
        shutil.rmtree(work, ignore_errors=True)
        return manifest

    def remove(self, key: str) -> None:
        """Takes a step's products and whatever is left of its work off the disk; waits while a run is at it.

        Raises ``ArtifactError`` for what is no fingerprint.
        """
        if not key.isalnum():
            raise ArtifactError(f"{key!r} is no fingerprint", where=str(self.home))
        with self.lock(key):
            folder = self.home / "artifacts" / key
            (folder / MANIFEST).unlink(missing_ok=True)  # first: killed here, it is no artifact any more
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(self.home / "work" / key, ignore_errors=True)
