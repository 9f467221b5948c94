"""Sealed off the network: this machine is reachable, no other is. In a child: a seal cannot be undone."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def sealed(code: str) -> subprocess.CompletedProcess[str]:
    text = "import socket\nfrom inhouse.sealed import seal\nseal()\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('192.0.2.1', 80), timeout=5)",
        "socket.socket().connect(('192.0.2.1', 80))",
        "socket.socket().connect_ex(('192.0.2.1', 80))",
        "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
        "socket.getaddrinfo('pypi.org', 443)",
        "socket.getaddrinfo(b'pypi.org', 443)",
        "socket.gethostbyname('pypi.org')",
        "socket.gethostbyaddr('192.0.2.1')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
        "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')",
        "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
    ],
)
def test_another_machine_is_refused_with_what_to_type(code: str) -> None:
    made = sealed(code)
    assert made.returncode == 1
    assert "and the recipe allows no network\n  try: --set run.network=true" in made.stderr


def test_this_machine_is_reachable() -> None:
    made = sealed(
        """
        import asyncio, os, tempfile
        server = socket.create_server(("127.0.0.1", 0))
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1]), timeout=10).close()
        socket.getaddrinfo(None, 80)
        path = os.path.join(tempfile.mkdtemp(), "s")
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(path)
        unix.listen()
        socket.socket(socket.AF_UNIX).connect(path)
        asyncio.run(asyncio.sleep(0))
        a, b = socket.socketpair()
        a.sendmsg([b"x"])
        print(b.recv(1))
        """
    )
    assert (made.returncode, made.stdout) == (0, "b'x'\n"), made.stderr


def test_children_are_told_to_stay_offline() -> None:
    code = "import os, subprocess, sys\nprint(os.environ['HF_HUB_OFFLINE'], os.environ['TRANSFORMERS_OFFLINE'])"
    assert sealed(code).stdout == "1 1\n"
