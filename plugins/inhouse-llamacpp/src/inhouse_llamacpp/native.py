"""llama.cpp's low-level API with Python types. Only the child process imports this.

Reference: ``llama.h``; every function here is one or a few of its calls.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from inhouse.errors import EngineError, RecipeError

llama: Any = importlib.import_module("llama_cpp.llama_cpp")

BATCH = 512
"""Tokens in one llama_decode at most."""

OUTPUTS = 64
"""Rows of logits in one llama_decode at most (llama.cpp asserts it, and that sequences are no more)."""

CACHE_TYPES = {  # name: ggml's number, bytes of 32 values (ggml-common.h)
    "f16": (llama.GGML_TYPE_F16, 64),
    "q8_0": (llama.GGML_TYPE_Q8_0, 34),
    "q4_0": (llama.GGML_TYPE_Q4_0, 18),
}

LEVEL_WARN, LEVEL_ERROR = 3, 4  # enum ggml_log_level in ggml.h

errors: list[str] = []
"""What llama.cpp logged as an error since ``take_errors``."""


def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode(errors="replace").strip()
    if level == LEVEL_ERROR and line:
        errors.append(line)
        print(line, file=sys.stderr, flush=True)


_log_callback = llama.llama_log_callback(_log)  # llama.cpp keeps only its address


def take_errors() -> str:
    """The errors logged since the last call, as one line."""
    said = "; ".join(errors[-4:])
    errors.clear()
    return said


def start() -> None:
    """Once per process."""
    llama.llama_log_set(_log_callback, ctypes.c_void_p())
    llama.llama_backend_init()


@frozen
class Row:
    """One token to decode: where it stands in which sequence, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int
    wanted: bool


