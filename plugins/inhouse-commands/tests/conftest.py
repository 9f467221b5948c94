"""The fixtures of fakes, and bundles."""

import shutil
import sys
from pathlib import Path

import pytest

from support.fixtures import done, target  # noqa: F401

sys.path.append(str(Path(__file__).parent / "parts"))

from packed import make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, which stays as it is."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))
