"""What `make bench-knowledge` measures with: what it says is so, and unequal sides are told apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import groups
import numpy as np
import pytest
from knowing import GROUPS, embedding, growth, hnsw, hnsw_turns, ingest, pgvector, rows, sides, texts, vectors, xquad
from training.measure import BenchError, Child

from inhouse_knowledge.quality import Question, Score


def test_every_group_can_be_imported_and_measured() -> None:
    for name in GROUPS:
        module = __import__(f"knowing.{name}", fromlist=["measure"])
        assert callable(module.measure)


def test_an_unknown_group_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["knowledge.py", "--only", "training"])
    with pytest.raises(SystemExit):
        groups.run("About.", "knowledge", "knowing", GROUPS, ["torch"])
    assert "xquad" in capsys.readouterr().err


def test_goals_are_held_to_as_they_are_written() -> None:
    assert rows.at_least("recall", "", 0.97, 0.0, 0.97).met
    assert not rows.at_least("recall", "", 0.9699, 0.0, 0.97).met
    assert not rows.under("open", "", 1.0, 0.0, 1, unit="s").met
    assert rows.under("open", "", 0.999, 0.0, 1, unit="s").goal == "< 1 s"
    assert rows.not_below("nDCG", "leg", 0.95, 0.95).met
    assert not rows.not_below("nDCG", "leg", 0.9499, 0.95).met
    row = rows.told("memory", "peer", 300.0, 600.0, unit="MB")
    assert (row.ratio, row.goal, row.met) == (0.5, "", True)


def test_exponents_of_known_growth() -> None:
    counts = [1_000, 10_000, 100_000]
    assert rows.exponent(counts, [each * 3e-4 for each in counts]) == pytest.approx(1)
    assert rows.exponent(counts, [5.0, 5.0, 5.0]) == pytest.approx(0, abs=1e-9)
    assert rows.exponent(counts, [each**0.5 for each in counts]) == pytest.approx(0.5)
    assert rows.percentile([1.0, 2.0, 3.0, 4.0, 5.0], 50) == 3


def test_ranks_and_the_metrics_of_known_ones() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.3, 0.9], [0.7, 0.8, 0.6]])
    assert xquad.ranks(scores, [0, 0, 2]) == [1, 3, 3]
    found = xquad.of_ranks([1, 2, 3, 5, 7, 11])
    assert found.recall_1 == pytest.approx(1 / 6)
    assert found.recall_5 == pytest.approx(4 / 6)
    assert found.ndcg_10 == pytest.approx((1 + 1 / np.log2(3) + 1 / 2 + 1 / np.log2(6) + 1 / 3) / 6)


def score(dense: float, lexical: float, *gains: float) -> Score:
    """Recalls are told apart by the weights."""
    return Score(dense, lexical, lexical / 10, dense / 10, gains)


def test_weights_are_those_of_the_other_half(capsys: pytest.CaptureFixture[str]) -> None:
    # 0.5 wins on the first half and 0.1 on the second, so each half is measured with what is second there
    first = [score(0, 1, 0.1), score(1, 0, 0.2), score(1, 0.1, 0.3), score(1, 0.5, 0.9)]
    second = [score(0, 1, 0.1, 0.1), score(1, 0, 0.2, 0.2), score(1, 0.1, 1.0, 0.8), score(1, 0.5, 0.6, 0.3)]
    found = xquad.crosswise([first, second])
    assert found.count == 3
    assert found.ndcg_10 == pytest.approx((0.3 + 0.6 + 0.3) / 3)
    assert found.recall_1 == pytest.approx((0.01 + 2 * 0.05) / 3)
    assert "0.5 of the words are best on the other half" in capsys.readouterr().out
    legs = xquad.alone([first, second])
    assert legs["words"].ndcg_10 == pytest.approx(0.1)
    assert legs["vectors"].ndcg_10 == pytest.approx(0.2)


def test_rows_of_quality_are_against_the_better_leg() -> None:
    def quality(ndcg: float, recall: float = 0.98) -> xquad.Quality:
        return xquad.Quality(0.9, recall, ndcg, 10)

    legs = {"words": quality(0.96), "vectors": quality(0.95)}
    first, second, *others = xquad._rows(legs, quality(0.961), quality(0.97), quality(0.95))
    assert (first.against, first.peer, first.met, second.met) == ("best leg, words", 0.96, True, True)
    assert all(row.met for row in others)
    first, second, *_ = xquad._rows(legs, quality(0.959, recall=0.96), quality(0.97), quality(0.95))
    assert (first.met, second.met) == (False, False)


def test_wikitext_becomes_running_text_again() -> None:
    text = " \n = Ship = \n \n The ship , a <unk> 36 @-@ gun frigate ( 1 @,@ 200 t ) , sank . \n \n = = Fate = = \n \n It did .\n"
    assert texts.wikitext(text) == [("Ship", "The ship, a 36-gun frigate (1,200 t), sank. It did.")]


@pytest.fixture(scope="module")
def cutter() -> texts.Cutter:
    """Over three short articles, by the encoder's own tokens."""
    own = [
        (f"On {name}", f"The {name} is unbelievably old, and nobody recounts it. " * 6)
        for name in ("oak", "sea", "fox")
    ]
    return texts.Cutter(sides.encoder(), own)


