"""A child that makes a LlamaIndex of a corpus, as it comes: its splitter, its embedding class, its own store on disk.

The job: as ours_ingest's, and ``model`` (folder). A document's title is the first line of its text, as ours embeds it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from training.child import answer, job, peak_bytes, versions


def main() -> None:
    """Indexes and answers."""
    asked = job()
    folder = Path(asked["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    with (Path(asked["corpus"]) / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    documents = [Document(text=f"{row['title']}\n{row['text']}", id_=row["id"]) for row in rows]
    embedder = HuggingFaceEmbedding(model_name=asked["model"], device="cpu")
    index = VectorStoreIndex.from_documents(documents, transformations=[SentenceSplitter()], embed_model=embedder)
    index.storage_context.persist(folder)
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    retriever = index.as_retriever(similarity_top_k=1)
    answer(
        documents=len(documents),
        passages=len(index.docstore.docs),
        seconds=seconds,
        peak_bytes=peak,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        found=[retriever.retrieve(query)[0].node.ref_doc_id for query in asked["queries"]],
        versions=versions("torch", "sentence-transformers", "llama-index-core", "llama-index-embeddings-huggingface"),
    )


if __name__ == "__main__":
    main()
