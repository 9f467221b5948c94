"""Which model an adapter was trained on, where that is known."""

from __future__ import annotations

from pathlib import Path

from inhouse import codec
from inhouse.artifacts import MANIFEST, Manifest
from inhouse.errors import ArtifactError, DataError
from inhouse.values import Artifact

_SHORT = 12
"""Digits of a digest that are shown, as in ``inhouse artifacts``."""


def check_base(adapter: Path, model: Artifact) -> None:
    """Raises ``DataError`` when the ``adapter`` folder is known to be trained on another model than ``model``.

    peft's files do not say. The manifest of the step that trained it does, where the folder lies in a store.
    """
    digests = trained_on(adapter)
    if digests and model.digest not in digests:
        known = ", ".join(each[:_SHORT] for each in digests)
        raise DataError(
            f"the adapter was trained on another model (digest {known}) than {model.path} ({model.digest[:_SHORT]})",
            where=str(adapter),
            hint="the folder that it was trained on; or, if the weights are the same, a copy of the adapter alone",
        )


def trained_on(adapter: Path) -> tuple[str, ...]:
    """Digests of the models (``model/hf``) that the step took which made ``adapter``; none where that is not known."""
    folder = adapter.resolve()
    try:
        manifest = codec.loads((folder.parent / MANIFEST).read_bytes(), Manifest)
    except (OSError, ArtifactError):
        return ()
    if not any(each.kind == "adapter/peft" and each.folder == folder.name for each in manifest.products):
        return ()
    parents = [each.rpartition(":") for each in manifest.parents]  # step:kind:digest
    return tuple(digest for made, _, digest in parents if made.endswith(":model/hf"))