def test_pieces_have_the_lengths_that_are_asked_for(cutter: texts.Cutter) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(sides.encoder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pieces = cutter.pieces(40, 10, 20)
    assert pieces == cutter.pieces(40, 10, 20)
    assert len({each.text for each in pieces}) == 40
    assert {each.title for each in pieces} == {"On oak", "On sea", "On fox"}
    for each in pieces:
        assert each.tokens == len(tokenizer.encode(each.text, add_special_tokens=False).ids)
        assert 5 < each.tokens <= 20
    with pytest.raises(BenchError, match="no text for"):
        cutter.pieces(100_000, 40, 41)


def test_a_corpus_is_read_by_the_indexer(cutter: texts.Cutter, tmp_path: Path) -> None:
    from inhouse_knowledge import corpus

    pieces = cutter.pieces(3, 10, 20)
    folder = texts.write_corpus(tmp_path / "corpus", pieces)
    found = list(corpus.read(folder / "corpus.jsonl"))
    assert [(each.name, each.title, each.text) for each in found] == [
        (f"{number:07d}", each.title, each.text) for number, each in enumerate(pieces, 1)
    ]


def test_no_text_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"none\.json"):
        texts.paragraphs(tmp_path / "none.json")


def test_vectors_lie_around_subjects_that_all_seeds_share() -> None:
    one, other = vectors.mixture(500, seed=1), vectors.mixture(500, seed=2)
    assert one.shape == (500, 384)
    assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(one, vectors.mixture(500, seed=1))
    apart = np.random.default_rng(0).permutation(500)
    assert (other @ one.T).max(axis=1).mean() > 0.5
    assert abs(float((one * one[apart]).sum(axis=1).mean())) < 0.2


def test_the_nearest_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BLOCK", 64)
    known, queries = vectors.mixture(300, seed=1), vectors.mixture(5, seed=2)
    truth = np.argsort(-(queries @ known.T), axis=1)[:, :7] + 1
    assert np.array_equal(vectors.nearest(known, queries, 7), truth)
    allowed = np.arange(2, 301, 3)
    found = vectors.nearest_among(known, queries[0], 4, allowed)
    assert found == [int(each) for each in np.argsort(-(queries[0] @ known.T)) + 1 if each % 3 == 2][:4]
    assert vectors.recall([[1, 2], [3]], [[2, 1], [4]]) == pytest.approx(2 / 3)


def test_equal_recall_keeps_the_ef_or_finds_the_smallest() -> None:
    def recall_at(ef: int) -> float:
        return min(1.0, ef / 200)

    assert hnsw_turns.equal_ef(recall_at, 0.6405, 128, 10) == 128
    assert hnsw_turns.equal_ef(recall_at, 0.9, 128, 10) == 180
    assert hnsw_turns.equal_ef(recall_at, 0.5, 128, 10) == 100


