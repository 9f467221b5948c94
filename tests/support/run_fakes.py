"""Runs a recipe of fakes: ``python -m support.run_fakes RECIPE HOME``; exits like the command line."""

from __future__ import annotations

import sys

from inhouse import InhouseError, Kernel, Recipe
from support.distributions import registry


def main(recipe: str, home: str) -> None:
    """Prints the digest of every product."""
    try:
        run = Kernel(home, registry=registry()).run(Recipe.load(recipe))
    except InhouseError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    for (step, kind), artifact in run.products.items():
        sys.stdout.write(f"{step} {kind} {artifact.digest}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
