"""The packager ``folder``.

bundle.json     what :class:`inhouse_answer.bundle.Bundle` opens
model/ knowledge/ files/<owner>/<option>
Modelfile       for Ollama (GGUF only)
README.md report.html report.json lineage.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import asdict, define, frozen

from inhouse import codec
from inhouse.artifacts import tree_digest, write_text
from inhouse.errors import ArtifactError, DataError
from inhouse.protocols import Step
from inhouse.values import Artifact, Json
from inhouse_answer.bundle import SETTINGS, BundleSettings

from . import FolderOptions
from .copying import copy, size_of
from .deploy import deploy
from .gguf_file import GgufFile, copy_with_lineage, read_gguf
from .lineage import lineage, small, write
from .modelfile import GGUF, modelfile
from .page import Content, card, html
from .places import without_paths
from .settings import KNOWLEDGE, MODEL, bring, distributions
from .tokens import tokens

_LONGEST_SYSTEM = 100_000  # characters


@define
class _Copying:
    """Progress in bytes over everything that is copied."""

    step: Step
    total: int
    done: int = 0

    def tell(self, size: int, name: str) -> None:
        self.done += size
        self.step.progress(self.done, max(self.done, self.total), unit="B", note=name)


@frozen
class _Writer:
    """Copies a file; the model's GGUF with its lineage in it."""

    step: Step
    gguf: GgufFile | None
    lineage: str

    def write(self, source: Path, target: Path) -> None:
        if self.gguf and source == self.gguf.path:
            if copy_with_lineage(self.gguf, target, self.lineage):
                return
            self.step.notice(f"{source.name} has its bytes in the other order: it is copied without its lineage")
        shutil.copyfile(source, target)


class FolderPackager:
    """Packager ``folder``."""

    def __init__(self, options: FolderOptions) -> None:
        self.options = options

    def package(
        self,
        step: Step,
        model: Artifact,
        knowledge: Artifact | None,
        report: Artifact | None,
        gates: Artifact | None = None,
    ) -> None:
        """Writes the bundle to ``step.output``; notes ``bytes`` and the digest of its ``lineage``.

        ``gates`` is an input so that a bundle whose gates come out otherwise is another one.

        Raises ``DataError`` when an input is not what its kind says, ``ArtifactError`` when it is no longer what a
        step made, ``RecipeError`` for a tool whose name cannot be a folder's.
        """
        folder = step.output
        inputs = [each for each in (model, knowledge, report, gates) if each]
        _check(inputs)
        gguf = _gguf(model)
        settings = self._settings(step, model, knowledge is not None)
        write_text(folder / SETTINGS, codec.dumps(settings, indent=1) + "\n")
        content = self._content(step, inputs, settings, gguf)
        parts = [(MODEL, model), *([(KNOWLEDGE, knowledge)] if knowledge else [])]
        copying = _Copying(step, sum(size_of(artifact.path) for _, artifact in parts))
        for name, artifact in parts:
            copy(artifact.path, folder / name, copying.tell, _Writer(step, gguf, small(content.lineage)).write)
        if gguf:
            system = _system(settings, folder)
            text = modelfile(folder / MODEL / GGUF, gguf.chat, context=step.target.context, system=system)
            write_text(folder / "Modelfile", text)
        write_text(folder / "report.json", _json(_report(content, step)))
        write_text(folder / "report.html", html(content))
        write_text(folder / "README.md", card(content))
        digest = write(folder, content.lineage)
        step.note(bytes=size_of(folder), lineage=digest)

    def deploy(self, bundle: Artifact, folder: Path, notice: Callable[[str], None]) -> Path:
        """Puts the bundle into ``folder``; see :func:`inhouse_bundle.deploy.deploy`."""
        return deploy(bundle, folder, notice)

    def _settings(self, step: Step, model: Artifact, knowledge: bool) -> BundleSettings:
        made = bring(
            step.services.settings(),
            step.output,
            kind=model.kind,
            name=step.recipe,
            example=self.options.example,
            knowledge=knowledge,
        )
        if not made.runtimes:
            step.notice(f"no installed runtime opens {model.kind}: this bundle cannot answer", level="warning")
        return made

    def _content(self, step: Step, inputs: list[Artifact], settings: BundleSettings, gguf: GgufFile | None) -> Content:
        report = next((each for each in inputs if each.kind == "report"), None)
        plugins = distributions(settings)
        return Content(
            name=step.recipe,
            model=inputs[0],
            model_bytes=size_of(inputs[0].path),
            report=_read_report(report),
            steps=step.history,
            lineage=lineage(step, self.options, inputs, plugins=plugins, tokens=tokens(inputs[0].path, gguf)),
            plugins=plugins,
            example=self.options.example,
            context=step.target.context,
            ollama=gguf is not None,
            gate=str(report.meta["gate"]) if report and report.meta.get("gate") else None,
        )


def _check(inputs: Sequence[Artifact]) -> None:
    """What the lineage says of the inputs has to be so. Raises ``ArtifactError``."""
    for each in inputs:
        if tree_digest(each.path) != each.digest:
            raise ArtifactError(
                f"is no longer the {each.kind} that step {each.step} made",
                where=str(each.path),
                hint="inhouse artifacts --verify",
            )


def _gguf(model: Artifact) -> GgufFile | None:
    """The GGUF of a model, which Ollama can run too; None for other kinds."""
    if model.kind != "model/gguf":
        return None
    path = model.path / GGUF
    if not path.is_file():
        raise DataError(f"has no {GGUF}", where=str(model.path))
    return read_gguf(path)


def _system(settings: BundleSettings, folder: Path) -> str | None:
    """The agent's system message: its option ``system``, where that is a text file."""
    relative = settings.agent["files"].get("system") if settings.agent else None
    if relative is None:
        return None
    try:
        text = (folder / relative).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if 0 < len(text) <= _LONGEST_SYSTEM else None


def _read_report(artifact: Artifact | None) -> Mapping[str, Json]:
    """The evaluator's ``report.json``; NaN and infinity, which are no JSON, become null."""
    if artifact is None:
        return {}
    path = artifact.path / "report.json"
    try:
        found: Json = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"is no report: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise DataError("is no report: not a JSON object", where=str(path))
    return found


def _report(content: Content, step: Step) -> dict[str, Json]:
    """``report.json``: what was measured, and how the run went."""
    return {
        **content.report,
        "name": content.name,
        "model": {"kind": content.model.kind, "step": content.model.step, "bytes": content.model_bytes},
        "steps": [without_paths(asdict(each)) for each in step.history],
        "peak_memory_bytes": content.peak_memory,
    }


def _json(data: Mapping[str, Json]) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