def test_rows_of_hnsw_hold_to_five_per_cent() -> None:
    answer = {
        "recalls": {"ours": 0.99, "bare": 0.99},
        "means": {"ours": [1.04e-3, 1.04e-3, 2.0e-3], "bare": [1e-3, 1e-3, 1e-3]},
        "p95": {"ours": [2e-3], "bare": [1.9e-3]},
        "opened": [0.2, 0.3, 4.0],
        "rebuild": {"ours": 61.0, "bare": 60.0},
    }
    search, found, p95, opened, rebuild = hnsw.rows(100_000, answer)
    assert (search.ours, search.ratio, search.unit, search.met) == (
        pytest.approx(1040),
        pytest.approx(1.04),
        "us",
        True,
    )
    assert (found.met, p95.met, opened.ours, opened.met, rebuild.met) == (True, True, 0.3, True, False)


def test_cosine_of_each_row() -> None:
    ours = np.array([[2.0, 0.0], [1.0, 1.0]], np.float32)
    theirs = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert embedding.cosine(ours, theirs) == pytest.approx([1, 0.5**0.5])
    with pytest.raises(BenchError, match="shape"):
        embedding.cosine(ours, theirs[:1])


def test_rows_of_embedding_and_ingest_want_the_median_of_the_ratios() -> None:
    def answers(*speeds: float) -> list[Any]:
        return [{"texts": 100, "documents": 100, "seconds": 100 / each, "peak_bytes": 4e8} for each in speeds]

    every = {
        embedding.OURS: answers(300, 290, 500),
        embedding.PEER: answers(100, 100, 100),
        embedding.TUNED: answers(250, 200, 250),
    }
    first, second, third, _ = embedding._rows(2000, {embedding.OURS: 0.9991, embedding.TUNED: 0.9980}, every)
    assert (first.ratio, first.met, second.ratio, second.met, third.met) == (
        pytest.approx(3),
        True,
        pytest.approx(1.45),
        True,
        True,
    )
    every = {ingest.OURS: answers(200), ingest.LLAMAINDEX: answers(101), ingest.LANGCHAIN: answers(50)}
    first, second, *_ = ingest.rows(10_000, every)
    assert (first.met, second.met) == (False, True)
    assert ingest.same(["a", "b", "c", "d"], ["a", "b", "c", "x"]) == 0.75


def test_the_fastest_batch_size_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "HERE", tmp_path)
    seconds = {8: 3.0, 16: 1.0, 32: 2.0}
    monkeypatch.setattr(Child, "run", lambda child: {"seconds": seconds[child.job["batch_size"]]})
    assert embedding.fastest(Child(Path(), "st_embed", {}), ["a"], (8, 16, 32)) == 16


def test_missing_results_and_recall_under_a_filter() -> None:
    full = pgvector.Filtered("1 %", [[1, 2], [3]], [[1, 2], [3]], [0.01, 0.02])
    short = pgvector.Filtered("25 %", [[1], []], [[1, 2], [3]], [0.01, 0.02])
    assert (full.missing, full.recall, full.each) == (0, 1.0, 1.5)
    assert (short.missing, short.recall) == (2, pytest.approx(1 / 3))
    first, _, worst, results, *_ = pgvector.rows(100_000, {"1 %": full, "25 %": full}, (full, short))
    assert (first.met, worst.met, results.ours, results.peer) == (True, True, 1.5, 0.5)
    first, _, worst, *_ = pgvector.rows(100_000, {"1 %": full, "25 %": short}, (full, full))
    assert (first.ours, first.met, worst.met) == (2, False, False)


def test_a_real_server_is_searched_under_every_filter() -> None:
    # not in pytest's folder: as root the server runs as another user
    with pgvector.postgres.running(Path(mkdtemp(prefix="inhouse-bench-test-"))) as server:
        found, (ours, plain) = pgvector.searched(server, 600, 3)
    assert {name: each.each for name, each in found.items()} == {
        "1 %": 6, "25 %": 10, "the farthest 1 %": 6, "the farthest 25 %": 10, "10 ids": 10, "3 ids": 3
    }  # fmt: skip
    for each in (*found.values(), ours):
        assert (each.missing, each.recall) == (0, 1.0)
    assert len(plain.found) == len(ours.found) == 3


