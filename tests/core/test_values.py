"""What a document's metadata may hold."""

from __future__ import annotations

from typing import Any

import pytest

from inhouse.values import is_metadata


@pytest.mark.parametrize("value", ["", "north", True, 0, -(1 << 63) + 1, 2.5, [], ["a", 1, False]])
def test_what_metadata_may_hold(value: Any) -> None:
    assert is_metadata(value)


@pytest.mark.parametrize("value", [None, {}, (), 1 << 63, float("nan"), float("inf"), [None], [["a"]], [float("inf")]])
def test_what_it_may_not(value: Any) -> None:
    assert not is_metadata(value)
