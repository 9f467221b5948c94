"""The source `jsonl`: reads, checks, and writes the chats and the corpus."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inhouse.errors import DataError, RecipeError
from inhouse.protocols import Step
from inhouse_data import Options
from inhouse_data.chats import read_chats, split, without_leaks
from inhouse_data.check import Chat
from inhouse_data.corpus import read_corpus
from inhouse_data.findings import Findings, Place
from inhouse_data.read import text


class JsonlSource:
    """Writes ``text/chat`` (train.jsonl, heldout.jsonl, findings.json) and ``text/corpus`` (corpus.jsonl)."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def describe(self) -> dict[str, int]:
        """Bytes it will write, about: those it reads."""
        given = (self.options.chat, self.options.heldout, self.options.corpus)
        return {"bytes": sum(_size(path) for path in given if path is not None)}

    def produce(self, step: Step) -> None:
        """Reads and checks everything; the texts are streamed, a corpus may be larger than memory.

        Raises ``DataError`` with file and line for what cannot be read, ``RecipeError`` when there is
        nothing to read. The same input gives the same bytes.
        """
        options, findings = self.options, Findings(strict=self.options.strict)
        if options.chat is None and options.corpus is None:
            raise RecipeError(
                "nothing to read: neither chat nor corpus is given",
                where=f"{step.name}.jsonl",
                hint='chat = "train.jsonl" or corpus = "knowledge" under it',
            )
        train, heldout = self._chats(step, findings)
        corpus = read_corpus(options.corpus, findings, step) if options.corpus else ()
        documents = _write_rows(step.outputs["text/corpus"] / "corpus.jsonl", corpus)
        findings.stop_on_errors()
        if options.chat and not train:
            raise DataError("no chat is left to learn from" + _because(findings), where=str(options.chat))
        if options.corpus and not documents:
            raise DataError("no text is left" + _because(findings), where=str(options.corpus))
        chats = step.outputs["text/chat"]
        _write_rows(chats / "train.jsonl", (chat.row() for chat in train))
        _write_rows(chats / "heldout.jsonl", (chat.row() for chat in heldout))
        _write(chats / "findings.json", [json.dumps(findings.as_json(), ensure_ascii=False, indent=1) + "\n"])
        for line in findings.summaries():
            step.notice(line, level="warning")
        step.note(
            train_rows=len(train),
            heldout_rows=len(heldout),
            documents=documents,
            findings=dict(sorted(findings.counts.items())),
            missing=[name for name, given in (("chat", options.chat), ("corpus", options.corpus)) if not given],
        )

    def _chats(self, step: Step, findings: Findings) -> tuple[list[Chat], list[Chat]]:
        options = self.options
        if options.chat is None:
            return [], []
        system = None
        if options.system is not None:
            system = (text(Place(options.system, options.system.name), findings) or "").strip()
            if not system:
                findings.add("encoding", Place(options.system, options.system.name), "holds no system message")
        train = read_chats(options.chat, options, system, findings, step)
        heldout: list[Chat] = []
        if options.heldout is not None:
            heldout = read_chats(options.heldout, options, system, findings, step)
            train = without_leaks(train, heldout, findings)
        if options.limit:
            train = train[: options.limit]
        if options.heldout is None:
            train, heldout = split(train, options.heldout_share, step.seed)
        return train, heldout


def _because(findings: Findings) -> str:
    lines = findings.summaries()
    return ":\n  " + "\n  ".join(lines) if lines else ""


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    return _write(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, pieces: Iterable[str]) -> int:
    """UTF-8 with ``\\n`` on every system, on the disk when it returns; how many pieces it were."""
    count = 0
    with path.open("wb") as file:
        for count, piece in enumerate(pieces, 1):  # noqa: B007  counted as it goes
            file.write(piece.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    return count
