"""The child process that computes an importance matrix: ``python -P -m inhouse_gguf.collector``.

One JSON job on the first line of stdin: {"source", "target", "part", "every", "chats", "corpus", "tokens", "seed",
"threads"}. stdout has one JSON object a line: {"tokens", "total"} while it works, then {"done": true, "tokens", "text",
"refused"}, with 0 tokens and no target when there is no text, or {"error", "kind", "where", "hint"}.
``part`` is where it keeps its sums ``every`` so many seconds; a job that finds them goes on from there.

llama.cpp computes the text with the unquantised model and shows each product of a weight (``cb_eval``) to a callback,
which adds up the squares of what went in. As ``tools/imatrix`` of llama.cpp does it, with three differences: a chat is
a sequence of its own, from position 0, as it was in training and will be in use; the key/value cache is float32; and
what follows the last weight (the output layer, a fifth of a small model's work) is not computed.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from inhouse.errors import EngineError, StepError
from inhouse_gguf.ggml import OP, SRC, Tensor, check_layout, library, operations, values
from inhouse_gguf.header import Header, read_header
from inhouse_gguf.imatrix import CHUNK, Matrix, write_matrix
from inhouse_gguf.sums import Sums, load
from inhouse_gguf.template import ChatTemplate
from inhouse_gguf.texts import Draw, Texts
from inhouse_gguf.worker import LEVEL_ERROR, Say, serve, start

SEQUENCES = 64
"""Most chats that are computed together (LLAMA_MAX_SEQ is 256)."""

F32 = 0  # enum ggml_type

POINTER = ctypes.sizeof(ctypes.c_void_p)


@frozen
class Row:
    """A token to compute: where it stands in which sequence of its batch."""

    token: int
    position: int
    sequence: int


def weights_of(header: Header) -> frozenset[bytes]:
    """The weights whose inputs are watched: the matrices of the blocks, and the output layer's own."""
    return frozenset(
        name.encode()
        for name, info in header.tensors.items()
        if len(info.shape) > 1 and name.endswith(".weight") and (name.startswith("blk.") or name == "output.weight")
    )


class Watcher:
    """What llama.cpp calls for each node of its graph. It never raises: ``error`` keeps what went wrong."""

    def __init__(self, weights: frozenset[bytes], sums: Sums) -> None:
        self.error: Exception | None = None
        self._weights, self._sums = weights, sums
        self._plain, self._chosen = operations("MUL_MAT", "MUL_MAT_ID")
        self._host = library().ggml_backend_buffer_is_host
        self._seen = self._all = 0

    def begin(self) -> None:
        """Before each pass: the one before has shown how many products a pass has."""
        self._all, self._seen = max(self._all, self._seen), 0

    def __call__(self, address: int, ask: bool, _: object) -> bool:
        """ggml_backend_sched_eval_callback: whether to show the node (``ask``), whether to go on after it."""
        try:
            if ask:
                return self._wanted(address)
            self._take(Tensor.from_address(address))
            self._seen += 1
            return not self._all or self._seen < self._all
        except Exception as error:
            self.error = error
            return False

    def _wanted(self, address: int) -> bool:
        operation = ctypes.c_int.from_address(address + OP).value
        if self.error or operation not in (self._plain, self._chosen):
            return False
        weight = ctypes.c_void_p.from_address(address + SRC).value
        inputs = ctypes.c_void_p.from_address(address + SRC + POINTER).value
        if not weight or not inputs or _name(Tensor.from_address(weight)) not in self._weights:
            return False
        return bool(Tensor.from_address(inputs).type == F32)

    def _take(self, node: Tensor) -> None:
        weight, inputs = (Tensor.from_address(each) for each in node.src[:2])
        name = _name(weight).decode()
        if not self._host(inputs.buffer) or inputs.nb[0] != ctypes.sizeof(ctypes.c_float):
            raise EngineError(f"what goes into {name} is not in this process's memory, row by row")
        given = values(inputs, np.float32)
        if node.op == self._plain:
            self._sums.add(name, given, (weight.ne[3], weight.ne[2]))
        else:
            chosen = values(Tensor.from_address(node.src[2]), np.int32)
            self._sums.add_chosen(name, given[0], chosen[0, 0], weight.ne[2])


def _name(tensor: Tensor) -> bytes:
    """The weight's name; the scheduler calls its copies ``CPU#blk.0.attn_q.weight#0``."""
    name: bytes = tensor.name
    return name.split(b"#")[1] if b"#" in name else name


