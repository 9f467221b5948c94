"""Whether a model is quantised with an importance matrix, and where that comes from."""

from __future__ import annotations

from pathlib import Path

from inhouse.errors import DataError
from inhouse.protocols import Step
from inhouse.values import Artifact
from inhouse_gguf import IGNORING_TYPES, MATRIX_TYPES, GgufOptions
from inhouse_gguf.engine import Collected, collect, types_in
from inhouse_gguf.header import read_header
from inhouse_gguf.imatrix import check_fits, read_matrix

NAME = "model.imatrix"
"""No ``.gguf``, although it is one: it is no weights, and what counts or opens those goes by the suffix."""


def importance(
    step: Step,
    options: GgufOptions,
    source: Path,
    model: Artifact,
    chats: Artifact | None,
    corpus: Artifact | None,
) -> Path | None:
    """The file of the importance matrix for the unquantised GGUF ``source`` of ``model``; None to go without.

    It is the user's file, or computed into the step's checkpoints over the training text (``text/chat``, else
    ``text/corpus``). Notes ``imatrix_tokens`` (0: the file does not say), ``imatrix_entries`` and ``imatrix_text``.
    Raises ``DataError`` for a file that is broken or another model's, and when a matrix is needed and there is no
    text; else as :func:`inhouse_gguf.engine.collect`.
    """
    path = options.imatrix_file
    if path is None:
        path = _computed(step, options, source, chats, corpus) if _wanted(step, options, model) else None
        if path is None:
            return None
    matrix = read_matrix(path)
    needed = frozenset(name for name in types_in(source, options.type) if name.startswith("blk."))
    check_fits(matrix, path, read_header(source), needed)
    step.note(
        imatrix_tokens=matrix.tokens,
        imatrix_entries=len(matrix.entries),
        imatrix_text="file" if options.imatrix_file else ", ".join(matrix.datasets),
    )
    return path


def _wanted(step: Step, options: GgufOptions, model: Artifact) -> bool:
    """Whether a matrix is to be computed."""
    if options.imatrix != "auto":
        return options.imatrix == "on"
    if options.type in MATRIX_TYPES:
        return True
    if options.type in IGNORING_TYPES:
        return False
    if _trained_for(step, options.type, model):
        step.notice(f"no importance matrix: the model was trained for {options.type} as it is without one")
        return False
    return True


def _trained_for(step: Step, type: str, model: Artifact) -> bool:
    """Whether the step that made ``model`` trained it with the weights as ``type`` stores them."""
    makers = [each for each in step.history if each.stage == "trainer" and model.digest in each.products.values()]
    return any(each.options.get("quantization_aware") in ("auto", type) for each in makers)


def _computed(
    step: Step, options: GgufOptions, source: Path, chats: Artifact | None, corpus: Artifact | None
) -> Path | None:
    target = step.checkpoints / NAME
    if target.exists():  # from an earlier, killed run; it gets its name only when whole
        return target
    told = Collected(0, "", 0)
    if chats or corpus:
        told = collect(
            source,
            target,
            chats=chats.path / "train.jsonl" if chats else None,
            corpus=corpus.path / "corpus.jsonl" if corpus else None,
            tokens=options.imatrix_tokens,
            seed=step.seed,
            threads=options.threads,
            progress=lambda done, total, _: step.progress(done, total, unit="token", note="importance matrix"),
        )
    if told.refused:
        step.notice(
            f"{told.refused} chats are not in the importance matrix: the model's chat template refuses them",
            level="warning",
        )
    if told.tokens:
        return target
    if options.imatrix == "on" or options.type in MATRIX_TYPES:
        raise _no_text(options, told, chats, corpus)
    return None


def _no_text(options: GgufOptions, told: Collected, chats: Artifact | None, corpus: Artifact | None) -> DataError:
    given = [str(each.path) for each in (chats, corpus) if each]
    if told.refused:
        reason = "the model's chat template refuses every chat"
    elif given:
        reason = "there is none in the data (chats need a model with a chat template)"
    else:
        reason = "the recipe has no data"
    return DataError(
        f"type {options.type} is to be quantised with an importance matrix, which needs training text: {reason}",
        where=given[0] if given else None,
        hint='[data] use = "jsonl", or imatrix_file = "…" under [quantize.gguf]',
    )
