"""First-party backends by kind, for the hint that says what to install. Kept in step by a test."""

from __future__ import annotations

from collections.abc import Mapping

_COMMANDS = {"inhouse-commands": "init plan report step config artifacts events doctor verify diff reproduce"}
_BRINGS = {
    "source": {"inhouse-smollm2": "smollm2 local hub", "inhouse-data": "jsonl", "inhouse-documents": "documents"},
    "trainer": {"inhouse-torch": "pretrain scratch", "inhouse-peft": "lora"},
    "quantizer": {"inhouse-gguf": "gguf gguf-adapter", "inhouse-bitsandbytes": "bitsandbytes"},
    "runtime": {"inhouse-llamacpp": "llamacpp", "inhouse-transformers": "transformers"},
    "embedder": {"inhouse-minilm": "minilm"},
    "indexer": {"inhouse-knowledge": "sqlite"},
    "vector_store": {"inhouse-hnswlib": "hnswlib", "inhouse-pgvector": "pgvector", "inhouse-vectors": "exact"},
    "agent": {"inhouse-react": "react"},
    "tool": {"inhouse-tools": "search_knowledge calculator sqlite"},
    "evaluator": {"inhouse-evaluate": "tasks", "inhouse-gates": "gates"},
    "packager": {"inhouse-bundle": "folder", "inhouse-ollama": "ollama"},
    "command": {
        "inhouse-answer": "ask chat",
        "inhouse-tune": "tune",
        "inhouse-bench": "bench",
        "inhouse-knowledge": "knowledge",
        **_COMMANDS,
    },
}

FIRST_PARTY: Mapping[tuple[str, str], str] = {
    (kind, name): distribution
    for kind, brought in _BRINGS.items()
    for distribution, names in brought.items()
    for name in names.split()
}
"""From (kind, name) to the distribution that brings it."""
