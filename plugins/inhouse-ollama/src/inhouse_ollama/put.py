"""A bundle's model in a server, once: what is there is left, what somebody else made is kept.

.<name>.ollama.json   beside the bundle's folder: what was made last, on which server, by digest
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from attrs import evolve, frozen

from inhouse import codec
from inhouse.artifacts import write_text
from inhouse.errors import ArtifactError, StepError
from inhouse_bundle.gguf_file import read_gguf

from . import HOST
from .held import Held, differences
from .modelfile import Wanted
from .server import Server
from .words import shown, size

_EVERY = 10.0
"""Seconds between two lines that say how far a file is."""


@frozen
class Sending:
    """What goes to a server: the bundle by its digest, the model's name with tag, the SHA-256 of its file."""

    bundle: str
    host: str
    model: str
    wanted: Wanted
    digest: str


@frozen
class Made:
    """What was made last. ``digest`` is the server's of the model, ``blob`` the SHA-256 of its file as it was sent,
    ``server_blob`` as the server names it (``None`` where it does not), ``template`` and ``system`` of these texts.
    ``checked``: the server was asked, and holds what it was sent."""

    bundle: str
    host: str
    model: str
    digest: str
    blob: str
    server_blob: str | None = None
    template: str | None = None
    system: str | None = None
    version: str = ""
    checked: bool = False


def put(server: Server, sending: Sending, folder: Path, *, keep: bool, notice: Callable[[str], None]) -> None:
    """Makes the model unless it is there, and compares what the server holds with what it was sent.

    A model that was changed on the server since this bundle made it is left alone. One of the same name that is not
    of this recipe's making is kept under a tag of its own, unless ``keep`` is false. Raises ``StepError`` when the
    server holds something else than it was sent.
    """
    mark = folder.with_name(f".{folder.name}.ollama.json")
    last, name = _last(mark, sending), sending.model
    models = server.models()
    there = models.get(name.casefold())
    if there and last and last.checked and last.bundle == sending.bundle:
        if there != last.digest:
            notice(f"{name} was changed in Ollama since it was made; it is left as it is")
        return
    ours = last is not None and last.digest == there
    if there and not ours:
        if _is_it(server, sending):  # killed before it was written down
            _check(server, sending, mark, there, notice)
            return
        if keep:
            kept = next(each for each in (f"{name}-{n}" for n in count(1)) if each.casefold() not in models)
            server.copy(name, kept)
            notice(f"Ollama had another {name}; that one is now {kept}")
    _send(server, sending, notice)
    server.create(name, sending.wanted, sending.digest, lambda _: None)
    made = server.models().get(name.casefold())
    if made is None:
        raise StepError(f"says that it made {name} and does not have it", where=server.host)
    _check(server, sending, mark, made, notice)
    command = "ollama run" if server.host == HOST else f"OLLAMA_HOST={server.host} ollama run"
    notice(f"Ollama has it: {command} {name}")


def _send(server: Server, sending: Sending, notice: Callable[[str], None]) -> None:
    """Sends the file unless it is there. A run whose step did so has said how far it was."""
    if server.has(sending.digest):
        return
    told = [time.monotonic()]
    notice(f"sending {size(sending.wanted.file.stat().st_size)} to {server.host}")

    def tell(done: int, total: int) -> None:
        now = time.monotonic()
        if now - told[0] >= _EVERY:
            told[0] = now
            notice(f"sent {size(done)} of {size(total)}")

    server.send(sending.wanted.file, sending.digest, tell)


def _is_it(server: Server, sending: Sending) -> bool:
    """Whether the server holds just this model under the name, from the very file."""
    held = server.show(sending.model)
    return held.blob == sending.digest and not _different(sending, held)


def _check(server: Server, sending: Sending, mark: Path, digest: str, notice: Callable[[str], None]) -> None:
    """Writes down what was made, compares, and writes that down."""
    made = Made(sending.bundle, sending.host, sending.model, digest, sending.digest)
    write_text(mark, codec.dumps(made, indent=1) + "\n")
    held = server.show(sending.model)
    wrong = _different(sending, held)
    if wrong:
        raise StepError(
            f"made {sending.model}, but holds {'; '.join(wrong)}",
            where=server.host,
            hint=f"another version of Ollama (this is {server.version()}); ollama show {sending.model}",
        )
    more = sorted(held.parameters.keys() - sending.wanted.parameters.keys())
    if more:
        notice(f"Ollama adds parameters of its own: {shown(', '.join(more), 80)}")
    if held.blob not in (sending.digest, None):
        notice("Ollama keeps a copy of the model's file that it wrote itself, not the file that was sent")
    if sending.wanted.template is None and held.template != _own_template(sending):
        notice("the bundle has no template that Ollama could be given, and Ollama guesses one: compare its answers")
    made = evolve(
        made,
        server_blob=held.blob,
        template=hashlib.sha256(held.template.encode()).hexdigest(),
        system=hashlib.sha256(sending.wanted.system.encode()).hexdigest() if sending.wanted.system else None,
        version=server.version(),
        checked=True,
    )
    write_text(mark, codec.dumps(made, indent=1) + "\n")


def _different(sending: Sending, held: Held) -> list[str]:
    """Reads the GGUF's own template only where it matters: its tokens take a second."""
    wanted = sending.wanted
    as_sent = wanted.template is None or held.template == wanted.template
    return differences(wanted, held, held.template if as_sent else _own_template(sending))


def _own_template(sending: Sending) -> str:
    return read_gguf(sending.wanted.file).chat.template


def _last(mark: Path, sending: Sending) -> Made | None:
    """What was made last, when it was under this name on this server; a damaged record is none."""
    try:
        made = codec.loads(mark.read_bytes(), Made, where=str(mark))
    except (OSError, ArtifactError):
        return None
    return made if (made.host, made.model) == (sending.host, sending.model) else None
