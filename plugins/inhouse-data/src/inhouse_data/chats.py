"""Chat files to training and held-out chats: read, checked, without duplicates and leakage, split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from inhouse.protocols import Step
from inhouse_data import Options
from inhouse_data.check import Chat, problems
from inhouse_data.findings import Findings, Place
from inhouse_data.formats import FormatError, detect, to_messages
from inhouse_data.read import files, objects

UNIT = "row"


def read_chats(root: Path, options: Options, system: str | None, findings: Findings, step: Step) -> list[Chat]:
    """All usable chats of a file or folder, in order, each once."""
    seen: dict[str, Place] = {}
    near: dict[str, Place] = {}
    ids: set[str] = set()
    chats = []
    for chat in step.track(_rows(root, options, system, findings, ids), unit=UNIT):
        useful = True
        for kind, message, action in problems(chat, options.max_tokens):
            findings.add(kind, chat.place, message, action)
            useful = useful and action != "left out"
        if not useful:
            continue
        first = seen.setdefault(chat.folded(), chat.place)
        if first is not chat.place:
            findings.add("duplicate", chat.place, f"is the same chat as {first.short}")
            continue
        like = near.setdefault(chat.normalised(), chat.place)
        if like is not chat.place:
            findings.add("near-duplicate", chat.place, f"differs from {like.short} in case or punctuation only", "kept")
        chats.append(chat)
    return chats


def _rows(root: Path, options: Options, system: str | None, findings: Findings, ids: set[str]) -> Iterator[Chat]:
    for place in files(root, (".jsonl",), "chats"):
        for here, row in objects(place, findings):
            try:
                messages, rest = to_messages(row, detect(row) if options.format == "auto" else options.format)
            except FormatError as error:
                findings.add("format", here, str(error))
                continue
            if system is not None and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": system})
            own = rest.pop("id", None)
            name = own if isinstance(own, str) and own and own not in ids else f"{Path(here.name).stem}-{here.line}"
            ids.add(name)
            yield Chat(here, name, messages, rest)


def without_leaks(train: Iterable[Chat], heldout: Iterable[Chat], findings: Findings) -> list[Chat]:
    """The training chats that are not in the held-out set: neither the chat nor what its user wrote."""
    known: dict[str, Place] = {}
    for chat in heldout:
        known.setdefault(chat.normalised(), chat.place)
        known.setdefault(f"asked\n{chat.asked()}", chat.place)
    clean = []
    for chat in train:
        if at := known.get(chat.normalised()):
            findings.add("leakage", chat.place, f"is the held-out chat {at.short}")
        elif at := known.get(f"asked\n{chat.asked()}"):
            findings.add("leakage", chat.place, f"asks what the held-out chat {at.short} asks")
        else:
            clean.append(chat)
    return clean


def split(chats: list[Chat], share: float, seed: int) -> tuple[list[Chat], list[Chat]]:
    """Training and held-out chats, both in their order.

    Chats whose users wrote the same stay together. Drawn by a digest of that text and the seed, so one
    more row does not change where the others go, up to the last few.
    """
    groups: dict[str, list[Chat]] = {}
    for chat in chats:
        groups.setdefault(chat.asked(), []).append(chat)
    wanted = max(1, round(share * len(chats))) if share > 0 and len(groups) > 1 else 0
    drawn: set[str] = set()
    taken = 0
    for asked in sorted(groups, key=lambda asked: hashlib.sha256(f"{seed}\n{asked}".encode()).digest()):
        if taken >= wanted or len(drawn) == len(groups) - 1:
            break
        drawn.add(asked)
        taken += len(groups[asked])
    train = [chat for chat in chats if chat.asked() not in drawn]
    return train, [chat for chat in chats if chat.asked() in drawn]