def test_filters_pass_what_they_say() -> None:
    known, random = vectors.mixture(400, seed=1), np.random.default_rng(0)
    query = vectors.mixture(1, seed=2)[0]
    sizes = {name: len(pick(query, random)) for name, pick in pgvector.filters(known).items()}
    assert sizes == {"1 %": 4, "25 %": 100, "the farthest 1 %": 4, "the farthest 25 %": 100, "10 ids": 10, "3 ids": 3}
    far = pgvector.filters(known)["the farthest 1 %"](query, random)
    assert sorted(far) == sorted(np.argsort(known @ query)[:4] + 1)


def test_growth_is_fitted_by_figure_and_without_what_was_kept() -> None:
    def point(what: str, count: int, seconds: float) -> growth.Point:
        return growth.Point(what, count, seconds, 100.0, count / 100, 0.1, count**0.5, 1.0, 200.0)

    points = [point("base", n, n / 1000) for n in (1_000, 10_000, 100_000)]
    points += [point("store", n, s) for n, s in ((1_000, 1.0), (10_000, 20.0), (100_000, 0.0))]
    found = {row.work: row for row in growth.rows(points)}
    assert found["growth of a base, exponent: seconds to make"].ours == pytest.approx(1)
    assert found["growth of a base, exponent: a search"].ours == pytest.approx(0.5)
    assert found["growth of a store, exponent: seconds to make"].against == "1,000 to 10,000"
    assert found["growth of a store, exponent: seconds to make"].ours == pytest.approx(1.30103)
    assert "kept from before" in points[-1].line()


def run(module: str, job: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a child of ours answers, in this process."""
    monkeypatch.setattr(sys, "argv", [module, json.dumps(job)])
    __import__(f"knowing.{module}", fromlist=["main"]).main()
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_a_store_is_filled_once_and_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"count": 300, "folder": str(tmp_path / "store"), "queries": 5, "k": 10}
    made = run("store_growth", {**job, "fill": True}, capsys, monkeypatch)
    assert made["seconds"] > 0
    assert run("store_growth", {**job, "fill": True}, capsys, monkeypatch)["seconds"] == 0
    found = run("store_growth", {**job, "fill": False}, capsys, monkeypatch)
    assert found["recall"] == 1.0  # so few are compared one by one
    assert found["peak_bytes"] > 0


def test_both_sides_of_hnsw_find_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"count": 400, "queries": 10, "k": 10, "turns": 2, "folder": str(tmp_path / "store")}
    found = run("hnsw_turns", job, capsys, monkeypatch)
    assert found["recalls"]["ours"] == 1.0
    assert found["recalls"]["bare"] > 0.98
    assert [len(found["means"][name]) for name in ("ours", "bare")] == [2, 2]
    assert len(hnsw.rows(400, found)) == 5


class Words:
    """An embedder that counts a few words."""

    name, dimension, known = "words@1", 4, ("oak", "sea", "fox", "old")

    def embed(self, asked: Sequence[str]) -> Any:
        rows = [[each.lower().count(word) for word in self.known] for each in asked]
        return np.array(rows, np.float32) + 0.01


def test_a_paragraph_is_one_passage_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xquad, "MiniLM", Words)
    found = [
        texts.Paragraph(f"{name}/1", name, f"The {name} is old. " * 100, (f"What is the {name}?",))
        for name in ("oak", "sea")
    ]
    questions = [Question(text, frozenset([each.name])) for each in found for text in each.questions]
    with xquad.base(found, xquad.Options(chunk_tokens=xquad.WHOLE, lexical_weight=1.0), tmp_path / "base") as base:
        assert base.count() == 2
        scores = xquad.measured(base, questions, lambda _: None)
    assert xquad.alone([scores])["words"].recall_1 == 1.0
