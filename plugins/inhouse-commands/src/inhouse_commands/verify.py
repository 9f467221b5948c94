"""``inhouse verify``"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from attrs import frozen

from inhouse.artifacts import file_digest
from inhouse.cli.common import emit, json_option, table
from inhouse.errors import DataError
from inhouse_commands.lineage import LINEAGE, Found, Lineage, Listed, read_lineage, shown, walk


@frozen
class Difference:
    """One thing that is not as the lineage says. ``state``: changed, edited (a file that is the owner's to edit),
    missing, added, link (or device: never opened), contradiction (of the lineage with itself)."""

    path: str
    state: str
    expected: str
    found: str


@click.command()
@click.argument("bundle", type=click.Path())
@click.option("--allow-edits", is_flag=True, help="Settings that its owner edited are told, and are no failure.")
@json_option
def command(bundle: str, allow_edits: bool, as_json: bool) -> None:
    """Check every digest that BUNDLE's lineage states against its files.

    Exit 0: all hold. 1: something differs. 2: no bundle. Nothing outside of BUNDLE is read. Who can change a bundle
    can write a new lineage too: compare the digest that is printed with the one printed when it was made.
    """
    lineage = read_lineage(bundle)
    differences = differences_of(lineage)
    failed = [each for each in differences if not (allow_edits and each.state == "edited")]
    if as_json:
        emit(
            {
                "bundle": shown(bundle),
                "name": lineage.data["name"],
                "ok": not failed,
                "files": len(lineage.files),
                "lineage": lineage.sha256,
                "differences": differences,
            }
        )
    else:
        rows = [(each.path, _STATES[each.state], each.expected, each.found) for each in differences]
        if rows:
            table(rows, ("file", "state", "expected", "found"))
        hold = len(lineage.files) - len({each.path for each in differences} & lineage.files.keys())
        click.echo(f"{hold} of {len(lineage.files)} files hold; {LINEAGE} sha256 {lineage.sha256}")
    if failed:
        sys.exit(1)


_STATES = {
    "changed": "changed",
    "edited": "edited (its owner may)",
    "missing": "missing",
    "added": "added",
    "link": "no plain file",
    "contradiction": "contradicts the files listed",
}


def differences_of(lineage: Lineage) -> list[Difference]:
    """What in a bundle is not as its lineage says, by path. Reads every listed file, and no other."""
    there = walk(lineage.folder)
    digests: dict[str, str] = {}
    differences = []
    if lineage.own != lineage.found:
        differences.append(Difference(LINEAGE, "changed", f"sha256 {lineage.own}", f"sha256 {lineage.found}"))
    for path, listed in lineage.files.items():
        said = _compare(lineage.folder, listed, there.get(path), digests)
        if said:
            differences.append(said)
    for path, found in there.items():
        if path not in lineage.files and path != LINEAGE:
            state = "added" if found.plain else "link"
            differences.append(Difference(shown(path), state, "nothing", f"{found.size} bytes"))
    if not differences:
        differences = [*_contradictions(lineage, digests)]
    return sorted(differences, key=lambda each: each.path)


def _compare(folder: Path, listed: Listed, found: Found | None, digests: dict[str, str]) -> Difference | None:
    path, expected = shown(listed.path), f"sha256 {listed.sha256}"
    if found is None:
        return Difference(path, "missing", expected, "nothing")
    if not found.plain:
        return Difference(path, "link", expected, "a link or device")
    state = "edited" if listed.editable else "changed"
    if found.size != listed.size:
        return Difference(path, state, f"{listed.size} bytes", f"{found.size} bytes")
    digest = digests[listed.path] = read_digest(folder / listed.path)
    return None if digest == listed.sha256 else Difference(path, state, expected, f"sha256 {digest}")


def read_digest(path: Path) -> str:
    """The digest of a file that the walk found. Raises ``DataError`` where it cannot be read."""
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=shown(path)) from error


def _contradictions(lineage: Lineage, digests: Mapping[str, str]) -> Iterable[Difference]:
    """Digests of inputs and tokenizer that are not those of the files that they are said to be."""
    for each in lineage.data["inputs"]:
        if each["copied_to"] is not None:
            found = folder_digest(each["copied_to"], digests)
            if found != each["digest"]:
                name = shown(f"{each['copied_to']}/")
                yield Difference(name, "contradiction", f"sha256 {each['digest']}", f"sha256 {found}")
    kept = lineage.data["tokenizer"]
    if kept and "keys" not in kept and digests.get(kept["file"]) != kept["sha256"]:
        now = digests.get(kept["file"], "of no file")
        yield Difference(shown(kept["file"]), "contradiction", f"sha256 {kept['sha256']}", f"sha256 {now}")


def folder_digest(folder: str, digests: Mapping[str, str]) -> str:
    """That of an artifact, from the digests of a bundle's files under ``folder``."""
    inside = {
        path.removeprefix(f"{folder}/"): digest for path, digest in digests.items() if path.startswith(f"{folder}/")
    }
    ordered = sorted(inside, key=lambda path: path.split("/"))
    return hashlib.sha256("\n".join(f"{inside[path]}  {path}" for path in ordered).encode()).hexdigest()
