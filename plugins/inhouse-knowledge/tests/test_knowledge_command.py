"""``inhouse knowledge`` on a base that a real recipe made, with the real embedder and the real graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from inhouse import Kernel, Recipe
from inhouse_hnswlib.store import HnswlibStore
from inhouse_knowledge.made import indexer_of, needed
from inhouse_knowledge.tuning import Found
from inhouse_minilm import Options as MiniLMOptions
from inhouse_minilm.embedder import MiniLM
from inhouse_minilm.folder import packaged
from support.distributions import inhouse, registry
from support.fakes import write_recipe

RECIPE = """\
name = "shop"
[data]
use = "jsonl"
[data.jsonl]
corpus = "corpus.jsonl"
[knowledge]
use = "sqlite"
"""
ROWS = [
    {"id": "north", "text": "Boots are sent back within 30 days.", "title": "Returns", "metadata": {"tenant": "north"}},
    {"id": "south", "text": "Boots are sent back within 14 days.", "title": "Returns", "metadata": {"tenant": "south"}},
    {"id": "tents", "text": "Tents have a warranty of three years on the poles.", "title": "Tents"},
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ROWS), encoding="utf-8")
    early = inhouse(["knowledge", "search", "boots"], cwd=folder)
    assert early.returncode == 2
    assert "the knowledge base is not made yet" in early.stderr
    assert "inhouse run recipe.toml --until knowledge" in early.stderr
    made = inhouse(["run", "-q"], cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_search(shop: Path) -> None:
    made = inhouse(["knowledge", "search", "how long can I return boots", "--json"], cwd=shop)
    assert made.returncode == 0, made.stderr
    assert {each["document"] for each in json.loads(made.stdout)[:2]} == {"north", "south"}
    made = inhouse(["knowledge", "search", "return boots", "-k", "9", "--where", "tenant=south"], cwd=shop)
    assert made.stdout.splitlines()[0].split(maxsplit=1)[1] == "[south] 0-35  Returns"
    assert "[north]" not in made.stdout
    wrong = inhouse(["knowledge", "search", "boots", "--where", "tenant"], cwd=shop)
    assert (wrong.returncode, "needs KEY=VALUE" in wrong.stderr) == (2, True)


def test_doctor_mends_the_index(shop: Path) -> None:
    well = inhouse(["knowledge", "doctor", "--json"], cwd=shop)
    assert well.returncode == 0, well.stderr
    assert {each["state"] for each in json.loads(well.stdout)} == {"ok"}
    (graph,) = (shop / ".inhouse" / "artifacts").rglob("hnswlib-*.bin")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + b"\0" if whole[-1] else whole[:-1] + b"\1")
    ill = inhouse(["knowledge", "doctor"], cwd=shop)
    assert ill.returncode == 1
    assert "inhouse knowledge doctor --mend" in ill.stderr
    mended = inhouse(["knowledge", "doctor", "--mend"], cwd=shop)
    assert mended.returncode == 0, mended.stderr
    assert graph.read_bytes() == whole
    assert inhouse(["artifacts", "--verify"], cwd=shop).returncode == 0


def test_tune(shop: Path) -> None:
    rows = [("send boots back to the north", "north"), ("warranty of a tent", "tents"), ("poles", "tents")]
    text = "".join(json.dumps({"question": asked, "document": name}) + "\n" for asked, name in rows)
    (shop / "questions.jsonl").write_text(text, encoding="utf-8")
    made = inhouse(["knowledge", "tune", "questions.jsonl", "--chunk-tokens", "64", "--json"], cwd=shop)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["questions"] == 3
    assert {row["chunk_tokens"] for row in told["rows"]} == {64, 200}
    assert max(row["ndcg_10"] for row in told["rows"]) == told["best"]["ndcg_10"]
    shown = inhouse(["knowledge", "tune", "questions.jsonl"], cwd=shop)
    assert "3 questions are few" in shown.stderr
    *_, command = shown.stdout.splitlines()
    assert command.startswith("inhouse run recipe.toml --set knowledge.sqlite.chunk_tokens=200 --set knowledge.sqlite.")
    again = inhouse([*command.split()[1:], "-q"], cwd=shop)
    assert again.returncode == 0, again.stderr
    graph = ["--set", "knowledge.hnswlib.exact_below=0", "--ef", "1,300"]
    efs = inhouse(["knowledge", "tune", "questions.jsonl", *graph], cwd=shop)
    assert efs.returncode == 0, efs.stderr
    assert {line.split()[1] for line in efs.stdout.splitlines()[1:10]} == {"1"}
    assert "--set knowledge.hnswlib.ef_search=" in efs.stdout.splitlines()[-1]
    exact = inhouse(["knowledge", "tune", "questions.jsonl", "--ef", "64"], cwd=shop)
    assert "hnswlib compares with each of 3 passages (exact_below = 20000): no ef to try" in exact.stderr
    store = ["--set", 'knowledge.vector_store="exact"', "--ef", "64"]
    none = inhouse(["knowledge", "tune", "questions.jsonl", *store], cwd=shop)
    assert (none.returncode, "the vector store exact has no ef_search" in none.stderr) == (2, True)
    few = inhouse(["knowledge", "tune"], cwd=shop)
    assert (few.returncode, "no question can be made" in few.stderr) == (2, True)
    sizes = inhouse(["knowledge", "tune", "--chunk-tokens", "64"], cwd=shop)
    assert (sizes.returncode, "sizes cannot be compared" in sizes.stderr) == (2, True)


def test_an_ef_that_is_tried_reaches_the_store(shop: Path) -> None:
    kernel = Kernel(shop / ".inhouse")
    plan = kernel.plan(Recipe.load(shop / "recipe.toml", environment={}))
    step = indexer_of(plan, "recipe.toml")
    found = Found(plan, step, kernel.store.artifacts(kernel.cached(plan)[step.name])[0])
    for ef, set_ in ((None, 128), (5, 5)):
        with found.open(ef) as base:
            assert isinstance(base._store, HnswlibStore)
            assert base._store.options.ef_search == set_


def test_a_cross_encoder_of_the_recipe_orders_what_is_found(shop: Path) -> None:
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
    )
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(shop / "cross")
    encoder = packaged()
    assert encoder is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (shop / "cross" / name).write_bytes((encoder / name).read_bytes())
    sets = ["--set", "knowledge.minilm.cross_encoder=cross"]
    made = inhouse(["run", *sets], cwd=shop)
    assert made.returncode == 0, made.stderr
    assert "3 passages are as before" in made.stdout + made.stderr
    found = json.loads(inhouse(["knowledge", "search", "return boots", *sets, "--json"], cwd=shop).stdout)
    rerank = MiniLM(MiniLMOptions(cross_encoder=shop / "cross")).rerank
    assert rerank is not None
    scores = rerank("return boots", [f"{each['title']}\n{each['text']}" for each in found])
    assert [each["score"] for each in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
    assert len(found) == 3


def test_only_what_the_base_is_made_of_runs(tmp_path: Path) -> None:
    """A recipe that trains is not trained to tune its search."""
    recipe = Recipe.load(write_recipe(tmp_path), environment={})
    plan = Kernel(tmp_path / "home", registry=registry({})).plan(recipe)
    assert len(plan.steps) > 4
    assert needed(plan, indexer_of(plan, "recipe.toml")) == {"data", "knowledge"}


def test_a_recipe_without_a_base(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.split("[knowledge]", maxsplit=1)[0], encoding="utf-8")
    (tmp_path / "corpus.jsonl").write_text(json.dumps(ROWS[0]), encoding="utf-8")
    made = inhouse(["knowledge", "doctor"], cwd=tmp_path)
    assert (made.returncode, "the recipe has no knowledge base" in made.stderr) == (2, True)
