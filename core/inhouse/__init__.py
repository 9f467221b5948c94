"""inhouse: from a raw open-weight model to a private specialist, on hardware its owner already has.

The names below are the public API; each is imported on first use, so that ``import inhouse`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "inhouse.bus": ["Bus"],
    "inhouse.errors": ["InhouseError"],
    "inhouse.hookspecs": ["hookimpl"],
    "inhouse.kernel": ["Kernel", "Run"],
    "inhouse.recipe": ["Recipe"],
    "inhouse.specs": [
        *("SourceSpec", "TrainerSpec", "QuantizerSpec", "IndexerSpec", "EvaluatorSpec", "PackagerSpec", "RuntimeSpec"),
        *("EmbedderSpec", "VectorStoreSpec", "RoundingSpec", "ToolSpec", "AgentSpec", "ExecutorSpec", "CommandSpec"),
        *("Input", "Slot"),
    ],
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_WHERE, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from inhouse.bus import Bus as Bus
    from inhouse.errors import InhouseError as InhouseError
    from inhouse.hookspecs import hookimpl as hookimpl
    from inhouse.kernel import Kernel as Kernel
    from inhouse.kernel import Run as Run
    from inhouse.recipe import Recipe as Recipe
    from inhouse.specs import *  # noqa: F403


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module 'inhouse' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
