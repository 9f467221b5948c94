"""A child that makes a LangChain vector store of a corpus, as it comes: its splitter, its own store, dumped to a file.

The job: as ours_ingest's, and ``model`` (folder). langchain-huggingface does not go with this huggingface_hub; what its
embedding class does is written out here. A document's title is the first line of its text, as ours embeds it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from sentence_transformers import SentenceTransformer
from training.child import answer, job, peak_bytes, versions


class Encoder(Embeddings):
    """sentence-transformers with its own settings."""

    def __init__(self, folder: str) -> None:
        self._model = SentenceTransformer(folder, device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """All at once."""
        found: list[list[float]] = self._model.encode(texts).tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """One."""
        return self.embed_documents([text])[0]


def main() -> None:
    """Indexes and answers."""
    asked = job()
    folder = Path(asked["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    with (Path(asked["corpus"]) / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    documents = [Document(f"{row['title']}\n{row['text']}", metadata={"id": row["id"]}) for row in rows]
    store = InMemoryVectorStore(Encoder(asked["model"]))
    store.add_documents(RecursiveCharacterTextSplitter().split_documents(documents))
    store.dump(str(folder / "store.json"))
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    answer(
        documents=len(documents),
        passages=len(store.store),
        seconds=seconds,
        peak_bytes=peak,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        found=[store.similarity_search(query, 1)[0].metadata["id"] for query in asked["queries"]],
        versions=versions("torch", "sentence-transformers", "langchain-core", "langchain-text-splitters"),
    )


if __name__ == "__main__":
    main()
