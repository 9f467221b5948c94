"""The page: nothing loaded, nothing run, everything escaped, the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from inhouse import Kernel, Recipe
from inhouse.values import Artifact, StepRecord
from inhouse_bundle.figures import read_curves, read_figures
from inhouse_bundle.page import Content, card, html
from inhouse_bundle.plots import loss_chart, seconds_chart, solved_chart
from inhouse_bundle.words import duration, markdown, size

HOSTILE = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>'
LINEAGE = {
    "inputs": [{"kind": "model/gguf", "step": HOSTILE, "digest": "0" * 64}],
    "seed": 1,
    "python": "3",
    "platform": "Linux",
    "processor": "",
    "cores": 2,
    "installed": {},
    "gates": {
        "gates": {
            "fit": {"passed": True, "measured": "301 MB | resident", "accepted": False, "state": "passed"},
            "survival": {"passed": False, "measured": HOSTILE, "accepted": True, "state": "failed"},
            "task": {"passed": True, "measured": "no tasks", "accepted": False, "state": "skipped"},
        }
    },
}


class Tags(HTMLParser):
    """All elements and attributes of a page; checks that they are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def content(report: Mapping[str, Any], **more: Any) -> Content:
    given: dict[str, Any] = {
        "name": "desk",
        "model": Artifact("model/gguf", Path(), "0" * 64, "quantize", "quantizer", {}),
        "model_bytes": 1000,
        "report": report,
        "steps": [StepRecord(HOSTILE, "source", "$a_b$", 2.0, True, 75.0, 10**9)],
        "lineage": LINEAGE,
        "plugins": {"inhouse-x": "0.1"},
        "example": "",
        "context": 512,
        "ollama": False,
        "gate": None,
    }
    return Content(**{**given, **more})


@pytest.fixture
def page(kernel: Kernel, recipe: Recipe) -> str:
    found = kernel.run(recipe).record.bundle
    assert found
    return (Path(found) / "report.html").read_text()


def test_nothing_is_loaded_or_run(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    names = {name for name, _ in tags.found}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "audio", "video", "image"}
    for _, attributes in tags.found:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key not in ("src", "srcset", "action", "data")
            if key.endswith("href"):
                assert value
                assert value.startswith("#")
            assert "url(" not in (value or "").replace("url(#", "")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_everything_is_escaped(page: str) -> None:
    assert page.count("alert(1)") == page.count("&lt;script&gt;alert(1)") > 5
    assert "&lt;img src=" in page


def test_ids_are_unique_and_references_hold(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", page) + re.findall(r'href="#([^"]+)"', page)
    assert used
    assert set(used) <= set(ids)


def test_says_what_was_measured(page: str) -> None:
    for text in (
        "61 of 80 = 76 %",
        "66 % to 85 %",
        "6.25",
        "105.4 MB",
        "126.2",
        "1.234",
        "q4_k_m",
        "McNemar",
        "30 of 40",
    ):
        assert text in page
    assert "does not cite [returns]" in page
    assert page.count("<svg") == 3
    assert "It did not pass its gate: at least 65 %" in page


def test_page_and_card_have_a_row_for_each_gate() -> None:
    page, text = html(content({})), card(content({}))
    assert "<tr><td>fit</td><td>passed</td><td>301 MB | resident</td></tr>" in page
    assert "<td>survival</td><td>failed, accepted</td><td>&lt;script&gt;" in page
    assert "<td>task</td><td>skipped</td>" in page
    header, rule, fit, survival, task = text[text.index("| gate |") :].splitlines()[:5]
    assert (header, rule) == ("| gate | state | measured |", "|---|---|---|")
    assert fit == r"| fit | passed | 301 MB \| resident |"
    assert survival.startswith("| survival | failed, accepted | ")
    assert task == "| task | skipped | no tasks |"
    unjudged = content({}, lineage={**LINEAGE, "gates": {}})
    assert "Nothing judged whether" in html(unjudged)
    assert "Nothing judged whether" in card(unjudged)


def test_the_same_bytes_each_time(page: str, tmp_path: Path) -> None:
    from_report = {"tasks": {"base": {"step": "base", "solved": 3, "total": 9, "low": 0.1, "high": 0.6}}}
    assert html(content(from_report)) == html(content(from_report))


def test_empty_and_foreign_reports() -> None:
    assert "was not evaluated" in html(content({}, steps=[]))
    odd = {
        "tasks": {"base": {"solved": "many", "kinds": [1]}, "tuned": 7, "others": []},
        "verdicts": [1],
        "paired": {"a": 1},
        "confidence": "high",
    }
    assert "base, prompted" in html(content(odd))
    assert "base, prompted" in card(content(odd))


def test_figures() -> None:
    figures = read_figures(
        {"tasks": {"quantized": {"step": "quantize", "solved": 4, "total": 8, "loss": float("inf")}}}, "quantize"
    )
    assert [(each.label, each.share, each.deployed, each.loss) for each in figures] == [("quantised", 0.5, True, None)]


def test_curves_are_what_trainers_noted() -> None:
    noted = {"losses": [2.0, 1.0, float("nan")], "heldout_losses": [[2, 1.5], "odd", [1, 2.5], [3]]}
    steps = [
        StepRecord("base", "source", "b", 0.0, False, 0.0, 0, meta={"losses": "many"}),
        StepRecord("finetune", "trainer", "lora", 0.0, False, 0.0, 0, meta=noted),
    ]
    (curve,) = read_curves(steps)
    assert (curve.step, curve.training, curve.heldout) == ("finetune", [(1, 2.0), (2, 1.0)], [(1, 2.5), (2, 1.5)])
    assert read_curves([]) == []


def test_no_plot_without_figures() -> None:
    assert solved_chart(read_figures({}, ""), 0.95) is None
    assert seconds_chart([]) is None
    assert loss_chart([]) is None


def test_plots_take_any_name() -> None:
    names = ["$\\frac{", "\x00\x1b[31m", "𝕏" * 60, "<&>\"'", ""]
    svg = seconds_chart([StepRecord(name, "s", "b", 0.0, False, 0.0, 0) for name in names])
    assert svg
    assert "http" not in svg
    assert "<&>" not in svg


def test_words() -> None:
    assert [duration(x) for x in (None, 8.44, 125, 3725)] == ["–", "8.4 s", "2 min 05 s", "1 h 02 min"]
    assert [size(x) for x in (None, 12, 105_400_000, 4.08e9, 2e12)] == ["–", "12 B", "105.4 MB", "4.1 GB", "2.00 TB"]
    assert markdown("a|b\n<c> [d](e) q4_k_m") == r"a\|b \<c\> \[d\](e) q4_k_m"


def test_unusual_settings_are_told() -> None:
    told = {"tasks": {"quantized": {"step": "quantize", "solved": 1, "total": 2, "settings": "not repacked <here>"}}}
    assert "quantised: not repacked &lt;here&gt;." in html(content(told))
    assert "How it ran: not repacked" in card(content(told))
    assert "How it ran" not in card(content({"tasks": {"quantized": {"step": "quantize", "solved": 1, "total": 2}}}))
