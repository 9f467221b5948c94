"""A cross-encoder: reads a query and a passage together and says how well one answers the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inhouse.errors import DataError
from inhouse_minilm.folder import read
from inhouse_minilm.loading import clean, load_model, load_tokenizer
from inhouse_minilm.packed import PackedBert, fits
from inhouse_minilm.passes import in_batches

Scores = npt.NDArray[np.float32]


class CrossEncoder:
    """A ``BertForSequenceClassification`` with one output, as those trained on MS MARCO (Nogueira and Cho 2019).

    ``path`` is a folder that ``not_cross`` has nothing to say of. Raises ``DataError`` for one that does not load, and
    for weights that are missing or give NaN.
    """

    def __init__(self, path: Path, dtype: torch.dtype, batch_size: int, threads: int) -> None:
        model = load_model(path, "AutoModelForSequenceClassification")
        if not fits(model.config):
            raise DataError(f"a BERT with {model.config.hidden_act} is not read", where=str(path))
        self._path, self._batch_size, self._threads = path, batch_size, threads
        self._tokenizer = load_tokenizer(path)
        self._tokenizer.enable_truncation(read(path).max_tokens, strategy="longest_first")
        self._states = PackedBert(model.bert, pooling="cls", dtype=dtype)
        self._pooler, self._head = model.bert.pooler, model.classifier

    def scores(self, query: str, texts: Sequence[str]) -> Scores:
        """float32 (len(texts),): the higher the better; their scale is the model's own."""
        pairs = self._tokenizer.encode_batch([(clean(query), clean(text)) for text in texts])
        result = np.zeros(len(texts), np.float32)

        def score(batch: list[int]) -> None:
            result[batch] = self._scored([pairs[at] for at in batch])

        in_batches(score, [len(each.ids) for each in pairs], size=self._batch_size, threads=self._threads)
        if not np.isfinite(result).all():
            raise DataError("the cross-encoder gives NaN or infinity", where=str(self._path))
        return result

    @torch.inference_mode()
    def _scored(self, pairs: Sequence[Any]) -> Scores:
        states = self._states([each.ids for each in pairs], [each.type_ids for each in pairs])
        # one text at a time: torch multiplies few rows of float32 in another order than many
        logits = torch.cat([self._head(self._pooler(each.view(1, 1, -1))) for each in states])
        scores: Scores = logits[:, 0].numpy()
        return scores