class Model:
    """Loaded weights and vocabulary. ``progress`` is called with 0 … 1 while loading.

    Without ``repack`` weights stay as they are in the mapped file; with it they are read into memory of their
    own, so that the reordered copy does not stand beside a mapped one. Raises ``EngineError``.
    """

    def __init__(self, path: str, *, repack: bool, progress: Callable[[float], None]) -> None:
        def loading(done: float, _: ctypes.c_void_p) -> bool:
            progress(done)
            return True

        params = llama.llama_model_default_params()
        params.use_extra_bufts = repack
        params.load_mode = llama.LLAMA_LOAD_MODE_NONE if repack else llama.LLAMA_LOAD_MODE_MMAP
        callback = llama.llama_progress_callback(loading)
        params.progress_callback = callback
        self.handle = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise EngineError(f"llama.cpp cannot load the model: {take_errors() or 'it gave no reason'}", where=path)
        self.vocab = llama.llama_model_get_vocab(self.handle)
        self.tokens: int = llama.llama_vocab_n_tokens(self.vocab)
        self.trained_context: int = llama.llama_model_n_ctx_train(self.handle)
        self.bos: int = llama.llama_vocab_bos(self.vocab)
        self.eos: int = llama.llama_vocab_eos(self.vocab)
        self.add_bos: bool = llama.llama_vocab_get_add_bos(self.vocab)
        self._pieces: dict[int, bytes] = {}

    def bytes_per_cell(self, cache_type: str) -> int:
        """Key/value cache of one token, in bytes."""
        width = llama.llama_model_n_embd(self.handle) // max(1, llama.llama_model_n_head(self.handle))
        heads = llama.llama_model_n_head_kv(self.handle)
        values = int(llama.llama_model_n_layer(self.handle) * heads * width * 2)
        return values * CACHE_TYPES[cache_type][1] // 32

    def template(self) -> str | None:
        """The chat template in the file."""
        found = llama.llama_model_chat_template(self.handle, None)
        return found.decode(errors="replace") if found else None

    def tokenize(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are parsed, none is added."""
        raw = text.encode(errors="replace")  # half a surrogate pair becomes a question mark
        room = len(raw) + 8
        ids = (llama.llama_token * room)()
        count = llama.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, True)
        if count < 0:
            raise EngineError(f"llama.cpp cannot tokenize {len(raw)} bytes of text")
        return list(ids[:count])

    def token_text(self, token: int) -> str:
        """The name of a token, special ones too; empty for -1."""
        if token < 0:
            return ""
        found = llama.llama_vocab_get_text(self.vocab, token)
        return found.decode(errors="replace") if found else ""

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; nothing for control tokens."""
        known = self._pieces.get(token)
        if known is None:
            room = ctypes.create_string_buffer(256)
            size = llama.llama_token_to_piece(self.vocab, token, room, len(room), 0, False)
            if size < 0:
                room = ctypes.create_string_buffer(-size)
                size = llama.llama_token_to_piece(self.vocab, token, room, len(room), 0, False)
            known = self._pieces[token] = room.raw[:size]
        return known

    def ends(self, token: int) -> bool:
        """Whether a token ends the turn."""
        return bool(llama.llama_vocab_is_eog(self.vocab, token))


class Context:
    """A key/value cache of ``cells`` tokens for ``sequences`` sequences, and the buffers to compute.

    Raises ``EngineError`` where llama.cpp cannot hold the model's cache as ``cache_type``.
    """

    def __init__(self, model: Model, *, cells: int, sequences: int, threads: int, cache_type: str) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = sequences
        params.n_outputs_max = max(OUTPUTS, sequences)
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # sequences share cells, so that a common prefix is kept once
        params.type_k = params.type_v = CACHE_TYPES[cache_type][0]
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO  # skips the cells of other sequences
        params.no_perf = True
        self.handle = llama.llama_init_from_model(model.handle, params)
        if not self.handle:
            hint = None if cache_type == "f16" else 'cache_type = "f16"'
            raise EngineError(f"llama.cpp cannot make a context of {cells} tokens: {take_errors()}", hint=hint)
        self.cells: int = llama.llama_n_ctx(self.handle)
        self._tokens = model.tokens
        self._memory = llama.llama_get_memory(self.handle)
        self._batch = llama.llama_batch_init(BATCH, 0, 1)

    def decode(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Computes ``rows`` (at most ``BATCH``); logits of the wanted ones in order, shape (wanted, tokens).

        The array is llama.cpp's own buffer, overwritten by the next call. Raises ``EngineError``.
        """
        batch = self._batch
        batch.n_tokens = len(rows)
        wanted = 0
        for i, row in enumerate(rows):
            batch.token[i] = row.token
            batch.pos[i] = row.position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = row.sequence
            batch.logits[i] = row.wanted
            wanted += row.wanted
        code = llama.llama_decode(self.handle, batch)
        if code != 0:
            raise EngineError(f"llama_decode failed with {code} on {len(rows)} tokens: {take_errors()}")
        if not wanted:
            return np.empty((0, self._tokens), np.float32)
        logits = llama.llama_get_logits(self.handle)
        return np.ctypeslib.as_array(logits, shape=(wanted, self._tokens))

    def share(self, source: int, target: int, length: int) -> None:
        """Lets ``target`` have the first ``length`` tokens of ``source`` without copying them."""
        llama.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def truncate(self, sequence: int, length: int) -> None:
        """Forgets all tokens of ``sequence`` from position ``length`` on."""
        llama.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def close(self) -> None:
        """Frees the cache."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self.handle)


class Grammar:
    """The state of a GBNF grammar along one answer. Raises ``RecipeError`` when it does not parse."""

    def __init__(self, model: Model, text: str) -> None:
        self.handle = llama.llama_sampler_init_grammar(model.vocab, text.encode(), b"root")
        if not self.handle:
            raise RecipeError(f"llama.cpp cannot parse the grammar: {take_errors() or 'it gave no reason'}")

    def allows(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which of the tokens may come next, shape (len(tokens),)."""
        candidates = np.zeros(len(tokens), dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        candidates["id"] = tokens
        array = llama.llama_token_data_array(
            data=candidates.ctypes.data_as(llama.llama_token_data_p), size=len(tokens), selected=-1, sorted=False
        )
        llama.llama_sampler_apply(self.handle, ctypes.byref(array))
        allowed: NDArray[np.bool_] = np.isfinite(candidates["logit"])
        return allowed

    def accept(self, token: int) -> None:
        """Moves on by one token, which must be allowed."""
        llama.llama_sampler_accept(self.handle, token)

    def close(self) -> None:
        """Frees the state."""
        if self.handle:
            llama.llama_sampler_free(self.handle)
            self.handle = None
