"""Builds the service desk's files from the templates: `python build.py [--output FOLDER] [--seed N]`.

The same seed gives the same articles, orders, dialogues and tasks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sqlite3
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kinds
import phrasing
import shop
from dialogues import Dialogue, article_body

HERE = Path(__file__).resolve().parent
SEED = 7
ORDERS = {"train": 800, "heldout": 80, "tasks": 80}  # orders of each split; no order is in two
SPLITS = (*ORDERS, "fresh")  # the orders of `fresh` are those of `tasks`
# Tasks go on where the first edition's other splits ended: they stay.
TURNS = {"train": 0, "heldout": 0, "tasks": 33, "fresh": 0}
MIX = {  # dialogues of each kind in train.jsonl
    "order": 264, "policy": 304, "calculation": 160, "order+calculation": 280, "order+policy": 220,
    "hand_over": 172, "no_tool": 88,
}  # fmt: skip
# Shares that go on to the answer; the others end with the first action. To choose it is the hardest part, and
# a row that ends there costs less than half of the tokens.
COMPLETE = {"order": 0.45, "policy": 0.25, "calculation": 0.4, "order+calculation": 0.6, "order+policy": 0.6}
FEW_SHOT = ("order", "policy", "order+calculation", "hand_over")  # every tool once


def main() -> None:
    """Writes every generated file into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: this one)")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    build(options.output, options.seed)


def build(output: Path, seed: int) -> None:
    """Writes knowledge/*.md, orders.sqlite and the five .jsonl files."""
    articles = read_articles()
    write_articles(articles, output / "knowledge")
    rng = random.Random(seed)
    orders = shop.make_orders(rng, sum(ORDERS.values()))
    shop.write_database(orders, output / "orders.sqlite")
    groups = {kind: read_groups(kind, articles) for kind in MIX}
    unknown_ids = _unknown_ids(rng, {order.order_id for order in orders})
    remaining = iter(orders)
    desks = {}
    with sqlite3.connect(output / "orders.sqlite") as database:
        for split, count in ORDERS.items():
            cards = kinds.read_cards(list(itertools.islice(remaining, count)), database)
            desks[split] = kinds.Desk(random.Random(f"{seed} {split}"), cards, articles, unknown_ids, TURNS[split])
    database.close()
    desks["fresh"] = kinds.Desk(random.Random(f"{seed} fresh"), cards, articles, unknown_ids, TURNS["fresh"])
    train = make_training(desks["train"], groups)
    _write_lines(output / "train.jsonl", train)
    _write_lines(output / "few_shot.jsonl", [_first(train, kind) for kind in FEW_SHOT])
    heldout = enumerate(_each(desks["heldout"], groups, "heldout"))
    _write_lines(output / "heldout.jsonl", [d.row(f"heldout-{n}", kind, t) for n, (kind, t, d) in heldout])
    for split in ("tasks", "fresh"):
        tasks = enumerate(_each(desks[split], groups, split), 1)
        rows = [d.task(f"{split.removesuffix('s')}-{n:02d}", kind) for n, (kind, _, d) in tasks]
        _write_lines(output / f"{split}.jsonl", rows)


