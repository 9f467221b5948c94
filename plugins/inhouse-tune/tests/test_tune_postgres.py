"""inhouse tune with its trials in a real PostgreSQL, as several machines share them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import postgres
from support.console import clear
from support.tuning import told, tune


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all tests here."""
    with postgres.running(tmp_path_factory.mktemp("postgres")) as found:
        yield found


@pytest.fixture
def url(server: Any, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    return postgres.fresh_database(server, request.node.name)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is asked for here."""
    monkeypatch.setattr("inhouse_tune.plots.draw", lambda *_: b"")


def outcome(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the trials came to, wherever they are kept."""
    return [(each["params"], each["state"], each["heldout_loss"], each["curve"]) for each in found["trials"]]


def test_the_trials_are_those_that_a_file_keeps(url: str, tmp_path: Path) -> None:
    in_file = told(tmp_path / "file", "--trials", "6")
    told(tmp_path / "server", "--trials", "2", "--storage", url)
    in_server = told(tmp_path / "server", "--trials", "6", "--storage", url)  # goes on
    assert outcome(in_server) == outcome(in_file)
    assert in_server["study"] == in_file["study"]
    assert list(tmp_path.rglob("*.db")) == [Path(in_file["storage"])]


def test_two_homes_make_trials_for_one_search(url: str, tmp_path: Path) -> None:
    first = told(tmp_path, "--trials", "3", "--storage", url)
    both = told(tmp_path, "--trials", "5", "--storage", url, "--home", "elsewhere")
    assert outcome(both)[:3] == outcome(first)
    trained = (tmp_path / "log").read_text().splitlines()
    assert len(trained) == sum(each["at"] for each in both["trials"])  # the second home trained what the first had not
    settings = {tuple(each["params"].items()) for each in both["trials"]}
    assert len(settings) == len(both["trials"]) == 5  # none is tried twice


def test_a_server_that_is_not_there_is_one_clear_line(url: str, tmp_path: Path) -> None:
    nowhere = url.replace("postgres:@", "postgres:secret@").replace("host=", "host=/nowhere")
    made = tune(tmp_path, "--trials", "2", "--storage", nowhere)
    clear(made, 2, "the study cannot be kept here: ")
    assert "secret" not in made.stderr
