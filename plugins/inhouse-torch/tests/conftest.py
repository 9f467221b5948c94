"""What all tests here share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Products this small only wait for each other on several threads."""
    torch.set_num_threads(1)
