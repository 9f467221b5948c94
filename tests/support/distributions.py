"""Distributions made on the spot: in memory, as folders on PYTHONPATH, and as wheels that pip installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path

from inhouse.plugins import Registry

TESTS = Path(__file__).resolve().parents[1]
CONSOLE = Path(sys.executable).with_name("inhouse")


class MemoryDistribution(Distribution):
    """A distribution that is only a name, a version and its entry points in group ``inhouse``."""

    def __init__(self, name: str, points: Mapping[str, str], version: str = "1.0") -> None:
        lines = "\n".join(f"{key} = {value}" for key, value in points.items())
        self._texts = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "entry_points.txt": f"[inhouse]\n{lines}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._texts.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:  # type: ignore[override]
        return Path(path)


def points(modules: Mapping[str, str]) -> list[EntryPoint]:
    """One entry point for each distribution name, loading the module given for it."""
    return [each for name, module in modules.items() for each in MemoryDistribution(name, {name: module}).entry_points]


def registry(modules: Mapping[str, str] | None = None) -> Registry:
    """A registry of the core's own plugin, the fakes, and plugin modules by distribution name."""
    return Registry(points({"inhouse": "inhouse.builtin", "fakes": "support.fakes", **(modules or {})}))


def write_distribution(
    target: Path, name: str, entry_points: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> None:
    """A folder for PYTHONPATH with what pip would leave: metadata, and ``modules`` by name as files."""
    info = target / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{key} = {value}" for key, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[inhouse]\n{lines}\n")
    for module, text in (modules or {}).items():
        (target / f"{module}.py").write_text(text)


def install_fakes(target: Path) -> None:
    """The fakes as an installed plugin; needs ``tests`` on PYTHONPATH, which ``environment`` gives."""
    write_distribution(target, "fakes", {"fakes": "support.fakes"})


def build_wheel(folder: Path, into: Path) -> Path:
    """Builds a project folder's wheel from a copy of it, with no network."""
    source = into / f"{folder.name}-source"
    shutil.copytree(folder, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    made = subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(into), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = into.glob("*.whl")
    return wheel


def install(wheels: Iterable[Path], target: Path) -> None:
    """``pip install`` without dependencies into a folder of its own."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    made = subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(target), *map(str, wheels)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def environment(target: Path | None = None, **more: str) -> dict[str, str]:
    """This environment with ``target`` and ``tests`` on PYTHONPATH, and nothing of a user's inhouse settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("INHOUSE_")}
    paths = [str(each) for each in (target, TESTS) if each]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "", **more}


def inhouse(
    arguments: Sequence[str], *, cwd: Path, target: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Runs the console script to its end."""
    return subprocess.run(
        [str(CONSOLE), *arguments],
        cwd=cwd,
        env=environment(target, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
