"""Qwen 2 and 3, whose rows llama.cpp takes as they are."""

from __future__ import annotations

from gguf import MODEL_ARCH, GGUFWriter

from inhouse_gguf.families.family import Family
from inhouse_gguf.families.settings import decoder_parameters, expect, window
from inhouse_gguf.source import Source


def _qwen2_parameters(writer: GGUFWriter, source: Source) -> None:
    decoder_parameters(writer, source, window(source, optional=True, default=4096))


def _qwen3_parameters(writer: GGUFWriter, source: Source) -> None:
    expect(source, "attention_bias", (False,), False)
    decoder_parameters(writer, source, window(source, optional=True, default=4096))


QWEN2 = Family(MODEL_ARCH.QWEN2, _qwen2_parameters)
QWEN3 = Family(MODEL_ARCH.QWEN3, _qwen3_parameters)
