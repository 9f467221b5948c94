"""Token ids in files that are mapped, not read: a corpus may be larger than memory.

FOLDER/index.json            {"dtype": "uint16", "tokens": [of each file]}
      /tokens-00000.bin …    ids one after the other, little-endian

uint16 where the vocabulary allows it, else uint32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from inhouse.artifacts import sync_folder, write_text
from inhouse.errors import ArtifactError

SHARD_TOKENS = 1 << 26
"""Most tokens in one file (128 or 256 MiB)."""
INDEX = "index.json"


class ShardWriter:
    """Writes ids to ``folder``; the index is written last, so a folder without one is not whole."""

    def __init__(self, folder: Path, vocabulary: int, *, shard_tokens: int = SHARD_TOKENS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._most = folder, shard_tokens
        self._dtype = np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")
        self._tokens: list[int] = []
        self._stream: Any = None

    def write(self, ids: Sequence[int]) -> None:
        """Appends; a document may go on in the next file."""
        rest = np.asarray(ids, dtype=self._dtype)
        while rest.size:
            if self._stream is None or self._tokens[-1] == self._most:
                self._next()
            room = self._most - self._tokens[-1]
            self._stream.write(rest[:room].tobytes())
            self._tokens[-1] += min(room, rest.size)
            rest = rest[room:]

    def close(self) -> None:
        """Syncs what was written and writes the index."""
        self._sync()
        name = "uint16" if self._dtype.itemsize == 2 else "uint32"
        write_text(self._folder / INDEX, json.dumps({"dtype": name, "tokens": self._tokens}))
        sync_folder(self._folder)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._stream is not None:
            self._stream.close()

    def _next(self) -> None:
        self._sync()
        self._stream = (self._folder / _name(len(self._tokens))).open("wb")
        self._tokens.append(0)

    def _sync(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()


class Shards:
    """The tokens of a folder as one long row; ``count`` tokens."""

    def __init__(self, folder: Path) -> None:
        """Raises ``ArtifactError`` when files are missing or shorter than the index says."""
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            dtype = np.dtype({"uint16": "<u2", "uint32": "<u4"}[index["dtype"]])
            maps = [np.memmap(folder / _name(i), dtype, "r", shape=(n,)) for i, n in enumerate(index["tokens"])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"holds no whole token files: {error}", where=str(folder)) from error
        self._maps = maps
        self._ends = np.cumsum([len(each) for each in maps], dtype=np.int64)
        self.count = int(self._ends[-1]) if maps else 0

    def read(self, start: int, length: int) -> torch.Tensor:
        """Tokens ``start`` to ``start + length`` as int64 (length,). Raises ``IndexError`` past the end."""
        if not 0 <= start <= start + length <= self.count:
            raise IndexError(f"tokens {start} to {start + length} of {self.count}")
        out = np.empty(length, dtype=np.int64)
        done = 0
        number = int(np.searchsorted(self._ends, start, side="right"))
        while done < length:
            shard = self._maps[number]
            place = start + done - (int(self._ends[number]) - len(shard))
            piece = shard[place : place + length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            number += 1
        return torch.from_numpy(out)


def whole(folder: Path) -> bool:
    """Whether a writer finished there."""
    return (folder / INDEX).is_file()


def _name(number: int) -> str:
    return f"tokens-{number:05d}.bin"
