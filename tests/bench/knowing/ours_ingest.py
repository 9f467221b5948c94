"""A child that makes a knowledge base of a corpus as the recipe's step `knowledge` does.

The job: ``corpus`` (folder of a ``text/corpus``), ``folder`` (of what is made), ``queries`` (that are answered at the
end by vectors alone, on no clock). The clock runs from reading the corpus, before the encoder is loaded, to the base
and its index on the disk.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from training.child import answer, job, peak_bytes, versions

from inhouse.values import Artifact
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge import Options
from inhouse_knowledge.indexer import SqliteIndexer
from inhouse_minilm.embedder import MiniLM
from inhouse_testing.recording import RecordingStep


def main() -> None:
    """Indexes and answers."""
    asked = job()
    folder = Path(asked["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    step: Any = RecordingStep.at(folder, "knowledge")
    step.services = {"embedder": MiniLM(), "vector_store": HnswlibStore()}
    started = time.perf_counter()
    SqliteIndexer().index(step, Artifact("text/corpus", Path(asked["corpus"]), "0"))
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    base = SqliteIndexer(Options(lexical_weight=0.0)).open(step.output, step.services)
    found = [base.search(query, 1)[0].document for query in asked["queries"]]
    answer(
        documents=step.facts["documents"],
        passages=step.facts["passages"],
        seconds=seconds,
        peak_bytes=peak,
        bytes=sum(path.stat().st_size for path in step.output.rglob("*") if path.is_file()),
        found=found,
        versions=versions("torch", "hnswlib"),
    )
    base.close()


if __name__ == "__main__":
    main()
