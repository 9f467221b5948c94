"""A GGUF file: what it says of talking with its model, and a copy of it with one more key.

The copy is made of the file's own bytes: header, keys, tensor table, tensors. The tensor table counts offsets from
where the tensors begin, so that a longer header moves them and changes none.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from attrs import frozen
from gguf import GGUFEndian, GGUFReader

from inhouse.artifacts import sync_folder
from inhouse.errors import DataError

from .reader import BoundedReader

KEY = "inhouse.lineage"
"""The key under which a bundle's GGUF says how it was made: one JSON object as text."""

_TEMPLATE = "tokenizer.chat_template"
_COUNTS = 24  # bytes: magic, version, number of tensors, number of keys
_STRING = 8  # GGUF's number of the type
_BLOCK = 4 << 20


@frozen
class Chat:
    """What a GGUF says of talking with its model; empty strings where it says nothing. ``adds_bos``: whoever cuts text
    into tokens is to put BOS before it."""

    template: str
    bos: str
    eos: str
    end_of_turn: str
    adds_bos: bool = False


@frozen
class Layout:
    """Byte offsets: where the keys end, where the tensor table ends, where the tensors begin; where ``KEY`` is
    already; the alignment of the tensors; the number of keys."""

    keys_end: int
    table_end: int
    tensors: int
    alignment: int
    keys: int
    present: tuple[int, int] | None


@frozen
class GgufFile:
    """What was read of a GGUF. ``tokenizer`` is the SHA-256 over its keys ``tokenizer.*`` without the template;
    ``layout`` is ``None`` for a file of the other byte order."""

    path: Path
    chat: Chat
    tokenizer: str
    layout: Layout | None


def read_gguf(path: Path) -> GgufFile:
    """Reads the header. Raises ``DataError`` when it is no GGUF."""
    try:
        reader = BoundedReader(path)
        template = _value(reader, _TEMPLATE)
        bos, eos, eot = (_token(reader, name) for name in ("bos", "eos", "eot"))
        adds_bos = _value(reader, "tokenizer.ggml.add_bos_token") is True
        chat = Chat(template if isinstance(template, str) else "", bos, eos, eot, adds_bos)
        return GgufFile(path, chat, _tokenizer(reader), _layout(reader))
    except Exception as error:
        raise DataError(f"cannot be read as GGUF: {error}", where=str(path)) from error


def copy_with_lineage(source: GgufFile, target: Path, text: str) -> bool:
    """Copies to ``target`` with ``text`` under ``KEY``, in place of one that is there; aside, fsynced, renamed.

    False, and nothing is written, for a file whose bytes are in the other order.
    """
    if source.layout is None:
        return False
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    with source.path.open("rb") as old, aside.open("wb") as new:
        for block in _blocks(old, source.layout, text):
            new.write(block)
        new.flush()
        os.fsync(new.fileno())
    aside.replace(target)
    sync_folder(target.parent)
    return True


def _blocks(old: IO[bytes], layout: Layout, text: str) -> Iterator[bytes]:
    start, end = layout.present or (layout.keys_end, layout.keys_end)
    value, key = text.encode(), KEY.encode()
    added = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", _STRING, len(value)) + value
    number = layout.keys + (layout.present is None)
    yield from _part(old, 0, _COUNTS - 8)
    yield struct.pack("<Q", number)
    yield from _part(old, _COUNTS, start)
    yield from _part(old, end, layout.keys_end)
    yield added
    yield from _part(old, layout.keys_end, layout.table_end)
    yield bytes(-(layout.table_end - (end - start) + len(added)) % layout.alignment)
    yield from _part(old, layout.tensors, None)


def _part(stream: IO[bytes], start: int, end: int | None) -> Iterator[bytes]:
    """The bytes from ``start`` to ``end``, or to the end of the file."""
    stream.seek(start)
    left = end - start if end is not None else None
    while left is None or left > 0:
        block = stream.read(_BLOCK if left is None else min(_BLOCK, left))
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def _layout(reader: GGUFReader) -> Layout | None:
    if reader.endianess != GGUFEndian.LITTLE:
        return None
    keys_end = max(_COUNTS, *(_end(each) for each in reader.fields.values()))
    table_end = max((_end(each.field) for each in reader.tensors), default=keys_end)
    found = reader.fields.get(KEY)
    return Layout(
        keys_end=keys_end,
        table_end=table_end,
        tensors=int(reader.data_offset),
        alignment=int(reader.alignment),
        keys=int(reader.fields["GGUF.kv_count"].parts[-1][0]),
        present=(int(found.offset), _end(found)) if found else None,
    )


def _end(field: Any) -> int:
    return int(field.offset) + sum(int(part.nbytes) for part in field.parts)


def _tokenizer(reader: GGUFReader) -> str:
    digest = hashlib.sha256()
    for name in sorted(reader.fields):
        if name.startswith("tokenizer.") and name != _TEMPLATE:
            digest.update(reader.data[int(reader.fields[name].offset) : _end(reader.fields[name])].tobytes())
    return digest.hexdigest()


def _value(reader: GGUFReader, key: str) -> object:
    found = reader.fields.get(key)
    return None if found is None else found.contents()


def _token(reader: GGUFReader, name: str) -> str:
    """The text of a special token, '' when the file names none."""
    number, tokens = (
        _value(reader, f"tokenizer.ggml.{name}_token_id"),
        reader.fields.get("tokenizer.ggml.tokens"),
    )
    if not isinstance(number, int) or tokens is None or not 0 <= number < len(tokens.data):
        return ""
    return str(tokens.contents(number))


def lineage_of(path: Path) -> str | None:
    """The text under ``KEY``; None where there is none. Raises ``DataError`` when it is no GGUF."""
    try:
        found = _value(BoundedReader(path), KEY)
    except Exception as error:
        raise DataError(f"cannot be read as GGUF: {error}", where=str(path)) from error
    return found if isinstance(found, str) else None