class Model:
    """An unquantised GGUF with its vocabulary, on the CPU."""

    def __init__(self, path: str) -> None:
        """Raises ``StepError`` with what llama.cpp said."""
        self.llama: Any = importlib.import_module("llama_cpp.llama_cpp")
        self._errors: list[str] = []
        self._log = start(self.llama, self._listen)
        params = self.llama.llama_model_default_params()
        params.n_gpu_layers = 0  # inputs have to be in this process's memory
        params.use_extra_bufts = False
        params.load_mode = self.llama.LLAMA_LOAD_MODE_MMAP
        self.handle = self.llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise StepError(f"llama.cpp cannot load the model: {self._said()}", where=path)
        self.vocab = self.llama.llama_model_get_vocab(self.handle)
        self.trained_context: int = self.llama.llama_model_n_ctx_train(self.handle)

    def _listen(self, level: int, line: str) -> None:
        if level == LEVEL_ERROR and line:
            self._errors.append(line)

    def _said(self) -> str:
        return "; ".join(self._errors[-4:]) or "it gave no reason"

    def template(self) -> ChatTemplate | None:
        """The chat template in the file."""
        found = self.llama.llama_model_chat_template(self.handle, None)
        if not found:
            return None
        bos, eos = self.llama.llama_vocab_bos(self.vocab), self.llama.llama_vocab_eos(self.vocab)
        return ChatTemplate(found.decode(errors="replace"), bos=self._text(bos), eos=self._text(eos))

    def _text(self, token: int) -> str:
        found = self.llama.llama_vocab_get_text(self.vocab, token) if token >= 0 else None
        return found.decode(errors="replace") if found else ""

    def tokenize(self, text: str, chat: bool) -> list[int]:
        """Token ids. Raises ``StepError`` when llama.cpp cannot."""
        raw = text.encode(errors="replace")
        room = len(raw) + 8
        ids = (self.llama.llama_token * room)()
        count = self.llama.llama_tokenize(self.vocab, raw, len(raw), ids, room, not chat, chat)
        if count < 0:
            raise StepError(f"llama.cpp cannot tokenize {len(raw)} bytes of text")
        return list(ids[:count])

    def open(self, cells: int, threads: int, callback: Any) -> None:
        """Makes a context of ``cells`` tokens whose graph nodes are shown to ``callback``. Raises ``StepError``."""
        llama = self.llama
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cells, SEQUENCES
        params.n_batch = params.n_ubatch = params.n_outputs_max = CHUNK
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.offload_kqv = params.op_offload = False
        params.cb_eval = callback
        self.context = llama.llama_init_from_model(self.handle, params)
        if not self.context:
            raise StepError(f"llama.cpp cannot make a context of {cells} tokens: {self._said()}")
        self.batch = llama.llama_batch_init(CHUNK, 0, 1)

    def forget(self) -> None:
        """Empties the cache."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), False)

    def decode(self, rows: list[Row]) -> None:
        """Computes at most ``CHUNK`` rows; all have outputs, or the last block would leave rows out."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = row.token, row.position, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row.sequence
        code = self.llama.llama_decode(self.context, batch)
        if code != 0:
            raise StepError(f"llama_decode failed with {code} on {len(rows)} tokens: {self._said()}")


def groups(sequences: list[list[int]], cells: int) -> Iterator[list[Row]]:
    """The rows of sequences that are computed together: at most ``cells`` tokens and ``SEQUENCES`` of them."""
    rows: list[Row] = []
    count = 0
    for tokens in sequences:
        if rows and (len(rows) + len(tokens) > cells or count == SEQUENCES):
            yield rows
            rows, count = [], 0
        rows.extend(Row(token, position, count) for position, token in enumerate(tokens))
        count += 1
    if rows:
        yield rows


def collect(job: dict[str, Any], say: Say) -> None:
    """Runs one job. Raises ``DataError`` for text that is broken, ``StepError`` and ``EngineError``."""
    check_layout()
    model = Model(job["source"])
    chats, corpus = (Path(job[each]) if job[each] else None for each in ("chats", "corpus"))
    draw = Draw(model.tokenize, job["tokens"], model.trained_context, job["seed"])
    texts = draw.of(chats, corpus, model.template())
    if texts.sequences:
        _compute(job, model, texts, say)
    say(done=True, tokens=texts.tokens, text=texts.kind, refused=texts.refused)


def _compute(job: dict[str, Any], model: Model, texts: Texts, say: Say) -> None:
    part, key = Path(job["part"]), hashlib.sha256(repr(texts.sequences).encode()).hexdigest()
    sums, resumed = load(part, key)
    watcher = Watcher(weights_of(read_header(Path(job["source"]))), sums)
    callback = model.llama.ggml_backend_sched_eval_callback(watcher)  # llama.cpp keeps only its address
    cells = max(CHUNK, *map(len, texts.sequences))
    model.open(cells, job["threads"] or os.cpu_count() or 1, callback)
    done, saved = 0, time.monotonic()
    for number, rows in enumerate(groups(texts.sequences, cells), 1):
        if number > resumed:
            model.forget()
            for first in range(0, len(rows), CHUNK):
                watcher.begin()
                model.decode(rows[first : first + CHUNK])
                if watcher.error:
                    raise watcher.error
        done += len(rows)
        if time.monotonic() - saved >= job["every"] and number > resumed:
            sums.save(part, number, key)
            saved = time.monotonic()
        say(tokens=done, total=texts.tokens)
    write_matrix(Matrix(sums.entries(), texts.tokens, (texts.kind,)), Path(job["target"]))


if __name__ == "__main__":
    serve(collect)
