"""Every failure that a user may see: what happened, where, which plugin, what to type next."""

from __future__ import annotations


class InhouseError(Exception):
    """Base of all typed errors.

    ``where`` is a file (``path:line``) or a recipe path (``finetune.lora.rank``); ``hint`` says what to
    type next; ``plugin`` names the plugin and its version. ``exit_code`` is what the command line ends with.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, plugin: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.plugin = plugin

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        tail = f" [{self.plugin}]" if self.plugin else ""
        return f"{head}{tail}" + (f"\n  try: {self.hint}" if self.hint else "")


class RecipeError(InhouseError):
    """The recipe or the command is wrong."""

    exit_code = 2


class DataError(InhouseError):
    """A file that the user gave is missing or malformed."""

    exit_code = 2


class ResourceError(InhouseError):
    """The machine lacks what the plan needs: disk, memory, a compiler, a library."""

    exit_code = 2


class StepError(InhouseError):
    """A step started and did not finish."""


class EngineError(InhouseError):
    """The engine behind a runtime crashed, hung or refused the model."""


class ArtifactError(InhouseError):
    """An artifact is missing, half there or does not match its manifest."""


class PluginError(InhouseError):
    """A plugin is at fault: it does not import, declares nonsense, or broke its Protocol."""

    exit_code = 3


class Interrupted(InhouseError):
    """The user asked to stop; finished steps and checkpoints are kept."""

    exit_code = 130
