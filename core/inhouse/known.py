"""First-party backends by kind, for the hint that says what to install. Kept in step by a test."""

from __future__ import annotations

from collections.abc import Mapping

_BRINGS = {
    "inhouse-smollm2": {"source": ["smollm2", "local", "hub"]},
    "inhouse-data": {"source": ["jsonl"]},
    "inhouse-torch": {"trainer": ["pretrain", "scratch"]},
    "inhouse-peft": {"trainer": ["lora"]},
    "inhouse-gguf": {"quantizer": ["gguf", "gguf-adapter"]},
    "inhouse-bitsandbytes": {"quantizer": ["bitsandbytes"]},
    "inhouse-llamacpp": {"runtime": ["llamacpp"]},
    "inhouse-transformers": {"runtime": ["transformers"]},
    "inhouse-minilm": {"embedder": ["minilm"]},
    "inhouse-knowledge": {"indexer": ["sqlite"]},
    "inhouse-hnswlib": {"vector_store": ["hnswlib"]},
    "inhouse-react": {"agent": ["react"]},
    "inhouse-tools": {"tool": ["search_knowledge", "calculator", "sqlite"]},
    "inhouse-evaluate": {"evaluator": ["tasks"]},
    "inhouse-bundle": {"packager": ["folder"]},
    "inhouse-answer": {"command": ["ask", "chat"]},
    "inhouse-tune": {"command": ["tune"]},
    "inhouse-commands": {"command": ["init", "plan", "report", "step", "config", "artifacts", "events", "doctor"]},
}

FIRST_PARTY: Mapping[tuple[str, str], str] = {
    (kind, name): distribution
    for distribution, brings in _BRINGS.items()
    for kind, names in brings.items()
    for name in names
}
"""From (kind, name) to the distribution that brings it."""
