"""The fixtures of fakes."""

from support.fixtures import done, kernel, recipe, registry, target  # noqa: F401
