"""Texts to unit vectors: tokenise, sort by length, encode, pool, normalise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inhouse.errors import DataError, InhouseError
from inhouse_minilm import Options
from inhouse_minilm.folder import EncoderFolder, missing, read

if TYPE_CHECKING:
    import torch

Vectors = npt.NDArray[np.float32]

SURROGATES = re.compile("[\ud800-\udfff]")


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
    def max_tokens(self) -> int:
        """Where a text is cut, special tokens included."""
        return self._folder.max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``, special tokens not counted, nothing cut."""
        return len(self._tokenizer.encode(clean(text), add_special_tokens=False).ids)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dimension) of unit length, in the order of ``texts``."""
        result = np.zeros((len(texts), self.dimension), np.float32)
        rows = self._tokenise(texts)
        order = sorted(range(len(rows)), key=lambda at: (-len(rows[at]), at))
        size = self.options.batch_size
        with self._lock, _threads(self.options.threads):
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                result[batch] = self._encode([rows[at] for at in batch])
        if not np.isfinite(result).all():
            raise DataError(
                "the encoder gives NaN or infinity",
                where=str(self._folder.path),
                hint="its weights are damaged; install or copy the model again",
            )
        return result

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with special tokens; what is too long loses its end, but not the closing special token."""
        limit = self._folder.max_tokens
        encoded = self._tokenizer.encode_batch_fast([clean(text) for text in texts])
        ids = (row.ids for row in encoded)
        return [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in ids]

    def _encode(self, rows: list[list[int]]) -> Vectors:
        """Unit vectors of one batch of token ids."""
        import torch

        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._padding, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            if self._folder.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                weights = mask.unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
            unit: Vectors = torch.nn.functional.normalize(pooled.float(), dim=-1).numpy()
        return unit

    @cached_property
    def _tokenizer(self) -> Any:
        """A ``tokenizers.Tokenizer`` without padding and cutting, so that threads share no settings."""
        from transformers import AutoTokenizer

        path = self._folder.path
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, use_fast=True).backend_tokenizer
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise DataError(f"the tokenizer does not load: {error}", where=str(path)) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _model(self) -> torch.nn.Module:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel

        path = self._folder.path
        try:
            model, report = AutoModel.from_pretrained(
                path,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise DataError(f"the encoder does not load: {error}", where=str(path)) from error
        # transformers fills missing weights with random ones; the pooler's are not used here.
        absent = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if absent:
            raise DataError(f"weights are missing: {', '.join(absent[:3])} …", where=str(path))
        encoder: torch.nn.Module = model.eval()
        return encoder

    @property
    def _padding(self) -> int:
        return int(getattr(self._model.config, "pad_token_id", 0) or 0)


def clean(text: str) -> str:
    """Lone surrogates, which JSON may hold and UTF-8 may not, become U+FFFD."""
    return SURROGATES.sub("\ufffd", text)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sets torch's threads for one pass and puts them back."""
    import torch

    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)
