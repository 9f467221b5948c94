"""Work on a disk that gets full: a tmpfs in a mount namespace of its own, where the system allows one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

MOUNT = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && exec "$3" -c "$4" "$2"'

LEAVE = '''
import os, sys
from pathlib import Path

disk = Path(sys.argv[1])

def leave(free):
    """Fills the disk up to ``free`` bytes."""
    (disk / "ballast").unlink(missing_ok=True)
    found = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - free)
'''


def on_a_small_disk(code: str, folder: Path, *, megabytes: int) -> None:
    """Runs ``code``, for which ``disk`` is an empty disk of so many MB at ``folder``, and ``leave(free)`` fills it."""
    if not _may_mount():
        pytest.skip("no user namespaces with mounts here")
    folder.mkdir()
    text = LEAVE + textwrap.dedent(code)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNT, "sh", f"{megabytes}m", str(folder), sys.executable, text],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@cache
def _may_mount() -> bool:
    tried = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
