"""The folder in which the models are made, measured and taken away again."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, define, field

from inhouse.artifacts import write_text
from inhouse.errors import EngineError, RecipeError, ResourceError
from inhouse.protocols import Engine
from inhouse.values import Request
from inhouse_evaluate.load import fill
from inhouse_gguf import MATRIX_TYPES, PLAIN_TYPES, TYPES
from inhouse_gguf.convert import commit
from inhouse_gguf.engine import quantize
from inhouse_llamacpp import CacheType, LlamaCppOptions
from inhouse_llamacpp.runtime import LlamaCppRuntime

from .goals import Figures
from .shape import CONTEXT, Shape, write_model

MARK, NAME, PLAIN = "bench.json", "model.gguf", "f16"
TOKENS, TURNS = 64, 5
PROMPT = "one two three four five six seven"
SPARE = 200 << 20
"""Bytes of disk left free."""

Tell = Callable[..., None]
"""Called with what is being done, and optionally how much of how much is done."""


def parse_types(text: str) -> tuple[str, ...]:
    """The types in ``text``, which commas separate. Raises ``RecipeError`` for what cannot be made of F16 alone."""
    found = tuple(dict.fromkeys(each.strip().lower() for each in text.split(",") if each.strip()))
    known = [each for each in TYPES if each not in (*PLAIN_TYPES, *MATRIX_TYPES)]
    for each in found:
        if each not in known:
            raise RecipeError(f"there is no type {each!r} to measure", where="--types", hint=", ".join(known))
    if not found:
        raise RecipeError("names no type", where="--types", hint="--types q4_k_s,q4_k_m")
    return found


def _estimate(shape: Shape, type: str) -> int:
    """Bytes of the shape's file at most: its F16 is 16 bits, a type of n bits takes less than n + 1."""
    bits = 16 if type == PLAIN else int(re.findall(r"\d+", type)[0]) + 1
    return shape.parameters * bits // 8 + (4 << 20)


