"""The process that parses: killed, hanging, out of memory; and a run that is killed and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents_made import FolderStep, changed, pdf, read, word_of

from inhouse.errors import Interrupted, ResourceError
from inhouse_documents import Options
from inhouse_documents.cache import NAME, Cache
from inhouse_documents.limits import Limits
from inhouse_documents.parsed import Parsed, Refused
from inhouse_documents.parser import Parser
from inhouse_documents.source import DocumentsSource

LIMITS = Limits(60, 512 << 20, 50_000_000)


def parse(parser: Parser, content: bytes = b"<p>words", kind: str = "html") -> Parsed | Refused:
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.flush()
        return parser.parse(stream, kind)


def signalling(number: int, when: Callable[[int], bool]) -> tuple[Parser, list[int]]:
    """A parser whose child gets a signal while it is waited for, when ``when(calls)``; and the pids it hit."""
    hit: list[int] = []
    calls = [0]

    def waiting(_: str) -> None:
        calls[0] += 1
        if parser.pid and when(calls[0]):
            hit.append(parser.pid)
            os.kill(parser.pid, number)

    parser = Parser(Limits(2, 512 << 20, 50_000_000), waiting)
    return parser, hit


def test_one_child_serves_many_files() -> None:
    with Parser(LIMITS) as parser:
        parse(parser)
        first = parser.pid
        assert [parse(parser, b"<p>%d" % at) for at in range(50)] == [Parsed(str(at)) for at in range(50)]
        assert parser.pid == first
    assert parser.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(first or 0, 0)


def test_a_child_that_was_killed_between_files_is_replaced() -> None:
    with Parser(LIMITS) as parser:
        parse(parser)
        first = parser.pid or 0
        os.kill(first, signal.SIGKILL)
        assert parse(parser) == Parsed("words")
        assert parser.pid not in (None, first)


def test_a_file_that_kills_the_child_is_left_out() -> None:
    page = b"<p>" + b"<i>word</i> " * 300_000
    on = [True]
    parser, hit = signalling(signal.SIGKILL, lambda _: on[0] and parser._served > 0)
    with parser:
        found = parse(parser, page)
        assert found == Refused("crash", "the parser died at it (killed by SIGKILL)", lasting=False)
        on[0] = False
        assert parse(parser) == Parsed("words")
        on[0] = True
        assert isinstance(parse(parser, page), Refused)
    assert len(set(hit)) == 3, "a child that had served others gets a second try, a fresh one does not"


def test_a_child_that_hangs_is_ended() -> None:
    on = [True]
    parser, hit = signalling(signal.SIGSTOP, lambda _: on[0] and parser._served > 0)
    with parser:
        found = parse(parser, b"<p>" + b"<i>word</i> " * 300_000)
        assert found == Refused("time", "takes longer than 2 seconds to parse", lasting=False)
        on[0] = False
        assert parse(parser) == Parsed("words")
        assert parser.pid not in hit


def test_a_file_that_takes_too_much_memory_is_left_out() -> None:
    body = b"".join(b"<w:p><w:r><w:t>%d</w:t></w:r></w:p>" % at for at in range(150_000))
    head = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    content = changed(word_of("x"), {"word/document.xml": head + body + b"</w:body></w:document>"})
    with Parser(Limits(60, 256 << 20, 50_000_000)) as parser:
        found = parse(parser, content, "docx")
        assert isinstance(found, Refused)
        assert found.kind in ("memory", "crash")
        assert parse(parser) == Parsed("words")


def test_a_child_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/bin/false", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", program)
        with Parser(LIMITS) as parser, pytest.raises(ResourceError, match="does not start"):
            parse(parser)
        assert parser.pid is None


def test_stopping_ends_the_child() -> None:
    def waiting(_: str) -> None:
        if parser._served:
            raise Interrupted("stopped")

    parser = Parser(LIMITS, waiting)
    with pytest.raises(Interrupted), parser:
        parse(parser, b"<p>" + b"<i>word</i> " * 300_000)
    assert parser.pid is None


def test_a_long_pdf_has_more_time_and_says_where_it_is() -> None:
    assert [Limits(60, 0, 0).allowed(pages) for pages in (0, 99, 100, 350, 5000)] == [60, 60, 120, 240, 600]
    said: list[str] = []
    with Parser(Limits(2, 512 << 20, 50_000_000), said.append) as parser:
        long = pdf(["\n".join(f"line {at} of page {page}" for at in range(20)) for page in range(900)])
        found = parse(parser, long, "pdf")
        assert isinstance(found, Parsed), found
        assert len(found.pages) == 900
    assert any(each.endswith(" of 900") for each in said)


def handbook(folder: Path) -> Path:
    folder.mkdir()
    for at in range(6):
        (folder / f"page{at}.html").write_text(f"<h1>Page {at}</h1><p>About subject{at} and thing{at * 7}.")
        (folder / f"paper{at}.pdf").write_bytes(pdf([f"Paper {at}", f"Of matter{at} and item{at * 5}."]))
        (folder / f"letter{at}.docx").write_bytes(word_of(f"Letter {at} of person{at}, place{at * 3}."))
        (folder / f"note{at}.md").write_text(f"# Note {at}\n\nOn topic{at} and case{at * 11}.")
    (folder / "scan.pdf").write_bytes(pdf([""]))
    return folder


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    ask = Parser.parse

    def parse_and_count(self: Parser, stream: Any, kind: str) -> Parsed | Refused:
        asked.append(kind)
        return ask(self, stream, kind)

    monkeypatch.setattr(Parser, "parse", parse_and_count)
    return asked


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from documents_made import FolderStep
from inhouse_documents import Options
from inhouse_documents.source import DocumentsSource
def before(name):
    if name == sys.argv[4]:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        print(children.read_text() if children.exists() else "", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
DocumentsSource(Options(Path(sys.argv[2]))).produce(FolderStep(Path(sys.argv[3]), before=before))
"""


