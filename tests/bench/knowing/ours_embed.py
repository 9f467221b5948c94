"""A child that embeds texts with the embedder `minilm` as it ships.

The job: ``texts`` (a JSON list in a file), ``vectors`` (the .npy to write), ``warmup`` (texts that are embedded
before, on no clock).
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from training.child import answer, job, peak_bytes, versions

from inhouse_minilm import Options
from inhouse_minilm.embedder import MiniLM


def main() -> None:
    """Embeds and answers."""
    asked = job()
    texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
    embedder = MiniLM(Options())
    embedder.embed(texts[: asked["warmup"]])
    started = time.perf_counter()
    vectors = embedder.embed(texts)
    seconds = time.perf_counter() - started
    np.save(asked["vectors"], vectors)
    answer(
        texts=len(texts),
        seconds=seconds,
        peak_bytes=peak_bytes(),
        threads=torch.get_num_threads(),
        versions=versions("torch", "tokenizers"),
    )


if __name__ == "__main__":
    main()