def _first(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(row for row in rows if row["kind"] == kind and row["complete"])


def read_articles() -> dict[str, dict[str, Any]]:
    """The articles of both template files, by id."""
    tables = [tomllib.loads((HERE / "templates" / f"articles_{part}.toml").read_text(encoding="utf-8"))
              for part in ("general", "orders")]  # fmt: skip
    return {article["id"]: article for table in tables for article in table["article"]}


def read_groups(kind: str, articles: dict[str, dict[str, Any]]) -> dict[str, kinds.Group]:
    """The template tables of a kind by name, each with its questions under the names of the splits."""
    if kind == "policy":
        return {name: _article_group(article) for name, article in articles.items()}
    path = HERE / "templates" / f"{kind.replace('+', '_')}.toml"
    groups: dict[str, kinds.Group] = tomllib.loads(path.read_text(encoding="utf-8"))
    if "unknown" in groups:  # any question about an order may be about one that is not there
        column_of = {question: name for name, group in groups.items() for question in group["train"]}
        groups["unknown"] |= {"train": list(column_of), "column_of": column_of}
    return groups


def _article_group(article: dict[str, Any]) -> kinds.Group:
    """An article with the questions about its facts taken together."""
    splits: dict[str, list[str]] = {
        split: [question for fact in article["fact"] for question in fact.get(split, [])] for split in SPLITS
    }
    fact_of = {question: fact for fact in article["fact"] for split in SPLITS for question in fact.get(split, [])}
    return {**article, **splits, "fact_of": fact_of}


def write_articles(articles: dict[str, dict[str, Any]], folder: Path) -> None:
    """One Markdown file an article; files of articles that are gone are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in articles:
            old.unlink()
    for article in articles.values():
        text = f"# {article['title']}\n\n{article_body(article)}\n"
        (folder / f"{article['id']}.md").write_text(text, encoding="utf-8")


def make_training(desk: kinds.Desk, groups: dict[str, dict[str, kinds.Group]]) -> list[dict[str, Any]]:
    """MIX dialogues, spread so that every beginning of the list has the same mix; no question twice."""
    templates = {kind: _rounds(desk.rng, groups[kind], weights={"unknown": 3}) for kind in MIX}
    seen: set[str] = set()
    rows = []
    made: Counter[str] = Counter()
    for number, kind in enumerate(spread(MIX)):
        template, dialogue = _fresh(desk, kind, groups[kind], templates[kind], seen)
        share = COMPLETE.get(kind, 1.0)
        complete = int((made[kind] + 1) * share) > int(made[kind] * share)
        made[kind] += 1
        rows.append(dialogue.row(f"train-{number}", kind, template, complete=complete))
    return rows


def _fresh(
    desk: kinds.Desk,
    kind: str,
    groups: dict[str, kinds.Group],
    templates: Iterator[tuple[str, int]],
    seen: set[str],
) -> tuple[str, Dialogue]:
    """The next dialogue of a kind whose question was not asked before, with its template's id."""
    for _ in range(1000):
        name, index = next(templates)
        text = groups[name]["train"][index]
        dialogue = kinds.MAKERS[kind](desk, name, groups[name], text, lambda q: phrasing.dress(desk.rng, q))
        if dialogue.question not in seen:
            seen.add(dialogue.question)
            return f"{kind}/{name}/train-{index}", dialogue
    raise ValueError(f"too few templates for {kind}")


def _rounds(rng: random.Random, groups: dict[str, kinds.Group], weights: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Endless (group, template number): the groups in turn, each group's templates in turn.

    A group with weight w takes part in every w-th round only.
    """
    queues: dict[str, list[int]] = {name: [] for name in groups}
    for turn in itertools.count():
        names = [name for name in groups if turn % weights.get(name, 1) == 0]
        rng.shuffle(names)
        for name in names:
            if not queues[name]:
                queues[name] = list(range(len(groups[name]["train"])))
                rng.shuffle(queues[name])
            yield name, queues[name].pop()


def _each(
    desk: kinds.Desk, groups: dict[str, dict[str, kinds.Group]], split: str
) -> Iterator[tuple[str, str, Dialogue]]:
    """(kind, template id, dialogue) for every template of a held-out split once, undressed, kinds spread."""
    waiting = {
        kind: [(name, index) for name, group in named.items() for index in range(len(group.get(split, [])))]
        for kind, named in groups.items()
    }
    for pairs in waiting.values():
        desk.rng.shuffle(pairs)
    for kind in spread({kind: len(pairs) for kind, pairs in waiting.items()}):
        name, index = waiting[kind].pop()
        group = groups[kind][name]
        dialogue = kinds.MAKERS[kind](desk, name, group, group[split][index], lambda question: question)
        yield kind, f"{kind}/{name}/{split}-{index}", dialogue


def spread(counts: dict[str, int]) -> Iterator[str]:
    """Each name `counts[name]` times, always the one furthest behind its share so far."""
    total = sum(counts.values())
    given = dict.fromkeys(counts, 0)
    for number in range(1, total + 1):
        open_names = [name for name in counts if given[name] < counts[name]]
        name = max(open_names, key=lambda n: counts[n] * number / total - given[n])
        given[name] += 1
        yield name


def _unknown_ids(rng: random.Random, known: set[str]) -> Iterator[str]:
    """Ids of five digits that no order has, each once."""
    used = set(known)
    while True:
        candidate = str(rng.randint(10000, 99999))
        if candidate not in used:
            used.add(candidate)
            yield candidate


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
