"""What every request to the server goes through: one host, no credentials of the environment, bounded answers.

A server may be hostile or broken: its answers have at most ``LONGEST`` bytes, as they come over the wire and not
packed, and at most ``SLOWEST`` seconds. A redirect is an answer like any other and is not followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx

from inhouse.errors import StepError

LONGEST = 16 << 20
"""Bytes of one answer. That of /api/show names every tensor: some hundred kB."""

SLOWEST = 3600.0
"""Seconds of one answer. Making a model copies its file on some versions of Ollama."""

_OPENED = "connection.connect_tcp.started"
"""httpcore's name of the event, which a connection that was kept does not have."""

Tell = Callable[[int], None]
"""Called with the bytes of a request's body that were handed on so far; what it raises ends the request."""


class Guard(httpx.BaseTransport):
    """A transport to ``host`` (``http://NAME:PORT``) alone."""

    def __init__(self, host: str, *, longest: int = LONGEST, slowest: float = SLOWEST) -> None:
        self.tell: Tell | None = None
        self._host = host
        self._origin = _origin(httpx.URL(host))
        self._longest = longest
        self._slowest = slowest
        self._inner = httpx.HTTPTransport(trust_env=False)
        self._unkept = httpx.HTTPTransport(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends it. Raises ``StepError`` for another host and for an answer that is packed, too long or too slow."""
        if _origin(request.url) != self._origin:
            raise StepError(f"a request to {request.url.host} instead was stopped", where=self._host)
        request.headers.pop("authorization", None)  # the client takes OLLAMA_API_KEY, which is no recipe's word
        request.headers["accept-encoding"] = "identity"
        if self.tell and isinstance(request.stream, httpx.SyncByteStream):
            request.stream = _Told(request.stream, self.tell)
        response = self._answer(request)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            raise StepError("answers packed, although it was asked not to", where=self._host)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Bounded(response.stream, self._host, self._longest, time.monotonic() + self._slowest)
        return response

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()
        self._unkept.close()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        """A server that ends, or is started again, closes the connections that it had kept open, maybe just while one
        is written to. What got no answer there is sent once more over a new one: no call of Ollama's that is used
        here does more when it comes twice. A file can be read once only, so it never goes over a kept connection.
        """
        if not isinstance(request.stream, httpx.ByteStream):
            return self._unkept.handle_request(request)
        while True:
            seen: list[str] = []
            request.extensions = {**request.extensions, "trace": lambda name, _, seen=seen: seen.append(name)}
            try:
                return self._inner.handle_request(request)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                if _OPENED in seen:
                    raise


class _Told(httpx.SyncByteStream):
    """A request's body that says how far it is."""

    def __init__(self, stream: httpx.SyncByteStream, tell: Tell) -> None:
        self._stream = stream
        self._tell = tell

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        for block in self._stream:
            yield block
            done += len(block)
            self._tell(done)

    def close(self) -> None:
        self._stream.close()


class _Bounded(httpx.SyncByteStream):
    """An answer's body that ends in an error when it does not end."""

    def __init__(self, stream: httpx.SyncByteStream, host: str, longest: int, until: float) -> None:
        self._stream = stream
        self._host = host
        self._left = longest
        self._until = until

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            self._left -= len(block)
            if self._left < 0:
                raise StepError("gives an answer that has no end", where=self._host)
            if time.monotonic() > self._until:
                raise StepError("takes too long over one answer", where=self._host)
            yield block

    def close(self) -> None:
        self._stream.close()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
