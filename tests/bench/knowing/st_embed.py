"""A child that embeds texts with sentence-transformers.

The job: ``model`` (folder), ``texts`` (a JSON list in a file), ``vectors`` (the .npy to write), ``warmup`` (texts
that are embedded before, on no clock), ``dtype`` (empty: as it comes), ``batch_size`` (0: as it comes), ``sort``
(the texts are sorted by length here).
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from training.child import answer, job, peak_bytes, versions


def embedded(model: Any, texts: list[str], asked: dict[str, Any]) -> Any:
    """(texts, dimension) in the order of ``texts``."""
    settings = {"batch_size": asked["batch_size"]} if asked["batch_size"] else {}
    if not asked["sort"]:
        return model.encode(texts, **settings)
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    rows = model.encode([texts[at] for at in order], **settings)
    found = np.empty_like(rows)
    found[order] = rows
    return found


def main() -> None:
    """Embeds and answers."""
    asked = job()
    texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
    settings = {"model_kwargs": {"dtype": getattr(torch, asked["dtype"])}} if asked["dtype"] else {}
    model = SentenceTransformer(asked["model"], device="cpu", **settings)
    embedded(model, texts[: asked["warmup"]], asked)
    started = time.perf_counter()
    vectors = embedded(model, texts, asked)
    seconds = time.perf_counter() - started
    np.save(asked["vectors"], vectors)
    answer(
        texts=len(texts),
        seconds=seconds,
        peak_bytes=peak_bytes(),
        threads=torch.get_num_threads(),
        versions=versions("torch", "tokenizers", "transformers", "sentence-transformers"),
    )


if __name__ == "__main__":
    main()
