"""No network without the recipe's word: an audit hook refuses what is not this machine."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

from inhouse.errors import RecipeError

_ADDRESSED = ("socket.connect", "socket.sendto", "socket.sendmsg")
_EVENTS = (*_ADDRESSED, "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def seal() -> None:
    """From here on this process reaches no other machine; child processes are told to stay offline too.

    Python code that tries gets a ``RecipeError``. It cannot be undone (PEP 578); the command line calls it
    before a recipe that does not say ``[run] network = true``.
    """
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    address = arguments[-1] if event in _ADDRESSED else arguments[0]
    if isinstance(address, (str, bytes)) and event in _ADDRESSED:
        return  # a Unix socket
    host = address[0] if isinstance(address, tuple) else address
    if host is not None and not _local(host.decode() if isinstance(host, bytes) else str(host)):
        raise RecipeError(
            f"something tried to reach {host}, and the recipe allows no network", hint="--set run.network=true"
        )


def _local(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