@define
class Workshop:
    """Makes F16 and ``types`` of ``shape`` in ``folder``, and measures each type beside F16.

    Models are there under their names only when they are whole, and figures are noted as they are measured, so that a
    run that was stopped goes on. Without ``keep`` a quantised file goes when it is measured, all else at the end.
    """

    folder: Path
    shape: Shape
    types: tuple[str, ...]
    context: int
    threads: int
    keep: bool
    cache_type: CacheType = "f16"
    figures: dict[str, Figures] = field(factory=dict)

    def run(self, tell: Tell) -> list[Figures]:
        """The figures of F16 and each type. Raises ``ResourceError`` without room on the disk, ``RecipeError`` for a
        folder with other things in it, ``EngineError`` or ``StepError`` when llama.cpp fails."""
        runtime = LlamaCppRuntime(LlamaCppOptions(cache_type=self.cache_type))
        reason = runtime.probe()
        if reason:
            raise ResourceError(reason)
        self._open()
        self._need_room()
        self._tell_of_memory(tell)
        for type in self.types:
            if type not in self.figures:
                self.figures[type] = self._measure(runtime, type, tell)
                self._note(self.figures)
            if not self.keep:
                shutil.rmtree(self.folder / type, ignore_errors=True)
        found = [self.figures[type] for type in self.types]
        rate = median(each.plain_rate for each in found)
        plain = Figures(PLAIN, self._path(PLAIN).stat().st_size, rate, rate)
        self._close()
        return [plain, *found]

    def _open(self) -> None:
        """Makes the folder, or takes up what a stopped run left there."""
        mark = self.folder / MARK
        if not mark.exists():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise RecipeError(
                    "is there and was not made by this benchmark", where=str(self.folder), hint="--folder NEW"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._note(self.figures)
            return
        try:
            found = json.loads(mark.read_text(encoding="utf-8"))
            shape, settings = Shape(**found["shape"]), found["settings"]
            kept = {name: Figures(**each) for name, each in found["figures"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecipeError("is no note of this benchmark", where=str(mark), hint="--folder NEW") from error
        if shape != self.shape:
            raise RecipeError(
                f"holds models of {shape.layers} x {shape.width}", where=str(self.folder), hint="--folder NEW"
            )
        if settings == self._settings():
            self.figures.update(kept)

    def _settings(self) -> list[int | str]:
        return [self.context, self.threads, self.cache_type]

    def _note(self, figures: Mapping[str, Figures]) -> None:
        note = {"shape": asdict(self.shape), "settings": self._settings()}
        note["figures"] = {name: asdict(each) for name, each in figures.items()}
        write_text(self.folder / MARK, json.dumps(note, indent=1) + "\n")

    def _need_room(self) -> None:
        """Raises ``ResourceError`` unless what is still to be made fits on the disk."""
        open_types = [each for each in self.types if each not in self.figures]
        missing = [_estimate(self.shape, each) for each in open_types if not self._path(each).exists()]
        needed = (sum if self.keep else max)(missing) if missing else 0
        if open_types and not self._path(PLAIN).exists():
            needed += _estimate(self.shape, PLAIN)
        free = shutil.disk_usage(self.folder).free
        if free < needed + SPARE:
            raise ResourceError(
                f"needs {(needed + SPARE) / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
                where=str(self.folder),
                hint="--folder on another disk",
            )

    def _tell_of_memory(self, tell: Tell) -> None:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if total < 2 * self.shape.parameters + max(_estimate(self.shape, each) for each in self.types):
            tell(f"F16 and another do not fit in {total / 1e9:.1f} GB of memory: rates are those of the disk")

    def _path(self, type: str) -> Path:
        return self.folder / type / NAME

    def _make(self, type: str, tell: Tell) -> Path:
        """The model of a type, made unless it is there."""
        path = self._path(type)
        if path.exists():
            return path
        path.parent.mkdir(exist_ok=True)
        if type == PLAIN:
            write_model(self.shape, path, lambda done, total, _: tell("writing random weights", done, total))
            return path
        plain, aside = self._make(PLAIN, tell), path.with_name(NAME + ".part")
        quantize(plain, aside, type, self.threads, lambda done, total, _: tell(f"quantising to {type}", done, total))
        commit(aside, path)
        return path

    def _measure(self, runtime: LlamaCppRuntime, type: str, tell: Tell) -> Figures:
        """A type's figures, made first where it is not there; F16 is open beside it and answers in turns with it."""
        path, context = self._make(type, tell), min(self.context, CONTEXT)
        folders = [self._path(PLAIN).parent, path.parent]
        with ExitStack() as opened:
            engines: list[Any] = []
            for folder in folders:
                tell(f"opening {folder.name}")
                engine: Any = runtime.open(folder, context=context, threads=self.threads)
                engines.append(opened.enter_context(engine))
            plain_rate, rate = decoding_rates(engines, lambda done: tell(f"measuring {type} beside f16", done, TURNS))
            tell(f"filling a context of {context} tokens with {type}")
            fill(engines[-1])
            return Figures(type, path.stat().st_size, rate, plain_rate, engines[-1].memory())

    def _close(self) -> None:
        """Takes away what was made; with ``keep`` the note only, so that the next run measures anew."""
        self._note({})
        if not self.keep:
            for type in (PLAIN, *TYPES):  # of an earlier run with keep, too
                shutil.rmtree(self.folder / type, ignore_errors=True)
            (self.folder / MARK).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def decoding_rates(engines: Sequence[Engine], told: Callable[[int], None]) -> list[float]:
    """Tokens per second of one greedy stream of each engine: medians of ``TURNS`` answers of ``TOKENS`` tokens.

    They take turns, as a machine's rate changes from minute to minute. The short prompt is read before, once, and
    taken from the cache then. ``told`` is called with the turns done. Raises ``EngineError`` where a model ends its
    answers by itself.
    """
    rates: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        engine.generate([Request(prompt=PROMPT, max_tokens=1)])
    for turn in range(TURNS):
        told(turn)
        for engine, found in zip(engines, rates, strict=True):
            begun = time.perf_counter()
            (answer,) = engine.generate([Request(prompt=PROMPT, max_tokens=TOKENS)])
            found.append(answer.completion_tokens / (time.perf_counter() - begun))
            if answer.completion_tokens < TOKENS:
                raise EngineError(f"the answer ended after {answer.completion_tokens} of {TOKENS} tokens")
    return [median(each) for each in rates]
