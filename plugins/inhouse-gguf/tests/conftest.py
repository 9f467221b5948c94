"""A tiny model, a sentencepiece tokenizer, llama.cpp in a child process, and what the quantizer needs of a step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import define, field
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from inhouse.values import Artifact
from support.tiny_llama import TEMPLATE, TEXT, make_model


@define
class FakeStep:
    """What the quantizer needs of a step."""

    output: Path
    checkpoints: Path
    facts: dict[str, Any] = field(factory=dict)
    told: list[str] = field(factory=list)
    stop_at: str = ""
    seed: int = 7
    history: Sequence[Any] = ()
    notices: list[str] = field(factory=list)

    def notice(self, message: str, *, level: str = "info") -> None:
        self.notices.append(message)

    def progress(self, done: float, total: float, *, unit: str = "item", note: str = "") -> None:
        self.told.append(note)
        if self.stop_at and note.startswith(self.stop_at):
            raise KeyboardInterrupt

    def note(self, **facts: Any) -> None:
        self.facts.update(facts)


@pytest.fixture
def step(tmp_path: Path) -> FakeStep:
    """A step with fresh folders."""
    output, checkpoints = tmp_path / "output", tmp_path / "checkpoints"
    output.mkdir()
    checkpoints.mkdir()
    return FakeStep(output, checkpoints)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 columns: a multiple of the K-quants' block."""
    return make_model(tmp_path_factory.mktemp("model") / "hf")


CHILD = """
import ctypes, json, sys
import numpy as np
import llama_cpp.llama_cpp as llama
job = json.loads(sys.stdin.readline())
llama.llama_backend_init()
params = llama.llama_model_default_params()
params.use_extra_bufts = False
model = llama.llama_model_load_from_file(job["path"].encode(), params)
assert model, "llama.cpp does not load the model"
vocab = llama.llama_model_get_vocab(model)
cut = []
for text in job["texts"]:
    raw = text.encode()
    room = (llama.llama_token * (len(raw) + 8))()
    count = llama.llama_tokenize(vocab, raw, len(raw), room, len(room), False, True)
    cut.append(list(room[:count]))
with open(job["target"] + ".json", "w") as file:
    json.dump(cut, file)
params = llama.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = job["context"]
params.n_threads = params.n_threads_batch = 1
params.type_k = params.type_v = 0  # F32
params.flash_attn_type = 0  # off
context = llama.llama_init_from_model(model, params)
if job["adapter"]:
    loaded = llama.llama_adapter_lora_init(model, job["adapter"].encode())
    assert loaded, "llama.cpp does not load the adapter"
    one = (llama.llama_adapter_lora_p_ctypes * 1)(loaded)
    assert llama.llama_set_adapters_lora(context, one, 1, (ctypes.c_float * 1)(1.0)) == 0
ids = job["ids"]
batch = llama.llama_batch_init(len(ids), 0, 1)
batch.n_tokens = len(ids)
for i, each in enumerate(ids):
    batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = each, i, 1, True
    batch.seq_id[i][0] = 0
assert llama.llama_decode(context, batch) == 0
shape = (len(ids), llama.llama_vocab_n_tokens(vocab))
np.save(job["target"], np.ctypeslib.as_array(llama.llama_get_logits(context), shape))
"""
"""llama.cpp in a process of its own: a job on one line of stdin; logits of all tokens and ids of texts to files."""

Run = Callable[..., tuple[NDArray[np.float32], list[list[int]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs llama.cpp on a GGUF file: (logits of the ids, shape (tokens, vocabulary); ids of each text)."""

    def made(
        path: Path, ids: list[int], texts: list[str] | None = None, *, context: int = 256, adapter: Path | str = ""
    ) -> tuple[NDArray[np.float32], list[list[int]]]:
        target = tmp_path / "logits.npy"
        job = {"path": str(path), "ids": ids, "texts": texts or [], "context": context, "adapter": str(adapter)}
        child = subprocess.run(
            [sys.executable, "-P", "-c", CHILD],
            input=json.dumps({**job, "target": str(target)}) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr[-3000:]
        return np.load(target), json.loads(Path(f"{target}.json").read_text())

    return made


def _pieces(runs: bool) -> dict[str, int]:
    """A vocabulary as sentencepiece trains it: unknown, BOS, EOS, bytes, and pieces by falling score."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    inner.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=220, show_progress=False))
    trained = sorted(inner.get_vocab().items(), key=lambda each: each[1])
    first = ["\n\n", "\n\n\n", "▁▁", "▁▁▁"] if runs else []
    names = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256)), *first]
    names += [each for each, _ in trained if each not in first]
    return {name: number for number, name in enumerate(names)}


def _make(folder: Path, kind: str, *, ways: slice = slice(None), strips: bool = False) -> Tokenizer:
    vocab = _pieces(runs=kind == "gemma")
    merges = []
    for token in list(vocab)[259:]:
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [pair for pair in cuts if pair[0] in vocab and pair[1] in vocab][ways]
    unknown, first, last = "<unk>", "<s>", "</s>"
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    if kind == "prepend":  # Llama 2, Mistral 0.1, Phi-3
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif kind == "metaspace":  # Mistral 0.3
        inner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        inner.normalizer = replace
        inner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    if kind == "gemma":
        runs = ["\n\n", "\n\n\n", "▁▁", "▁▁▁"]
        inner.add_tokens([AddedToken(each, special=False, normalized=False) for each in runs])
    plain = [AddedToken(each, special=True, normalized=False) for each in ("<unk>", "<s>", "<|endoftext|>")]
    ends = [AddedToken(each, special=True, normalized=False, rstrip=strips) for each in ("</s>", "<|user|>", "<|end|>")]
    inner.add_special_tokens([*plain, *ends])
    inner.add_tokens([AddedToken("<tool>", special=False, normalized=False, rstrip=strips)])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=first, eos_token=last, unk_token=unknown, pad_token=last
    )
    whole.chat_template = TEMPLATE
    whole.save_pretrained(folder)
    return inner


@pytest.fixture(scope="session")
def sentencepiece() -> Callable[..., Tokenizer]:
    """Saves a tokenizer.json of the kind ``prepend``, ``metaspace`` or ``gemma`` in a folder.

    ``ways`` picks from the merges that lead to one token; ``strips`` as in Phi-3.
    """
    return _make


def chat(number: int) -> dict[str, Any]:
    """A row of train.jsonl."""
    return {
        "messages": [
            {"role": "system", "content": "You answer for a shop."},
            {"role": "user", "content": f"Where is order {number}? It's {number % 7} days late."},
            {"role": "assistant", "content": f"Order {number} was shipped on {number % 28 + 1} May."},
        ]
    }


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Artifact]:
    """Makes text/chat or text/corpus of rows."""

    def make(kind: str, rows: Sequence[dict[str, Any]]) -> Artifact:
        folder = tmp_path / kind.replace("/", "-")
        folder.mkdir()
        name = {"text/chat": "train.jsonl", "text/corpus": "corpus.jsonl"}[kind]
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
        return Artifact(kind, folder, "data")

    return make


@pytest.fixture
def chats(data: Callable[..., Artifact]) -> Artifact:
    """30 chats: some 2,000 tokens of the tiny model's tokenizer."""
    return data("text/chat", [chat(100 + number) for number in range(30)])
