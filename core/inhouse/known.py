"""First-party backends by kind, for the hint that says what to install. Kept in step by a test."""

from __future__ import annotations

from collections.abc import Mapping

FIRST_PARTY: Mapping[tuple[str, str], str] = {
    ("source", "smollm2"): "inhouse-smollm2",
    ("source", "local"): "inhouse-smollm2",
    ("source", "hub"): "inhouse-smollm2",
    ("source", "jsonl"): "inhouse-data",
    ("trainer", "pretrain"): "inhouse-torch",
    ("trainer", "scratch"): "inhouse-torch",
    ("trainer", "lora"): "inhouse-peft",
    ("quantizer", "gguf"): "inhouse-gguf",
    ("quantizer", "gguf-adapter"): "inhouse-gguf",
    ("quantizer", "bitsandbytes"): "inhouse-bitsandbytes",
    ("runtime", "llamacpp"): "inhouse-llamacpp",
    ("runtime", "transformers"): "inhouse-transformers",
    ("embedder", "minilm"): "inhouse-minilm",
    ("indexer", "sqlite"): "inhouse-knowledge",
    ("vector_store", "hnswlib"): "inhouse-hnswlib",
    ("agent", "react"): "inhouse-react",
    ("tool", "search_knowledge"): "inhouse-tools",
    ("tool", "calculator"): "inhouse-tools",
    ("tool", "sqlite"): "inhouse-tools",
    ("evaluator", "tasks"): "inhouse-evaluate",
    ("packager", "folder"): "inhouse-bundle",
    ("command", "ask"): "inhouse-answer",
    ("command", "chat"): "inhouse-answer",
    ("command", "tune"): "inhouse-tune",
    **{
        ("command", name): "inhouse-commands"
        for name in ("init", "plan", "report", "step", "config", "artifacts", "events", "doctor")
    },
}
