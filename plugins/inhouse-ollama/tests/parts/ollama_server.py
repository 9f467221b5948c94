"""A server that speaks Ollama's HTTP API: what docs/api.md says of the calls that make, show and list models.

It keeps files by the digest of the bytes that came and refuses others, refuses a model whose file it has not, shows
parameters and Modelfile in the form in which Ollama's server/routes.go writes them, and says what it was asked.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BLOCK = 1 << 16


class Ollama(http.server.ThreadingHTTPServer):
    """Keeps files and models in ``folder``; ``asked`` is a list of (method, path), ``bodies`` those of /api/create.

    ``faults``: for (method, beginning of the path) a function that is called with the handler in place of the
    answer; when it returns true the answer is given all the same.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.blobs = folder / "blobs"
        self.manifests = folder / "manifests"
        for each in (self.blobs, self.manifests):
            each.mkdir(parents=True, exist_ok=True)
        self.version = "0.12.3"
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.faults: dict[tuple[str, str], Callable[[Handler], bool | None]] = {}
        self.shows: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, method: str, path: str) -> int:
        return sum(each == method and where.startswith(path) for each, where in self.asked)

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no error of the test."""


@contextmanager
def serving(folder: Path) -> Iterator[Ollama]:
    with Ollama(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Refused(Exception):
    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Ollama

    def handle_one(self) -> None:
        self.server.asked.append((self.command, self.path))
        self.server.headers.append({key.lower(): value for key, value in self.headers.items()})
        self.read = b""
        if not self.path.startswith("/api/blobs/"):
            self.read = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for (method, path), fault in self.server.faults.items():
            if self.command == method and self.path.startswith(path) and not fault(self):
                self.close_connection = True
                return
        try:
            self._answer()
        except Refused as refused:
            self.json(refused.status, {"error": str(refused)})

    do_GET = do_HEAD = do_POST = do_DELETE = handle_one

    def _answer(self) -> None:
        blob = re.fullmatch(r"/api/blobs/(.+)", self.path)
        calls = {
            ("GET", "/api/version"): lambda: self.json(200, {"version": self.server.version}),
            ("GET", "/api/tags"): self.tags,
            ("POST", "/api/create"): self.create,
            ("POST", "/api/show"): self.show,
            ("POST", "/api/copy"): self.copy,
            ("POST", "/api/chat"): self.chat,
            ("DELETE", "/api/delete"): self.delete,
        }
        if blob:
            self.blob(blob[1])
        elif (self.command, self.path) in calls:
            calls[self.command, self.path]()
        else:
            raise Refused(404, "404 page not found")

    # --- answers -----------------------------------------------------------------------------------

    def raw(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, status: int, data: Any) -> None:
        self.raw(status, json.dumps(data).encode())

    def lines(self, rows: list[dict[str, Any]]) -> None:
        """One JSON object a line, chunked, as gin streams."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for row in rows:
            line = json.dumps(row).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass

    # --- requests ----------------------------------------------------------------------------------

    def body(self) -> dict[str, Any]:
        try:
            found = json.loads(self.read)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        return found if isinstance(found, dict) else {}

    def blob(self, digest: str) -> None:
        if not DIGEST.fullmatch(digest):
            raise Refused(400, "invalid digest format")
        path = self.server.blobs / digest.replace(":", "-")
        if self.command == "HEAD":
            self.raw(200 if path.exists() else 404, b"")
            return
        if path.exists():
            self.close_connection = True  # its body is not read
            self.raw(200, b"")
            return
        aside, found, left = path.with_suffix(f".{id(self)}"), hashlib.sha256(), int(self.headers["Content-Length"])
        with aside.open("wb") as stream:
            while left and (block := self.rfile.read(min(BLOCK, left))):
                found.update(block)
                stream.write(block)
                left -= len(block)
        got = f"sha256:{found.hexdigest()}"
        if left or got != digest:
            aside.unlink()
            raise Refused(400, f'digest mismatch, expected "{digest}", got "{got}"')
        aside.rename(path)
        self.raw(201, b"")

    def create(self) -> None:
        asked = self.body()
        self.server.bodies.append(asked)
        if not asked.get("files"):
            raise Refused(400, "neither 'from' or 'files' was specified")
        ((_, digest),) = asked["files"].items()
        file = self.server.blobs / str(digest).replace(":", "-")
        if not DIGEST.fullmatch(str(digest)) or not file.exists():
            raise Refused(400, f"open {file}: no such file or directory")
        if file.read_bytes()[:4] != b"GGUF":
            raise Refused(400, "supplied file was not in GGUF format")
        if asked.get("template", "").count("{{") != asked.get("template", "").count("}}"):
            raise Refused(400, "template error: unexpected EOF")
        kept = {key: asked[key] for key in ("template", "system", "parameters") if asked.get(key)}
        text = json.dumps({"digest": digest, **kept}, sort_keys=True)
        self.place(asked["model"]).write_text(text)
        rows = [
            {"status": each}
            for each in ("parsing GGUF", f"using existing layer {digest}", "writing manifest", "success")
        ]
        if asked.get("stream") is False:
            self.json(200, rows[-1])
        else:
            self.lines(rows)

    def show(self) -> None:
        name, found = self.found(self.body().get("model", ""))
        rows = [
            (key, each)
            for key, value in found.get("parameters", {}).items()
            for each in (value if isinstance(value, list) else [value])
        ]
        file = self.server.blobs / found["digest"].replace(":", "-")
        template = found.get("template", "{{ .Prompt }}")
        modelfile = [
            f'# Modelfile generated by "ollama show"\n# FROM {name}\n\nFROM {file}',
            f"TEMPLATE {_quoted(template)}",
        ]
        if "system" in found:
            modelfile.append(f"SYSTEM {_quoted(found['system'])}")
        modelfile += [f"PARAMETER {key} {_quoted(str(value))}" for key, value in rows]
        answer = {
            "modelfile": "\n".join(modelfile) + "\n",
            "parameters": "\n".join(f"{key:<30} {json.dumps(value)}" for key, value in rows),
            "template": template,
            "details": {"format": "gguf", "family": "llama", "families": ["llama"], "quantization_level": "F32"},
            "model_info": {"general.architecture": "llama", "tokenizer.ggml.tokens": []},
            "capabilities": ["completion"],
            "modified_at": "2026-01-02T03:04:05.123456789Z",
            **({"system": found["system"]} if "system" in found else {}),
        }
        self.json(200, self.server.shows(answer))

    def tags(self) -> None:
        self.json(200, {"models": [
            {
                "name": _name(path), "model": _name(path), "modified_at": "2026-01-02T03:04:05.123456789Z", "size": 1,
                "digest": hashlib.sha256(path.read_bytes()).hexdigest(), "details": {"format": "gguf"},
            }
            for path in sorted(self.server.manifests.iterdir())
        ]})  # fmt: skip

    def copy(self) -> None:
        asked = self.body()
        _, found = self.found(asked.get("source", ""))
        self.place(asked["destination"]).write_text(json.dumps(found, sort_keys=True))
        self.raw(200, b"")

    def delete(self) -> None:
        name, _ = self.found(self.body().get("model", ""))
        self.place(name).unlink()
        self.raw(200, b"")

    def chat(self) -> None:
        """Echoes what was said last; no model runs here."""
        asked = self.body()
        name, found = self.found(asked.get("model", ""))
        said = [each["content"] for each in asked["messages"]]
        text = f"{found.get('system', '')}|{said[-1]}"
        message = {"role": "assistant", "content": text}
        self.json(200, {"model": name, "message": message, "done": True, "created_at": "2026-01-02T03:04:05Z"})

    def place(self, name: str) -> Path:
        if not re.fullmatch(r"(\w[\w-]*/)?\w[\w.-]*(:\w[\w.-]*)?", name):
            raise Refused(400, "invalid model name")
        return self.server.manifests / (name if ":" in name else f"{name}:latest").replace("/", "%")

    def found(self, name: str) -> tuple[str, dict[str, Any]]:
        path = self.place(name)
        if not path.exists():
            raise Refused(404, f"model '{name}' not found")
        return _name(path), json.loads(path.read_text())


def _name(path: Path) -> str:
    return path.name.replace("%", "/")


def _quoted(text: str) -> str:
    """As parser.go's ``quote``."""
    if "\n" in text or text != text.strip(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text