@pytest.mark.parametrize(("name", "done"), [("letter0.docx", 0), ("paper4.pdf", 16)])
def test_killed_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, done: int
) -> None:
    folder = handbook(tmp_path / "docs")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder), str(tmp_path / "killed"), name]
    killed = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    asked = counted(monkeypatch)
    again = read(folder, tmp_path / "again", checkpoints=tmp_path / "killed" / "checkpoints")
    assert len(asked) == 19 - done, "what was parsed is not parsed again"
    whole = read(folder, tmp_path / "whole")
    assert again.corpus == whole.corpus
    assert again.facts == whole.facts
    if Path("/proc/self/task").exists():
        assert bool(killed.stdout.split()) == (done > 0)
    for pid in killed.stdout.split():
        for _ in range(600):  # it ends when it sees that nobody is there
            if not alive(int(pid)):
                break
            time.sleep(0.1)
        assert not alive(int(pid))


def alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
            and b"inhouse_documents" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


def test_only_what_changed_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = handbook(tmp_path / "docs")
    asked = counted(monkeypatch)
    kept = tmp_path / "kept"
    kept.mkdir()

    def run(name: str, **options: Any) -> FolderStep:
        step = FolderStep(tmp_path / name)
        DocumentsSource(Options(folder, **options), kept).produce(step)  # type: ignore[arg-type]
        return step

    first = run("1")
    assert len(asked) == 19
    assert run("2").corpus == first.corpus
    assert len(asked) == 19, "scans are kept too"
    (folder / "page0.html").rename(folder / "renamed.html")
    (folder / "page1.html").write_text("<p>Something else.")
    changed_ = run("3").rows()
    assert asked[19:] == ["html"]
    assert changed_["renamed"]["text"] == first.rows()["page0"]["text"]
    run("4", unpacked="100MB")
    assert len(asked) == 20 + 19, "another limit may give another text"


def test_a_run_takes_over_what_the_one_before_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = handbook(tmp_path / "docs")
    read(folder, tmp_path / "1")
    first = tmp_path / "1" / "output"
    (folder / "page0.html").rename(folder / "renamed.html")
    (folder / "page1.html").write_text("<p>Something else.")
    (folder / "page2.html").unlink()
    asked = counted(monkeypatch)
    second = read(folder, tmp_path / "2", made=[tmp_path / "none", first])
    assert asked == ["html"]
    assert any("17 files are as before" in each for each in second.notices)
    whole = read(folder, tmp_path / "whole")
    assert (second.corpus, second.parsed, second.facts) == (whole.corpus, whole.parsed, whole.facts)
    assert first.joinpath("corpus.jsonl").exists()


def test_what_is_damaged_beside_a_corpus_is_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = handbook(tmp_path / "docs")
    whole = read(folder, tmp_path / "1")
    lines = whole.parsed.splitlines(keepends=True)
    assert len(lines) == 19
    lines[0] = lines[0].replace(b"person0", b"person9", 1)
    lines[1] = b"[" * 100_000 + b"\n"
    lines[2] = lines[2][: len(lines[2]) // 2] + b"\n"
    lines[3] = b"\xff\n"
    lines[4] = b'{"key": 5}\n'
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "parsed.jsonl").write_bytes(b"".join(lines))
    asked = counted(monkeypatch)
    again = read(folder, tmp_path / "2", made=[damaged])
    assert len(asked) == 5
    assert (again.corpus, again.parsed) == (whole.corpus, whole.parsed)


def test_nothing_lies_beside_a_corpus_of_plain_texts(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# One\n\nText.")
    read(tmp_path / "docs", tmp_path / "1")
    assert [each.name for each in (tmp_path / "1" / "output").iterdir()] == ["corpus.jsonl"]


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    for damaged in (b"", b"text" * 5000, b"SQLite format 3\0" + b"\xff" * 9000):
        (tmp_path / NAME).write_bytes(damaged)
        cache = Cache(tmp_path)
        assert cache.get("a") is None
        cache.put("a", Parsed("text", pages=(0, 2)))
        cache.put("b", Refused("no-text", "has no text"))
        cache.close()
        again = Cache(tmp_path)
        assert again.get("a") == Parsed("text", pages=(0, 2))
        assert again.get("b") == Refused("no-text", "has no text")
        again._connection.execute("UPDATE parsed SET result = 'x'")
        assert again.get("a") is None
        again.close()
        for each in tmp_path.iterdir():
            each.unlink()


def test_interrupted_it_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = handbook(tmp_path / "docs")

    def stop(name: str) -> None:
        if name == "paper0.pdf":
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        DocumentsSource(Options(folder)).produce(FolderStep(tmp_path / "1", before=stop))  # type: ignore[arg-type]
    asked = counted(monkeypatch)
    read(folder, tmp_path / "2", checkpoints=tmp_path / "1" / "checkpoints")
    assert asked == ["pdf"] * 7
