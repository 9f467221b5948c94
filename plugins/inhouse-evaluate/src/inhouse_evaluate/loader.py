"""The child process that loads a model and measures it: ``python -P -m inhouse_evaluate.loader``.

One JSON job on the first line of stdin: {"runtime": {"use", "options", "files"}, "model": {"kind", "path"}, "target",
"text"}. stdout has one JSON object: {"load", "settings"} or {"error"}. stdin stays open as long as the parent lives.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from attrs import asdict

from inhouse import options
from inhouse.errors import InhouseError
from inhouse.plan import Answering, Chosen
from inhouse.plugins import Registry
from inhouse.sealed import seal
from inhouse.services import LiveServices
from inhouse.values import Artifact, Json, Target

from .load import measure_load, settings_of


def measured(job: Json) -> Json:
    """Opens the model and measures it. Raises what the runtime raises."""
    told, kind = job["runtime"], job["model"]["kind"]
    backend = Registry().get("runtime", told["use"])
    table = {**told["options"], **told["files"]}
    made = options.build(backend.spec.options, table, folder=Path("/"), path=backend.spec.name, where=str)
    runtimes = {kind: Chosen(backend, made)}
    answering = Answering(runtimes=runtimes, agent=None, tools={}, knowledge=None, target=Target(**job["target"]))
    with LiveServices(answering).engine(Artifact(kind, Path(job["model"]["path"]), "")) as engine:
        return {"load": asdict(measure_load(engine, job["text"])), "settings": settings_of(engine)}


def main() -> None:
    """Keeps stdout for the answer (what backends print goes to stderr), works, says one line, and is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow_parent, daemon=True).start()
    with suppress(OSError):  # where memory runs out, this process goes and no other of the user's (Linux)
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if os.environ.get("HF_HUB_OFFLINE") == "1":  # the parent is sealed
        seal()
    try:
        told = measured(job)
    except InhouseError as error:
        said = {key: getattr(error, key) for key in ("message", "where", "hint", "plugin")}
        told = {"error": {"kind": type(error).__name__, **said}}
    out.write(json.dumps(told) + "\n")
    out.flush()
    os._exit(0)


def _follow_parent() -> None:
    """Ends this process when the parent's end of stdin is gone."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
