"""The source `local`: a model that the user already has."""

from __future__ import annotations

from inhouse.protocols import Step
from inhouse_smollm2 import LocalOptions
from inhouse_smollm2.folder import check, take, tell


class LocalSource:
    """Copies a folder of safetensors into ``model/hf``."""

    def __init__(self, options: LocalOptions) -> None:
        self.options = options

    def describe(self) -> dict[str, int]:
        """Bytes it will write and the model's context in tokens. Raises ``DataError`` for a bad folder."""
        model = check(self.options.path)
        return {"bytes": model.bytes, "context": model.context}

    def produce(self, step: Step) -> None:
        """Checks and copies. Raises ``DataError`` for pickles, damaged weights, or what is missing."""
        model = check(self.options.path)
        take(step, model, step.output)
        tell(step, model, model=self.options.path.name)
