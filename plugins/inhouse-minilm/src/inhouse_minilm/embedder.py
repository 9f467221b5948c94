"""Texts to unit vectors: tokenise, sort by length, encode, normalise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inhouse.errors import DataError, InhouseError
from inhouse_minilm import Options
from inhouse_minilm.folder import EncoderFolder, missing, not_cross, read
from inhouse_minilm.loading import clean, load_model, load_tokenizer

if TYPE_CHECKING:
    from inhouse_minilm.cross import CrossEncoder
    from inhouse_minilm.packed import PackedBert
    from inhouse_minilm.padded import PaddedEncoder

Vectors = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]


class MiniLM:
    """A :class:`inhouse.protocols.Embedder` over a BERT-like encoder in transformers; safe under threads.

    ``name`` is the model's name and the first digits of a digest over weights and tokenizer;
    ``dimension`` is 384 for all-MiniLM-L6-v2. Weights load on the first :meth:`embed`.
    Raises ``ResourceError`` or ``DataError`` when the model is missing or unfit.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._lock = Lock()  # one pass at a time: torch spreads it over the cores

    def probe(self) -> str | None:
        """Why it cannot run here and what to install, or None."""
        lacking = [name for name in ("torch", "transformers") if find_spec(name) is None]
        if lacking:
            return f"{' and '.join(lacking)} not installed: pip install {' '.join(lacking)}"
        if problem := missing(self.options.model):
            return problem
        if self.options.cross_encoder and (problem := not_cross(self.options.cross_encoder)):
            return problem
        try:
            read(self.options.model)
        except InhouseError as error:
            return error.message
        return None

    @cached_property
    def _folder(self) -> EncoderFolder:
        return read(self.options.model)

    @cached_property
    def name(self) -> str:
        """E.g. ``all-MiniLM-L6-v2@53aa51172d14``."""
        return f"{self._folder.name}@{self._folder.digest()[:12]}"

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._folder.dimension

    @property
    def dtype(self) -> str:
        """The number format that vectors are computed in on this machine: others differ in their last bits."""
        return self._encoder.dtype

    @property
    def max_tokens(self) -> int:
        """Where a text is cut, special tokens included."""
        return self._folder.max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``, special tokens not counted, nothing cut."""
        return len(self._tokenizer.encode(clean(text), add_special_tokens=False).ids)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dimension) of unit length, in the order of ``texts``."""
        from inhouse_minilm.passes import in_batches

        result = np.zeros((len(texts), self.dimension), np.float32)
        rows = self._tokenise(texts)
        with self._lock:
            encoder = self._encoder

            def encode(batch: list[int]) -> None:
                result[batch] = encoder([rows[at] for at in batch]).numpy()

            in_batches(encode, [*map(len, rows)], size=self.options.batch_size, threads=self.options.threads)
        if not np.isfinite(result).all():
            raise DataError(
                "the encoder gives NaN or infinity",
                where=str(self._folder.path),
                hint="its weights are damaged; install or copy the model again",
            )
        lengths = np.linalg.norm(result, axis=1, keepdims=True)
        result /= np.where(lengths > 0, lengths, 1)
        return result

    @property
    def rerank(self) -> Callable[[str, Sequence[str]], Scores] | None:
        """(query, texts) to float32 (len(texts),), the higher the better; None without a ``cross_encoder``."""
        return self._rerank if self.options.cross_encoder else None

    def _rerank(self, query: str, texts: Sequence[str]) -> Scores:
        with self._lock:
            return self._cross.scores(query, texts)

    @cached_property
    def _cross(self) -> CrossEncoder:
        from inhouse_minilm.cross import CrossEncoder
        from inhouse_minilm.packed import compute_dtype

        path = self.options.cross_encoder
        assert path is not None
        if problem := not_cross(path):
            raise DataError(problem, where=str(path), hint="such as ms-marco-MiniLM-L6-v2")
        return CrossEncoder(path, compute_dtype(self.options.dtype), self.options.batch_size, self.options.threads)

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with special tokens; what is too long loses its end, but not the closing special token."""
        limit = self._folder.max_tokens
        encoded = self._tokenizer.encode_batch_fast([clean(text) for text in texts])
        ids = (row.ids for row in encoded)
        return [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in ids]

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._folder.path)

    @cached_property
    def _encoder(self) -> PackedBert | PaddedEncoder:
        """Token ids of texts of descending length to vectors: ours for BERT, else transformers' own model."""
        from inhouse_minilm.packed import PackedBert, compute_dtype, fits
        from inhouse_minilm.padded import PaddedEncoder

        model, pooling = load_model(self._folder.path, "AutoModel"), self._folder.pooling
        if not fits(model.config):
            return PaddedEncoder(model, pooling=pooling)
        return PackedBert(model, pooling=pooling, dtype=compute_dtype(self.options.dtype))
