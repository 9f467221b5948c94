"""Opens ``model/hqq`` with the engine of the runtime ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inhouse_sample_hqq import RuntimeOptions
from inhouse_sample_hqq.quantizer import missing

if TYPE_CHECKING:
    from inhouse_transformers.engine import TransformersEngine


class HqqRuntime:
    """Chat, completion, stream and log-probabilities, as of the runtime ``transformers``; weights stay packed."""

    def __init__(self, options: RuntimeOptions) -> None:
        self.options = options

    def probe(self) -> str | None:
        """Why it cannot run: a library is missing."""
        return missing("torch", "transformers", "inhouse_transformers")

    def open(self, model: Path, *, context: int, threads: int = 0) -> TransformersEngine:
        """Loads ``model``. Raises ``EngineError`` with what transformers said."""
        import inhouse_sample_hqq.layers  # noqa: F401  makes the method known to transformers
        from inhouse_transformers import Options
        from inhouse_transformers.engine import TransformersRuntime

        wanted = Options(max_batch=self.options.max_batch, dtype=self.options.dtype, device=self.options.device)
        return TransformersRuntime(wanted).open(model, context=context, threads=threads)
