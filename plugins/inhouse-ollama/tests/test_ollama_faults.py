"""A server that is not there, old, full, hostile or dies: one clear line, nothing half there, nothing sent twice."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inhouse import InhouseError, Kernel, Recipe
from inhouse.errors import DataError, Interrupted, RecipeError, ResourceError, StepError
from inhouse_ollama.guard import Guard
from inhouse_ollama.server import Server

Run = Callable[..., list[str]]
LARGE = "base.tiny.rows=8192"
"""A model of 32 MiB: more than fits between two processes."""


def fails(run: Run, *sets: str) -> InhouseError:
    with pytest.raises(InhouseError) as failed:
        run(*sets)
    text = str(failed.value)
    assert text.partition("\n  try: ")[0].isprintable(), text  # one line, nothing that a terminal acts on
    assert len(text) < 800
    return failed.value


def test_no_server_is_told_before_any_work(kernel: Kernel, run: Run) -> None:
    failed = fails(run, "bundle.ollama.host=http://127.0.0.1:9")
    assert isinstance(failed, ResourceError)
    assert "http://127.0.0.1:9: no Ollama answers there" in str(failed)
    assert "ollama serve" in str(failed.hint)
    assert kernel.store.all() == []


@pytest.mark.parametrize(("version", "fine"), [("0.5.4", False), ("0.5.5", True), ("0.0.0", True), ("v1.0-rc1", True)])
def test_versions(server: Any, version: str, fine: bool) -> None:
    server.version = version
    with Server(server.url) as asked:
        if fine:
            assert asked.version() == version
        else:
            with pytest.raises(ResourceError, match=r"is Ollama 0\.5\.4; 0\.5\.5 or newer .*\n.*newer Ollama"):
                asked.version()


@pytest.mark.parametrize(
    "body", [b"", b"Ollama is running", b"[1]", b"null", b'{"version"', b'{"a": 1}', b"\xff", b"[" * 100_000]
)
def test_garbage_for_a_version(server: Any, run: Run, body: bytes) -> None:
    server.faults["GET", "/api/version"] = lambda handler: handler.raw(200, body)
    assert "its answer is none of Ollama's" in str(fails(run))


@pytest.mark.parametrize(
    ("call", "path", "said"),
    [
        ("GET", "/api/version", "does not tell its version"),
        ("GET", "/api/tags", "does not list its models"),
        ("POST", "/api/blobs/", "did not take the model's file"),
        ("POST", "/api/create", "did not make desk:latest"),
        ("POST", "/api/show", "does not show desk:latest"),
    ],
)
@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b'{"error": "boom\\u001b[31m\\nbang"}', "boom [31m bang (HTTP 500)"),
        (500, b"[1]", "none of Ollama's"),
        (500, b'{"error": {"a": [1]}}', "{'a': [1]} (HTTP 500)"),
        (403, b"", "it gives no reason (HTTP 403)"),
        (500, b"x" * 100_000, "xxx… (HTTP 500)"),
        (302, b"", "a redirect, which is not followed"),
    ],
)
def test_refused(server: Any, run: Run, call: str, path: str, said: str, status: int, body: bytes, reason: str) -> None:
    def fault(handler: Any) -> None:
        if path == "/api/blobs/":
            handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.raw(status, body, Location="http://127.0.0.1:9/elsewhere")

    server.faults[call, path] = fault
    failed = str(fails(run))
    assert server.url in failed
    assert f"{said}: " in failed
    assert reason in failed


def test_a_redirect_is_not_followed(server: Any, run: Run, tmp_path: Path) -> None:
    from ollama_server import serving  # type: ignore[import-not-found]

    with serving(tmp_path / "other") as other:
        for status in (301, 302, 307, 308):
            for method in ("GET", "HEAD", "POST"):
                server.faults[method, "/api/"] = lambda handler, status=status: handler.raw(
                    status, b"", Location=other.url + handler.path
                )
            assert "a redirect, which is not followed" in str(fails(run))
        assert other.asked == []


def test_a_full_disk_is_told_with_what_to_do(server: Any, run: Run) -> None:
    def full(handler: Any) -> None:
        handler.rfile.read(1 << 20)
        handler.raw(500, b'{"error": "write models/blobs/x: no space left on device"}')
        handler.connection.shutdown(socket.SHUT_WR)  # Go reads on for a while, so that what it said arrives
        while handler.rfile.read(1 << 20):
            pass

    server.faults["POST", "/api/blobs/"] = full
    failed = fails(run, LARGE)
    assert "no space left on device" in str(failed)
    assert "make room on the server" in str(failed.hint)


def test_an_error_in_the_middle_of_making(kernel: Kernel, server: Any, run: Run) -> None:
    server.faults["POST", "/api/create"] = lambda handler: handler.lines(
        [{"status": "parsing GGUF"}, {"error": "unsupported architecture"}]
    )
    assert "did not make desk:latest: unsupported architecture" in str(fails(run))
    assert (kernel.home / "bundles" / "desk" / "Modelfile").is_file()  # the folder is there all the same
    server.faults.clear()
    run()
    assert server.count("POST", "/api/blobs/") == 1


@pytest.mark.parametrize("rows", [[], [{"status": "parsing GGUF"}], [{"status": "success"}, {"status": "so-so"}]])
def test_a_making_without_success(server: Any, run: Run, rows: list[dict[str, Any]]) -> None:
    server.faults["POST", "/api/create"] = lambda handler: handler.lines(rows)
    assert "stopped while it made desk:latest" in str(fails(run))


def test_says_that_it_made_what_it_has_not(server: Any, run: Run) -> None:
    server.faults["POST", "/api/create"] = lambda handler: handler.lines([{"status": "success"}])
    assert "does not have it" in str(fails(run))


def test_says_that_it_took_what_it_has_not(server: Any, run: Run) -> None:
    server.faults["POST", "/api/blobs/"] = lambda handler: (
        handler.rfile.read(int(handler.headers["Content-Length"])) and handler.raw(201, b"", Connection="close")
    )
    assert "took the model's file and does not have it" in str(fails(run))


def test_another_digest(server: Any, run: Run) -> None:
    def other(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.json(400, {"error": 'digest mismatch, expected "sha256:a", got "sha256:b"'})

    server.faults["POST", "/api/blobs/"] = other
    assert "did not take the model's file: digest mismatch" in str(fails(run))


def test_a_file_that_changed_on_the_disk(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with Server(server.url) as asked, pytest.raises(DataError, match="has changed since it was made"):
        asked.send(path, "0" * 64, lambda done, total: None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"template": "{{ .Prompt }}"}, "holds another template: '{{ .Prompt }}'"),
        ({"template": None}, "another template"),
        ({"modelfile": "FROM x"}, "not the system message"),
        ({"parameters": "num_ctx 512\ntemperature 0"}, "stop not set instead of <|im_end|>"),
        ({"parameters": 'stop "<|im_end|>"\nnum_ctx 2048\ntemperature 0'}, "num_ctx 2048 instead of 512"),
        ({"parameters": 'stop "<|im_end|>"\nnum_ctx a\x1b\ntemperature 0'}, "num_ctx a instead of 512"),
        ({"parameters": None}, "temperature not set instead of 0"),
    ],
)
def test_a_server_that_holds_something_else(
    kernel: Kernel, server: Any, run: Run, changed: dict[str, Any], said: str
) -> None:
    server.shows = lambda answer: {**answer, **changed}
    assert said in str(fails(run))
    fails(run)  # and again: it is not taken for a model that somebody else made
    assert [each.name for each in server.manifests.iterdir()] == ["desk:latest"]
    server.shows = lambda answer: answer
    run()
    assert json.loads((kernel.home / "bundles" / ".desk.ollama.json").read_text())["checked"] is True


@pytest.mark.parametrize("path", ["/api/show", "/api/create", "/api/tags", "/api/version"])
def test_answers_without_end(server: Any, run: Run, path: str) -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:  # until the other side hangs up
            handler.wfile.write(b'{"status": "x"}\n' * 4096 if path == "/api/create" else b" " * 65536)

    for method in ("GET", "POST"):
        server.faults[method, path] = endless
    assert "gives an answer that has no end" in str(fails(run))


def test_an_answer_that_takes_for_ever(server: Any) -> None:
    def slow(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.01)

    server.faults["GET", "/api/version"] = slow
    with Server(server.url, guard=Guard(server.url, slowest=0.2)) as asked, pytest.raises(StepError, match="too long"):
        asked.version()


def test_silence(server: Any) -> None:
    done = threading.Event()
    server.faults["GET", "/api/version"] = lambda handler: done.wait(30) and None
    with Server(server.url, patience=0.2) as asked, pytest.raises(StepError, match="it says nothing any more"):
        asked.version()
    done.set()


def test_a_packed_answer_is_refused(server: Any, run: Run) -> None:
    bomb = gzip.compress(bytes(1 << 20))
    server.faults["POST", "/api/show"] = lambda handler: handler.raw(200, bomb, Content_Encoding="gzip")
    assert "answers packed" in str(fails(run))
    assert {each["accept-encoding"] for each in server.headers} == {"identity"}


def test_a_server_that_dies_while_the_file_comes(kernel: Kernel, server: Any, run: Run) -> None:
    def dies(handler: Any) -> None:
        handler.rfile.read(1000)

    server.faults["POST", "/api/blobs/"] = dies
    failed = fails(run, LARGE)
    assert "did not take the model's file: the connection broke" in str(failed)
    assert "same command again" in str(failed.hint)
    assert list(server.blobs.iterdir()) == []
    server.faults.clear()
    run(LARGE)
    assert [each.name for each in server.manifests.iterdir()] == ["desk:latest"]


def test_stopped_while_the_file_goes(server: Any, run: Run) -> None:
    cancel = threading.Event()

    def stop(handler: Any) -> bool:
        cancel.set()
        return True

    server.faults["POST", "/api/blobs/"] = stop
    with pytest.raises(Interrupted):
        run(LARGE, cancel=cancel)
    deadline = time.monotonic() + 30
    while any(server.blobs.iterdir()) and time.monotonic() < deadline:  # the server drops what came
        time.sleep(0.01)
    assert list(server.blobs.iterdir()) == []


def test_only_the_host_of_the_recipe(server: Any, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ollama_server import serving  # type: ignore[import-not-found]

    with serving(tmp_path / "other") as other:
        for name in ("OLLAMA_HOST", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, other.url)
        monkeypatch.setenv("OLLAMA_API_KEY", "secret")
        monkeypatch.setenv("NO_PROXY", "")
        run()
        assert other.asked == []
    assert not any("authorization" in each for each in server.headers)


def test_the_guard_keeps_to_one_host(server: Any) -> None:
    import httpx

    with httpx.Client(transport=Guard("http://127.0.0.1:9")) as client, pytest.raises(StepError, match="stopped"):
        client.get(server.url)
    assert server.asked == []


def test_another_machine_needs_the_recipes_word() -> None:
    code = (
        "from inhouse.sealed import seal; seal()\n"
        "from inhouse_ollama.server import Server\n"
        "Server('http://192.0.2.1:11434', patience=5).version()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RecipeError: something tried to reach 192.0.2.1, and the recipe allows no network" in done.stderr
    assert "--set run.network=true" in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("host", "127.0.0.1:11434", "must be an address"),
        ("host", "ftp://127.0.0.1", "must be an address"),
        ("host", "http://", "must be an address"),
        ("host", "http://a b", "must be an address"),
        ("host", "http://x:99999", "must be an address"),
        ("host", "http://me:pass@x", "no name, password"),
        ("host", "http://x/?a=1", "no name, password"),
        ("model", "a b", "must be a name that Ollama takes"),
        ("model", "../x", "must be a name that Ollama takes"),
        ("model", "a:b:c", "must be a name that Ollama takes"),
        ("keep", "1", "is no bool"),
    ],
)
def test_wrong_options_are_told_with_their_place(
    kernel: Kernel, recipe_file: Path, key: str, value: str, said: str
) -> None:
    with pytest.raises(RecipeError) as failed:
        kernel.plan(Recipe.load(recipe_file, set=[f"bundle.ollama.{key}={value}"], environment={}))
    assert said in str(failed.value)
    assert f"bundle.ollama.{key}" in str(failed.value)


def test_a_recipe_whose_name_ollama_does_not_take(server: Any, run: Run) -> None:
    failed = fails(run, "name=the desk")
    assert isinstance(failed, RecipeError)
    assert "the name 'the desk'" in str(failed)
    assert server.count("POST", "/api/blobs/") == 0
    run("name=the desk", "bundle.ollama.model=desk")
