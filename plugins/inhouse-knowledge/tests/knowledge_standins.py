"""What the tests index with: a deterministic embedder that hashes words, an exact store, a step in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inhouse.values import Artifact
from inhouse_knowledge import Options
from inhouse_knowledge.indexer import SqliteIndexer
from inhouse_knowledge.search import SqliteKnowledge

DIMENSION = 64


class HashingEmbedder:
    """Each word adds a direction of its own; texts with common words are similar."""

    def __init__(self, name: str = "hashing@1", before: Callable[[int], None] = lambda _: None) -> None:
        self.name = name
        self.dimension = DIMENSION
        self.dtype = "float64"
        self.calls: list[list[str]] = []
        self.before = before

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.before(len(self.calls))
        self.calls.append(list(texts))
        rows = np.zeros((len(texts), DIMENSION), np.float32)
        for at, text in enumerate(texts):
            for word in text.lower().split():
                rows[at] += direction(word)
            rows[at] /= np.linalg.norm(rows[at]) or 1
        return rows


@cache
def direction(word: str) -> npt.NDArray[np.float32]:
    """Where a word points, float32 (64,)."""
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:4])
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


class Rereading(HashingEmbedder):
    """Has a cross-encoder too: of two passages the one with more of the letter z answers better."""

    def rerank(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.reread = list(texts)
        return np.array([text.count("z") for text in texts], np.float32)


class ExactStore:
    """A vector store that keeps a JSON file."""

    def __init__(self) -> None:
        self.rows: dict[int, list[float]] = {}
        self.opened: list[bool] = []

    def open(self, folder: Path, *, dimension: int, generation: int) -> bool:
        self.path = folder / "exact.json"
        kept = json.loads(self.path.read_text()) if self.path.is_file() else {}
        fits = kept.get("generation") == generation
        self.rows = {int(key): value for key, value in kept["rows"].items()} if fits else {}
        self.opened.append(fits)
        return fits

    def rebuild(self, ids: Sequence[int], vectors: Any, *, generation: int) -> None:
        self.rows = {key: list(map(float, row)) for key, row in zip(ids, vectors, strict=True)}
        self.flush(generation=generation)

    def add(self, ids: Sequence[int], vectors: Any) -> None:
        self.rows.update({key: list(map(float, row)) for key, row in zip(ids, vectors, strict=True)})

    def delete(self, ids: Sequence[int]) -> None:
        for key in ids:
            self.rows.pop(key, None)

    def search(self, vector: Any, k: int, *, among: Sequence[int] | None = None) -> list[tuple[int, float]]:
        hits = [(key, round(float(np.dot(row, vector)), 6)) for key, row in self.rows.items()]
        hits = [hit for hit in hits if among is None or hit[0] in set(among)]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]

    def count(self) -> int:
        return len(self.rows)

    def flush(self, *, generation: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"generation": generation, "rows": self.rows}))

    def close(self) -> None:
        pass


class FolderStep:
    """A step whose folders lie under ``root``; ``checkpoints`` may be an earlier step's, ``before`` are the outputs of
    earlier ones."""

    def __init__(
        self,
        root: Path,
        embedder: Any,
        store: Any = None,
        checkpoints: Path | None = None,
        before: Sequence[Path] = (),
    ) -> None:
        self.output = root / "output"
        self.checkpoints = checkpoints or root / "checkpoints"
        self.output.mkdir(parents=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.live = {"embedder": embedder, "vector_store": store or ExactStore()}
        self.notices: list[str] = []
        self.facts: dict[str, Any] = {}
        self.told: list[float] = []
        self.before = before

    def earlier(self) -> list[Artifact]:
        return [Artifact("knowledge", path, "0") for path in self.before]

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        self.told.append(done)

    def notice(self, message: str, *, level: str = "info") -> None:
        self.notices.append(message)

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)

    def service(self, slot: str) -> Any:
        return self.live[slot]


def corpus(folder: Path, rows: Sequence[Any]) -> Artifact:
    """A ``text/corpus`` of these rows (strings are written as they are)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "corpus.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Artifact("text/corpus", folder, "0")


def document(name: str, text: str, title: str = "", **more: Any) -> dict[str, Any]:
    """One row of a corpus."""
    return {"id": name, "title": title or name.title(), "text": text, "path": f"{name}.md", **more}


def many(count: int) -> list[dict[str, Any]]:
    """Documents about different things, a few of them long."""
    return [
        document(f"doc-{at}", f"About item{at} and thing{at % 7}. " * (60 if at % 9 == 0 else 1)) for at in range(count)
    ]


def edited(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every fifth document left out, every seventh of the rest said anew, and thirty more."""
    kept = [row for at, row in enumerate(rows) if at % 5]
    said = [{**row, "text": f"Anew: {row['text']}"} if at % 7 == 0 else row for at, row in enumerate(kept)]
    return [*said, *(document(f"more-{at}", f"About another{at}.") for at in range(30))]


def index(root: Path, rows: Sequence[Any], options: Options | None = None, **parts: Any) -> FolderStep:
    """Indexes ``rows`` and returns the step."""
    step = FolderStep(root, parts.pop("embedder", None) or HashingEmbedder(), **parts)
    SqliteIndexer(options).index(step, corpus(root / "source", rows))  # type: ignore[arg-type]
    return step


def opened(folder: Path, store: Any = None, embedder: Any = None, **options: Any) -> SqliteKnowledge:
    """The knowledge base in ``folder``."""
    services = {"embedder": embedder or HashingEmbedder(), "vector_store": store or ExactStore()}
    return SqliteIndexer(Options(**options)).open(folder, services)
