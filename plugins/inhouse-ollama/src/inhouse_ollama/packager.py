"""The packager ``ollama``.

The step makes the folder and sends its GGUF; after every run, also when the bundle was found in the store, the
folder is put where its owner uses it and the model is made, unless the server has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from inhouse.errors import ArtifactError, RecipeError, ResourceError, StepError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_bundle import FolderOptions
from inhouse_bundle.lineage import LINEAGE
from inhouse_bundle.packager import FolderPackager

from . import NAME, OllamaOptions
from .modelfile import read_modelfile
from .put import Sending, put
from .server import Server


class OllamaPackager:
    """Packager ``ollama``."""

    def __init__(self, options: OllamaOptions) -> None:
        self.options = options
        self._folder = FolderPackager(FolderOptions(example=options.example))

    def probe(self) -> None:
        """Raises ``ResourceError`` when no model can be made there, before any work."""
        try:
            with Server(self.options.host, patience=10) as server:
                server.version()
        except StepError as error:  # something answers that is no Ollama
            raise ResourceError(error.message, where=error.where, hint=error.hint) from error

    def package(
        self,
        step: Step,
        model: Artifact,
        knowledge: Artifact | None,
        report: Artifact | None,
        gates: Artifact | None = None,
    ) -> None:
        """Writes the bundle as ``folder`` does and sends its model's file; a server that has it gets nothing.

        Raises ``RecipeError`` for a recipe whose name Ollama does not take, else what ``folder`` and
        :class:`~inhouse_ollama.server.Server` raise.
        """
        self._name(step.recipe)
        self._folder.package(step, model, knowledge, report, gates)
        file = read_modelfile(step.output).file
        with Server(self.options.host) as server:
            server.version()
            digest = _digest(step.output, file)
            if not server.has(digest):
                server.send(file, digest, lambda done, total: step.progress(done, total, unit="B", note="to Ollama"))

    def deploy(self, bundle: Artifact, folder: Path, notice: Callable[[str], None]) -> Path:
        """Puts the bundle into ``folder`` and the model into the server; see :func:`inhouse_ollama.put.put`."""
        place = self._folder.deploy(bundle, folder, notice)
        wanted = read_modelfile(bundle.path)
        sending = Sending(
            bundle=bundle.digest,
            host=self.options.host,
            model=self._name(folder.name),
            wanted=wanted,
            digest=_digest(bundle.path, wanted.file),
        )
        with Server(self.options.host) as server:
            server.version()
            put(server, sending, folder, keep=self.options.keep, notice=notice)
        return place

    def _name(self, recipe: str) -> str:
        """The model's name with its tag. Raises ``RecipeError``."""
        name = self.options.model or recipe
        if not NAME.fullmatch(name):
            raise RecipeError(
                f"Ollama takes no model of the name {name!r}: letters, digits, - _ . only",
                where="name",
                hint='[bundle.ollama] model = "NAME"',
            )
        return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _digest(folder: Path, file: Path) -> str:
    """SHA-256 of the model's file, as the bundle's lineage has it. Raises ``ArtifactError``."""
    path = folder / LINEAGE
    try:
        listed = {each["path"]: str(each["sha256"]) for each in json.loads(path.read_bytes())["files"]}
        return listed[file.relative_to(folder).as_posix()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"does not list the model's file: {error}", where=str(path)) from error
