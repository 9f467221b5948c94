"""One JSON form: what is written is read back, and what is not known survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import fields, frozen
from hypothesis import given
from hypothesis import strategies as st

from inhouse import codec
from inhouse.artifacts import FileEntry, Manifest, Product
from inhouse.codec import EventCodec
from inhouse.errors import ArtifactError
from inhouse.events import CORE_EVENTS, Event, UnknownEvent

EVENTS = EventCodec(CORE_EVENTS)

text = st.text(st.characters(codec="utf-8"))
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": text,
    "int": st.integers(0, 2**60),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str | None": st.none() | text,
    "tuple[str, ...]": st.lists(text, max_size=3).map(tuple),
    "Mapping[str, Any]": st.dictionaries(text, plain, max_size=3),
}
events = st.one_of(
    [st.builds(kind, **{each.name: BY_TYPE[str(each.type)] for each in fields(kind)}) for kind in CORE_EVENTS]
)


@given(events)
def test_every_core_event_comes_back_as_it_was(event: Event) -> None:
    line = json.dumps(EVENTS.encode(event))
    assert EVENTS.decode(json.loads(line)) == event


@given(text, st.dictionaries(text.filter(lambda key: key != "type"), plain, max_size=4))
def test_an_unknown_event_survives_as_data(name: str, data: dict[str, Any]) -> None:
    told = {"type": f"acme.{name}", **data}
    event = EVENTS.decode(told)
    assert event == UnknownEvent(f"acme.{name}", data)
    assert EVENTS.encode(event) == told


@pytest.mark.parametrize(
    "data",
    [
        {"type": "StepFailed", "step": "a"},
        {"type": "StepFailed", "step": "a", "stage": "b", "backend": "c", "error": "d", "more": 1},
        {"type": "RunStarted", "recipe": "a", "steps": 3},
        {},
    ],
    ids=["a field is missing", "a field of a later version", "a wrong type", "nothing"],
)
def test_an_event_of_another_version_survives_as_data(data: dict[str, Any]) -> None:
    event = EVENTS.decode(dict(data))
    assert isinstance(event, UnknownEvent)
    assert EVENTS.encode(event) == {"type": "", **data}


entries = st.builds(FileEntry, text, st.integers(0, 2**50), text)
manifests = st.builds(
    Manifest,
    fingerprint=text,
    step=text,
    stage=text,
    backend=text,
    plugin=text,
    version=st.integers(0, 99),
    options=st.dictionaries(text, plain, max_size=3),
    seed=st.integers(0, 2**31),
    parents=st.lists(text, max_size=3).map(tuple),
    products=st.lists(st.builds(Product, text, text, text, st.lists(entries, max_size=2).map(tuple)), max_size=2).map(
        tuple
    ),
    seconds=st.floats(0, 1e9),
    peak_memory_bytes=st.integers(0, 2**50),
    created=st.floats(0, 1e10),
    meta=st.dictionaries(text, plain, max_size=3),
)


@given(manifests)
def test_a_manifest_comes_back_as_it_was(manifest: Manifest) -> None:
    assert codec.loads(codec.dumps(manifest, indent=1), Manifest) == manifest


def test_the_form_is_canonical() -> None:
    assert codec.dumps({"b": Path("/x"), "a": (1, None)}) == '{"a": [1, null], "b": "/x"}'


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"path": "a", "size": 1}', "null"])
def test_what_cannot_be_read_names_the_place(damaged: str) -> None:
    with pytest.raises(ArtifactError, match=r"store/manifest\.json: is no FileEntry"):
        codec.loads(damaged, FileEntry, where="store/manifest.json")


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(ArtifactError):
        codec.loads('{"path": "a", "size": 1, "sha256": "", "extra": 1}', FileEntry)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: object()}])
def test_what_json_has_no_form_of_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.dumps(value)


def test_events_of_plugins_are_read_back_as_such() -> None:
    @frozen
    class ShardWritten(Event):
        rows: int

    both = EventCodec([*CORE_EVENTS, ShardWritten])
    assert both.decode(both.encode(ShardWritten(3))) == ShardWritten(3)
    assert EVENTS.decode(both.encode(ShardWritten(3))) == UnknownEvent("ShardWritten", {"rows": 3})


def test_every_event_says_what_it_means() -> None:
    for kind in CORE_EVENTS:
        assert kind.__doc__
        assert len(kind.__doc__) > 20, kind
