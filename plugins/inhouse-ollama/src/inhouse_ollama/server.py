"""An Ollama server over its HTTP API, through the official client where that has the call.

What goes wrong is one line that names the server: not there, too old, refused (with what it said), broken off, or
no answer of Ollama's. https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import ollama

from inhouse.errors import DataError, InhouseError, RecipeError, ResourceError, StepError

from .guard import Guard
from .held import Held, read_held
from .modelfile import Wanted
from .words import shown

OLDEST = (0, 5, 5)
"""The first version that makes a model from ``files``."""

_MISSING = 404
_REDIRECTS = range(300, 400)
_NOT_OLLAMA = (ValueError, TypeError, KeyError, AttributeError, RecursionError, httpx.InvalidURL)
"""What the client raises over an answer of another form; no class of its own wraps these."""


class Server:
    """A server at ``host`` (``http://NAME:PORT``); a context manager.

    ``patience`` is in seconds: to connect at most ten of them, and for each silence of the server.
    """

    def __init__(self, host: str, *, patience: float = 300.0, guard: Guard | None = None) -> None:
        self.host = host
        try:
            self._guard = guard or Guard(host)
        except httpx.InvalidURL as error:
            raise RecipeError(f"is no address: {error}", where=host) from error
        shared: dict[str, Any] = {
            "transport": self._guard,
            "timeout": httpx.Timeout(patience, connect=min(patience, 10.0)),
            "follow_redirects": False,
            "trust_env": False,
        }
        self._client = ollama.Client(host, **shared)
        self._plain = httpx.Client(base_url=host, **shared)

    def version(self) -> str:
        """The server's. Raises ``ResourceError`` when it is not there or too old to make a model from a file."""
        with self._talking("does not tell its version"):
            said = str(self._get("/api/version")["version"])
        numbers = tuple(int(each) for each in re.findall(r"\d+", said)[:3])
        if (0, 0, 0) < numbers < OLDEST:  # a build without a version says 0.0.0
            raise ResourceError(
                f"is Ollama {shown(said, 40)}; {'.'.join(map(str, OLDEST))} or newer makes a model from a file",
                where=self.host,
                hint="install a newer Ollama, https://ollama.com/download",
            )
        return shown(said, 40)

    def models(self) -> dict[str, str]:
        """Digests of the models that are there by name with tag, names in lower case: Ollama tells no case apart."""
        with self._talking("does not list its models"):
            listed = self._client.list().models
            return {str(each.model).casefold(): str(each.digest) for each in listed}

    def has(self, digest: str) -> bool:
        """Whether a file of this SHA-256 is there."""
        with self._talking("does not say what files it has"):
            answer = self._plain.head(f"/api/blobs/sha256:{digest}")
        if answer.status_code == httpx.codes.OK:
            return True
        if answer.status_code == _MISSING:
            return False
        raise self._refused("does not say what files it has", answer.status_code, "")

    def send(self, path: Path, digest: str, tell: Callable[[int, int], None]) -> None:
        """Sends a file of SHA-256 ``digest``, from the disk in blocks; ``tell(done, total)`` in bytes.

        Raises ``StepError``, ``DataError`` when the file is not what it was, and what ``tell`` raises.
        """
        total = path.stat().st_size
        self._guard.tell = lambda done: tell(done, total)
        try:
            with self._talking("did not take the model's file"):
                sent = self._client.create_blob(path)
        finally:
            self._guard.tell = None
        if sent != f"sha256:{digest}":
            raise DataError("has changed since it was made", where=str(path), hint="inhouse artifacts --verify")
        if not self.has(digest):
            raise StepError("took the model's file and does not have it", where=self.host)

    def create(self, name: str, wanted: Wanted, digest: str, told: Callable[[str], None]) -> None:
        """Makes or replaces a model from a file that was sent; ``told`` is called with each thing the server does."""
        last = ""
        with self._talking(f"did not make {name}"):
            for each in self._client.create(
                model=name,
                files={wanted.file.name: f"sha256:{digest}"},
                template=wanted.template,
                system=wanted.system,
                parameters=wanted.parameters,
                stream=True,
            ):
                last = str(each.status)
                told(shown(last, 80))
        if last != "success":
            raise StepError(f"stopped while it made {name}: {shown(last) or 'it said nothing'}", where=self.host)

    def show(self, name: str) -> Held:
        """What the server holds under a name."""
        with self._talking(f"does not show {name}"):
            answer = self._client.show(name)
            return read_held(answer.template, answer.modelfile, answer.parameters)

    def copy(self, source: str, destination: str) -> None:
        """One model under a second name; its files are not copied."""
        with self._talking(f"did not copy {source}"):
            self._client.copy(source, destination)

    def close(self) -> None:
        """Closes the connections."""
        self._plain.close()
        self._guard.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str) -> Mapping[str, Any]:
        answer = self._plain.get(path)
        if answer.status_code != httpx.codes.OK:
            raise ollama.ResponseError(answer.text, answer.status_code)
        found: Mapping[str, Any] = answer.json()
        return found

    @contextmanager
    def _talking(self, failed: str) -> Iterator[None]:
        """Typed errors for all that can go wrong in a call; ``failed`` says what did not come about."""
        try:
            yield
        except InhouseError:
            raise
        except ollama.ResponseError as error:
            raise self._refused(failed, error.status_code, error.error) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
            raise self._not_there() from error
        except httpx.TimeoutException as error:
            raise StepError(f"{failed}: it says nothing any more", where=self.host, hint=_AGAIN) from error
        except httpx.HTTPError as error:
            raise StepError(f"{failed}: the connection broke", where=self.host, hint=_AGAIN) from error
        except _NOT_OLLAMA as error:
            raise StepError(f"{failed}: its answer is none of Ollama's", where=self.host, hint=_WRONG) from error

    def _refused(self, failed: str, status: int, said: object) -> StepError:
        if status in _REDIRECTS:
            return StepError(
                f"{failed}: it answers with a redirect, which is not followed", where=self.host, hint=_WRONG
            )
        text = shown(said) or "it gives no reason"
        code = f" (HTTP {status})" if status > 0 else ""
        full = "no space left" in text.lower() or "not enough space" in text.lower()
        hint = "make room on the server: ollama rm MODEL" if full else None
        return StepError(f"{failed}: {text}{code}", where=self.host, hint=hint)

    def _not_there(self) -> ResourceError:
        return ResourceError(
            "no Ollama answers there",
            where=self.host,
            hint='ollama serve  (or another bundle.ollama.host; bundle.use = "folder" needs no server)',
        )


_AGAIN = "run the same command again; a file that the server has is not sent twice"
_WRONG = "bundle.ollama.host = the address of an Ollama server"
