"""Specs: what a plugin may declare, and what is refused where it is declared."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from inhouse.specs import SPEC_TYPES, IndexerSpec, Input, QuantizerSpec, Slot, Spec, StageSpec, TrainerSpec


def quantizer(**more: Any) -> QuantizerSpec:
    return QuantizerSpec(**{"name": "acme", "summary": "ACME", "factory": "acme.q:Quantizer", **more})


@pytest.mark.parametrize(("given", "kinds"), [("model/hf", ["model/hf"]), (("a", "b"), ["a", "b"]), ((), [])])
def test_consumes_takes_words_and_tuples(given: Any, kinds: list[str]) -> None:
    assert [each.kind for each in quantizer(consumes=given).consumes] == kinds


def test_consumes_takes_inputs() -> None:
    wanted = Input("model/*", take="all")
    assert quantizer(consumes=wanted).consumes == (wanted,)
    assert quantizer(consumes=[wanted, "report"]).consumes == (wanted, Input("report"))


@pytest.mark.parametrize(("given", "kinds"), [("model/gguf", ("model/gguf",)), (["a", "b"], ("a", "b")), ((), ())])
def test_produces_takes_words_and_tuples(given: Any, kinds: tuple[str, ...]) -> None:
    assert quantizer(produces=given).produces == kinds


@pytest.mark.parametrize(
    ("wanted", "kind", "fits"),
    [
        ("model/hf", "model/hf", True),
        ("model/hf", "model/hf2", False),
        ("model/*", "model/gguf", True),
        ("model/*", "adapter/peft", False),
        ("*", "anything", True),
    ],
)
def test_inputs_accept_kinds(wanted: str, kind: str, fits: bool) -> None:
    assert Input(wanted).accepts(kind) is fits


@pytest.mark.parametrize(
    "wrong", [{"name": "No Spaces"}, {"name": ""}, {"name": "a:b"}, {"factory": "acme.q"}, {"factory": "acme q:X"}]
)
def test_names_and_factories_are_checked(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        quantizer(**wrong)


def test_a_spec_is_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        quantizer().name = "other"  # type: ignore[misc]


def test_kinds_are_distinct_and_stages_are_marked() -> None:
    assert len({each.kind for each in SPEC_TYPES}) == len(SPEC_TYPES)
    stages = {each.kind for each in SPEC_TYPES if issubclass(each, StageSpec)}
    assert stages == {"source", "trainer", "quantizer", "indexer", "evaluator", "packager"}


def test_two_products_and_slots() -> None:
    trainer = TrainerSpec(name="t", summary="", factory="a:B", produces=("model/hf", "adapter/peft"))
    assert trainer.produces == ("model/hf", "adapter/peft")
    indexer = IndexerSpec(name="i", summary="", factory="a:B", produces="knowledge", slots=[Slot("s", "embedder")])
    assert indexer.slots[0].default is None


@pytest.mark.parametrize("kind", [Spec, *SPEC_TYPES])
def test_every_spec_is_documented(kind: type[Spec]) -> None:
    assert kind.__doc__
