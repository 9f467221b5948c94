"""A real acceptor for grammars: llama.cpp's own sampler over a vocabulary of single bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

END = 256


def _byte_tokens() -> list[str]:
    """The byte-level alphabet of GPT-2: printable bytes stand for themselves, others for U+0100 and up."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _write_vocabulary(path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*_byte_tokens(), "<|end|>"])
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(END)
    writer.add_eos_token_id(END)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def accepts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], bool]]:
    """``accepts(grammar, text)``: whether llama.cpp lets a model write exactly ``text`` and end there."""
    llama = pytest.importorskip("llama_cpp")
    path = tmp_path_factory.mktemp("vocabulary") / "bytes.gguf"
    _write_vocabulary(path)
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    vocabulary = llama.llama_model_get_vocab(model)

    def check(grammar: str, text: str) -> bool:
        sampler = llama.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
        assert sampler, f"llama.cpp cannot parse:\n{grammar}"
        try:
            for token in [*text.encode(), END]:
                data = (llama.llama_token_data * 1)(llama.llama_token_data(token, 0.0, 0.0))
                array = llama.llama_token_data_array(data, 1, -1, False)
                llama.llama_sampler_apply(sampler, ctypes.byref(array))
                if data[0].logit == float("-inf"):
                    return False
                llama.llama_sampler_accept(sampler, token)
        finally:
            llama.llama_sampler_free(sampler)
        return True

    yield check
    llama.llama_model_free(model)
