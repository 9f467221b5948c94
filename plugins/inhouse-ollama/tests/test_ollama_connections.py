"""Connections that the server had kept and closes, and runs that end between the file and the model."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inhouse import InhouseError, Kernel
from inhouse.errors import StepError
from inhouse_ollama.server import Server

Run = Callable[..., list[str]]
CODE = (
    "import sys; from importlib.metadata import EntryPoint; from inhouse import Kernel, Recipe;"
    "from inhouse.plugins import Registry;"
    "points = [EntryPoint(n, m, 'inhouse') for n, m in"
    " (('core', 'inhouse.builtin'), ('ollama', 'inhouse_ollama'), ('parts', 'ollama_parts'))];"
    "Kernel(sys.argv[1], registry=Registry(points)).run(Recipe.load(sys.argv[2]))"
)


def kept(handler: Any) -> bool:
    """Whether this is not the first request of its connection."""
    handler.requests = getattr(handler, "requests", 0) + 1
    handler.server.kept = getattr(handler.server, "kept", 0) + (handler.requests > 1)
    return bool(handler.requests > 1)


def closed(handler: Any) -> bool:
    """Hangs up on requests over a connection that was kept, as a server that ends does; answers the others."""
    return not kept(handler)


def reset(handler: Any) -> bool:
    """The same, by a reset."""
    if kept(handler):
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    return True


def after_one(handler: Any) -> bool:
    """Closes after each answer and does not say so."""
    handler.close_connection = True
    return True


@pytest.mark.parametrize("ends", [closed, reset, after_one])
def test_a_server_that_closes_what_it_kept(kernel: Kernel, server: Any, run: Run, ends: Callable[[Any], bool]) -> None:
    for method in ("GET", "HEAD", "POST"):
        server.faults[method, "/api/"] = ends
    run()
    assert ends is after_one or server.kept >= 5  # or this would not be a test
    assert [each.name for each in server.manifests.iterdir()] == ["desk:latest"]
    assert server.count("POST", "/api/blobs/") == 1
    assert (kernel.home / "bundles" / "desk" / "Modelfile").is_file()


def test_a_new_connection_that_breaks_is_not_tried_for_ever(server: Any) -> None:
    server.faults["GET", "/api/version"] = lambda handler: False
    with Server(server.url) as asked, pytest.raises(StepError, match="the connection broke"):
        asked.version()
    assert server.count("GET", "/api/version") == 1


def test_a_file_that_arrived_whole_and_was_not_answered_is_sent_once(server: Any, run: Run) -> None:
    def unanswered(handler: Any) -> None:
        digest = handler.path.rpartition("/")[2]
        content = handler.rfile.read(int(handler.headers["Content-Length"]))
        (handler.server.blobs / digest.replace(":", "-")).write_bytes(content)

    server.faults["POST", "/api/blobs/"] = unanswered
    with pytest.raises(InhouseError, match="did not take the model's file: the connection broke"):
        run()
    server.faults.clear()
    run()
    assert server.count("POST", "/api/blobs/") == 1
    assert [each.name for each in server.manifests.iterdir()] == ["desk:latest"]


def test_a_step_that_ends_after_the_file_went_sends_it_once(server: Any, run: Run) -> None:
    heads = iter([True, False])  # asked before it goes, and after
    server.faults["HEAD", "/api/blobs/"] = lambda handler: next(heads) or handler.raw(500, b"")
    with pytest.raises(InhouseError, match="does not say what files it has"):
        run()
    server.faults.clear()
    run()
    assert server.count("POST", "/api/blobs/") == 1


@pytest.mark.parametrize(
    ("method", "path", "before"),
    [("HEAD", "/api/blobs/", 1), ("POST", "/api/create", 0)],
    ids=["before the step is committed", "before the model is made"],
)
def test_killed_after_the_file_went_sends_nothing_twice(
    kernel: Kernel, server: Any, run: Run, recipe_file: Path, method: str, path: str, before: int
) -> None:
    """``before``: how many such requests are answered until it is killed in one."""
    reached, killed = threading.Event(), threading.Event()
    answered: list[Any] = []

    def hold(handler: Any) -> bool:
        answered.append(handler)
        if len(answered) <= before:
            return True
        reached.set()
        killed.wait(120)
        return False

    server.faults[method, path] = hold
    child = subprocess.Popen(
        [sys.executable, "-c", CODE, str(kernel.home), str(recipe_file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert reached.wait(120)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
        killed.set()
    assert server.count("POST", "/api/blobs/") == 1
    assert [each.step for each in kernel.store.all()] == ["base"] + ["bundle"] * (method == "POST")
    server.faults.clear()
    run()
    assert server.count("POST", "/api/blobs/") == 1
    assert [each.name for each in server.manifests.iterdir()] == ["desk:latest"]
