"""The fixtures of fakes."""

from support.fixtures import done, target  # noqa: F401
