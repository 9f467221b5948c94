"""Ingesting 10,000 short documents end to end, against LlamaIndex and LangChain as they come, with the same encoder.

Ours is the step `knowledge`: corpus.jsonl to one SQLite file with words and vectors, checked and synced, and the index
of the vector store `hnswlib`. Theirs end with their own in-memory stores written to disk as JSON: no words, no graph.
Documents are real text of 30 to 60 tokens. The clock starts before the corpus is read and the encoder loaded, and
after the imports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from training.measure import Answer, BenchError, Child, Goal, Row, megabytes, same_versions

from .rows import told
from .sides import HERE, encoder, in_turns, ours, peer
from .texts import Cutter, Piece, articles, lengths, write_corpus

OURS, LLAMAINDEX, LANGCHAIN = "ours", "LlamaIndex", "LangChain"
SHORTEST, LONGEST = 30, 60
CHECKED, QUERIES = 200, 50
"""Documents that are indexed before anything is timed, and questions to them: the first words of some."""

ALIKE = 0.95
"""Least share of the questions to which both sides' vectors have the same best answer."""

TIMES = 2


def measure(quick: bool) -> list[Row]:
    """Raises ``BenchError`` where the sides index or find something else."""
    count, repeats = (500, 1) if quick else (10_000, 3)
    pieces = Cutter(encoder(), articles()).pieces(count, SHORTEST, LONGEST)
    print(f"  {count} documents of {lengths(pieces)}", flush=True)
    children = _children(write_corpus(HERE / "corpus", pieces))
    _check(children, pieces)
    answers = in_turns(repeats, children, _said)
    for name, each in answers.items():
        if {answer["passages"] for answer in each} != {count}:
            raise BenchError(f"{name} made {each[0]['passages']} passages of {count} short documents")
    return rows(count, answers)


def _children(corpus: Path) -> dict[str, Child]:
    job = {"corpus": str(corpus), "queries": [], "model": str(encoder())}
    return {
        OURS: ours("ours_ingest", **job, folder=str(HERE / "ours")),
        LLAMAINDEX: peer("llamaindex_ingest", **job, folder=str(HERE / "llamaindex")),
        LANGCHAIN: peer("langchain_ingest", **job, folder=str(HERE / "langchain")),
    }


def _check(children: Mapping[str, Child], pieces: Sequence[Piece]) -> None:
    few = pieces[:CHECKED]
    queries = [" ".join(each.text.split()[:10]) for each in few[:: CHECKED // QUERIES]]
    corpus = str(write_corpus(HERE / "corpus-checked", few))
    answers = {name: child.having(corpus=corpus, queries=queries).run() for name, child in children.items()}
    print(f"  {same_versions(answers)}", flush=True)
    for name in (LLAMAINDEX, LANGCHAIN):
        share = same(answers[OURS]["found"], answers[name]["found"])
        print(f"  {name}: the same best passage for {share:.0%} of {len(queries)} questions", flush=True)
        if share < ALIKE or answers[OURS]["passages"] != answers[name]["passages"]:
            raise BenchError(f"ours and {name} do not index the same, so there is nothing to compare")


def same(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """The share of places where both have the same."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _speed(answer: Answer) -> float:
    return float(answer["documents"] / answer["seconds"])


def _said(answer: Answer) -> str:
    size = answer["bytes"] / 1e6
    return f"{_speed(answer):6.1f} documents/s, {megabytes(answer):.0f} MB of memory, {size:.0f} MB on disk"


def rows(count: int, answers: Mapping[str, Sequence[Answer]]) -> list[Row]:
    """Of what the children answered."""
    work = f"ingest {count} short documents"
    memory = {name: median(map(megabytes, each)) for name, each in answers.items()}
    peers = (LLAMAINDEX, LANGCHAIN)
    return [
        *(Goal(work, name, OURS, name, _speed, "/s", TIMES).row(answers) for name in peers),
        *(told(f"{work}: peak memory", name, memory[OURS], memory[name], unit="MB") for name in peers),
    ]
