"""The packager ``folder``.

bundle.json     what :class:`inhouse_answer.bundle.Bundle` opens
model/ knowledge/ files/<owner>/<option>
Modelfile       for Ollama (GGUF only)
README.md report.html report.json lineage.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import asdict, define

from inhouse import codec
from inhouse.artifacts import write_text
from inhouse.errors import ArtifactError
from inhouse.protocols import Step
from inhouse.values import Artifact, Json
from inhouse_answer.bundle import SETTINGS, BundleSettings

from . import FolderOptions
from .copying import copy, size_of
from .deploy import deploy
from .lineage import lineage, without_paths
from .modelfile import GGUF, modelfile
from .page import Content, card, html
from .settings import KNOWLEDGE, MODEL, bring, distributions

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


class FolderPackager:
    """Packager ``folder``."""

    def __init__(self, options: FolderOptions) -> None:
        self.options = options

    def package(self, step: Step, model: Artifact, knowledge: Artifact | None, report: Artifact | None) -> None:
        """Writes the bundle to ``step.output``; notes ``bytes``.

        Raises ``ArtifactError`` when an input is not what its kind says, ``RecipeError`` for a tool whose
        name cannot be a folder's.
        """
        folder = step.output
        parts = [(MODEL, model), *([(KNOWLEDGE, knowledge)] if knowledge else [])]
        copying = _Copying(step, sum(size_of(artifact.path) for _, artifact in parts))
        for name, artifact in parts:
            copy(artifact.path, folder / name, copying.tell)
        settings = self._settings(step, model, knowledge is not None)
        write_text(folder / SETTINGS, codec.dumps(settings, indent=1) + "\n")
        ollama = self._modelfile(step, model, settings)
        content = self._content(step, [each for each in (model, knowledge, report) if each], settings, ollama)
        _write_json(folder / "lineage.json", content.lineage)
        _write_json(folder / "report.json", _report(content, step))
        write_text(folder / "report.html", html(content))
        write_text(folder / "README.md", card(content))
        step.note(bytes=size_of(folder))

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

    def _modelfile(self, step: Step, model: Artifact, settings: BundleSettings) -> bool:
        """Writes the Modelfile if Ollama can run the model."""
        if model.kind != "model/gguf":
            return False
        path = step.output / MODEL / GGUF
        if not path.is_file():
            raise ArtifactError(f"has no {GGUF}", where=str(model.path))
        text = modelfile(path, context=step.target.context, system=_system(settings, step.output))
        write_text(step.output / "Modelfile", text)
        return True

    def _content(self, step: Step, inputs: list[Artifact], settings: BundleSettings, ollama: bool) -> Content:
        report = next((each for each in inputs if each.kind == "report"), None)
        plugins = distributions(settings)
        return Content(
            name=step.recipe,
            model=inputs[0],
            model_bytes=size_of(inputs[0].path),
            report=_read_report(report),
            steps=step.history,
            lineage=lineage(step, step.recipe, inputs, plugins),
            plugins=plugins,
            example=self.options.example,
            context=step.target.context,
            ollama=ollama,
            gate=str(report.meta["gate"]) if report and report.meta.get("gate") else None,
        )


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
        raise ArtifactError(f"is no report: {error}", where=str(path)) from error
    if not isinstance(found, dict):
        raise ArtifactError("is no report: not a JSON object", where=str(path))
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


def _write_json(path: Path, data: Mapping[str, Json]) -> None:
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
