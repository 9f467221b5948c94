"""The child process: parses the files that it is handed, one after the other, within its limits.

Over stdin, a Unix socket: a JSON object with ``kind``, and the open file with it. Over stdout: one line of JSON each,
as ``inhouse_documents.parsed`` writes it; the first one says that it is ready. Before it, ``{"page": 3, "of": 9}`` may
come any number of times. No pickle, no path.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

from inhouse_documents.decode import clean, one_line
from inhouse_documents.limits import Limits, allow_seconds, confine
from inhouse_documents.parsed import Parsed, Refused, dumps

Tell = Callable[[int, int], None]
Parse = Callable[[BinaryIO, int, Tell], Parsed | Refused]
TOLD = 0.2  # seconds between two lines about pages


def main() -> None:
    """Serves until the parent is gone."""
    limits = Limits(**json.loads(sys.argv[1]))
    link = socket.socket(fileno=0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    logging.disable()
    parsers = _parsers()
    confine(limits)
    _say(answers, Parsed("ready"))
    while True:
        message, handles, _, _ = socket.recv_fds(link, 4096, 1)
        if not message:
            return
        allow_seconds(limits.seconds)
        with os.fdopen(handles[0], "rb") as stream:
            stream.seek(0)  # the place is shared with the parent, which has read it
            result = _result(parsers[json.loads(message)["kind"]], stream, limits, _teller(answers, limits))
        _say(answers, result)


def _parsers() -> Mapping[str, Parse]:
    """All there are, imported before the limits hold."""
    from inhouse_documents import docx, html, pdf

    return {"pdf": pdf.parse, "docx": docx.parse, "html": html.parse}


def _teller(answers: BinaryIO, limits: Limits) -> Tell:
    """Says on which page it is; the first time it takes the seconds that a file of so many pages has."""
    last = 0.0

    def tell(page: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if last == 0:
            allow_seconds(limits.allowed(of))
        if now - last >= TOLD:
            last = now
            answers.write(json.dumps({"page": page, "of": of}).encode() + b"\n")
            answers.flush()

    return tell


def _result(parse: Parse, stream: BinaryIO, limits: Limits, tell: Tell) -> Parsed | Refused:
    try:
        result = parse(stream, limits.unpacked, tell)
    except MemoryError:
        return Refused("memory", f"takes more than {limits.memory >> 20} MiB of memory to parse", lasting=False)
    except RecursionError:
        return Refused("unreadable", "is nested too deeply")
    except Exception as error:  # a damaged file can raise anything in a parser
        said = one_line(clean(str(error))[0])
        return Refused("unreadable", f"cannot be parsed: {type(error).__name__}: {said}".rstrip(": "))
    if isinstance(result, Parsed) and len(result.text) > limits.unpacked:
        return Refused("too-large", f"has more than {limits.unpacked:,} characters of text")
    return result


def _say(answers: BinaryIO, result: Parsed | Refused) -> None:
    answers.write(dumps(result))
    answers.flush()


if __name__ == "__main__":
    main()
