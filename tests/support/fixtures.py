"""Fixtures over the fakes; a ``conftest.py`` that wants them imports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from inhouse.kernel import Kernel
from inhouse.plugins import Registry
from support import distributions, fakes
from support.distributions import inhouse, install_fakes


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The path of the fakes' recipe, its data beside it."""
    return fakes.write_recipe(tmp_path / "desk")


@pytest.fixture
def registry() -> Registry:
    return distributions.registry()


@pytest.fixture
def kernel(tmp_path: Path, registry: Registry) -> Kernel:
    return Kernel(tmp_path / "home", registry=registry)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH in which the fakes are an installed plugin."""
    folder = tmp_path_factory.mktemp("site")
    install_fakes(folder)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Path:
    """A folder in which the recipe of fakes was run."""
    folder = tmp_path_factory.mktemp("done")
    fakes.write_recipe(folder)
    made = inhouse(["run", "-q"], cwd=folder, target=target)
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{folder}/.inhouse/bundles/fake\n"
    return folder
