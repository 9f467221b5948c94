"""``inhouse step``: one stage alone, on folders instead of a recipe's artifacts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from inhouse.artifacts import tree_digest
from inhouse.cli.common import emit, open_kernel, stop_on_interrupt
from inhouse.errors import DataError, RecipeError
from inhouse.kernel import METHODS
from inhouse.plugins import Registry
from inhouse.recipe import Recipe, parse_value
from inhouse.sealed import seal
from inhouse.specs import Spec
from inhouse.values import Artifact
from inhouse_commands.described import described


class Stages(click.Group):
    """The stages; each is a group of the installed backends."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(METHODS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return Backends(cmd_name, help=f"Run one {cmd_name} alone.") if cmd_name in METHODS else None


class Backends(click.Group):
    """The backends of one stage; each is a command with the backend's options."""

    @cached_property
    def registry(self) -> Registry:
        return open_kernel(None).registry

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({each.spec.name for each in self.registry.all(self.name)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        return _command(cmd_name, self.registry.get(str(self.name), cmd_name).spec)


@click.group(cls=Stages)
def command() -> None:
    """Run one stage alone: inhouse step quantizer gguf MODEL_FOLDER --type q4_k_m"""


def _command(use: str, spec: Spec) -> click.Command:
    rows = described(spec.options)
    flags = {name: "--" + name.replace("_", "-") for name, *_ in rows}

    def run(inputs: Sequence[str], **words: Any) -> None:
        output, seed, network, home, as_json = (words.pop(f"{each}_") for each in _OWN)
        table = {key: value for key, value in words.items() if value is not None}
        origins = {f"steps.{spec.kind}.{spec.name}.{key}": flag for key, flag in flags.items()}
        step = {"stage": spec.kind, "use": use, spec.name: table}
        data = {"name": spec.name, "seed": seed, "run": {"network": network}, "steps": {spec.kind: step}}
        recipe = Recipe.of(data, path=Path.cwd() / "command line", origins=origins)
        if output and Path(output).exists():
            raise RecipeError("exists already", where=output, hint="--output with a new folder")
        if not network:
            seal()
        made = open_kernel(home).run(
            recipe, given=_given(inputs, spec), terminal=sys.stderr.isatty(), cancel=stop_on_interrupt()
        )
        folders = {kind: each.path for (name, kind), each in made.products.items() if name == spec.kind}
        if output:
            folders = _copy(folders, Path(output).absolute())
        if as_json:
            emit({"folders": folders, "meta": made[spec.kind].meta})
        else:
            click.echo("\n".join(str(each) for each in folders.values()))

    wanted, names = _wanted(spec), [each.kind for each in spec.consumes]
    kinds = [name if number in wanted else f"[{name}]" for number, name in enumerate(names)]
    argument = click.Argument(["inputs"], nargs=-1, metavar=" ".join(kinds) or "(no inputs)")
    options = [_option(flags[name], name, *rest) for name, *rest in rows]
    help_ = f"{spec.summary}. Inputs are folders; KIND=FOLDER says what kind one is."
    return click.Command(use, params=[argument, *options, *_OWN.values()], callback=run, help=help_)


_OWN = {
    "output": click.Option(["--output", "output_"], type=click.Path(), help="Copy the result into this new folder."),
    "seed": click.Option(["--seed", "seed_"], type=int, default=0, show_default=True, help="Seed of the step."),
    "network": click.Option(["--network", "network_"], is_flag=True, help="Allow the network."),
    "home": click.Option(["--home", "home_"], type=click.Path(), help="Where artifacts and runs lie."),
    "json": click.Option(["--json", "json_"], is_flag=True, help="Print JSON for scripts."),
}


def _option(flag: str, name: str, kind: str, default: Any, help_: str) -> click.Option:
    shown = f"{help_} [default: {default}]" if default is not None else help_
    if kind == "bool":
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=shown)
    parsed = any(word in kind for word in ("int", "float", "bool", "tuple", "list", "dict"))
    return click.Option(
        [flag, name],
        metavar=kind,
        default=None,
        help=shown,
        callback=lambda _ctx, _param, text: parse_value(text) if text is not None and parsed else text,
    )


def _wanted(spec: Spec) -> dict[int, str]:
    """Kind of each input that has to be given, by its place: one of a kind is taken for all inputs of that kind."""
    found: dict[int, str] = {}
    for number, each in enumerate(spec.consumes):
        if not each.optional and each.kind not in found.values():
            found[number] = each.kind
    return found


def _given(inputs: Sequence[str], spec: Spec) -> dict[tuple[str, str], Artifact]:
    if not max(_wanted(spec), default=-1) < len(inputs) <= len(spec.consumes):
        raise click.UsageError(f"takes {' '.join(each.kind for each in spec.consumes) or 'no folder'}")
    given = {}
    for number, (text, wanted) in enumerate(zip(inputs, spec.consumes, strict=False), 1):
        kind, _, folder = text.rpartition("=")
        kind, path = kind or wanted.kind, Path(folder).absolute()
        if not wanted.accepts(kind) or kind.endswith("*"):
            raise RecipeError(f"takes {wanted.kind}, not {kind}", where=text, hint=f"{wanted.kind}={folder}")
        if not path.is_dir():
            raise DataError("no such folder", where=str(path))
        given[f"input {number}", kind] = Artifact(kind, path, tree_digest(path), f"input {number}")
    return given


def _copy(folders: dict[str, Path], target: Path) -> dict[str, Path]:
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    several = len(folders) > 1
    places = {kind: Path(kind.replace("/", "-") if several else "") for kind in folders}
    for kind, folder in folders.items():
        shutil.copytree(folder, aside / places[kind])
    aside.rename(target)
    return {kind: target / place for kind, place in places.items()}
