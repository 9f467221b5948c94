"""Files and folders that somebody made to do harm: left out with the reason, and the rest goes on."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents_made import changed, encrypted, lying, pdf, read, word_of

from inhouse.values import Artifact
from inhouse_documents.limits import Limits
from inhouse_documents.parsed import Parsed, Refused
from inhouse_documents.parser import Parser, _environment

UNPACKED = 30_000_000


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(Limits(20, 512 << 20, UNPACKED)) as made:
        yield made


def parse(parser: Parser, content: bytes, kind: str) -> Parsed | Refused:
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.flush()
        return parser.parse(stream, kind)


def refused(parser: Parser, content: bytes, kind: str) -> Refused:
    found = parse(parser, content, kind)
    assert isinstance(found, Refused), found
    return found


BODY = (
    b'<?xml version="1.0"?>%s<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
    b"<w:body>%s</w:body></w:document>"
)
DOCUMENT = "word/document.xml"


def paragraph(text: bytes) -> bytes:
    return b"<w:p><w:r><w:t>" + text + b"</w:t></w:r></w:p>"


def docx(body: bytes, head: bytes = b"") -> bytes:
    return changed(word_of("x"), {DOCUMENT: BODY % (head, body)})


def test_zip_bombs(parser: Parser) -> None:
    big = b" " * (UNPACKED + 1)
    found = refused(parser, changed(word_of("x"), {"word/media/a.png": big}), "docx")
    assert (found.kind, "unpacks to" in found.reason) == ("too-large", True)
    packed = changed(word_of("x"), {"word/media/a.png": b" " * (UNPACKED - 2_000_000)})
    assert "times its size" in refused(parser, packed, "docx").reason
    many = changed(word_of("x"), {f"word/{at}.bin": b"" for at in range(10_001)})
    assert "files" in refused(parser, many, "docx").reason


def test_a_zip_directory_that_lies(parser: Parser) -> None:
    body = b"".join(paragraph(b"word %d" % at) for at in range(400_000))
    content = docx(body)
    for size in (10, 1000):
        found = refused(parser, lying(content, DOCUMENT, size), "docx")
        assert found.kind == "unreadable"


def test_entities_that_multiply(parser: Parser) -> None:
    levels = b"".join(b'<!ENTITY a%d "%s">' % (at + 1, b"&a%d;" % at * 10) for at in range(9))
    head = b'<!DOCTYPE x [<!ENTITY a0 "lol">' + levels + b"]>"
    assert "DTD" in refused(parser, docx(paragraph(b"&a9;"), head), "docx").reason
    outside = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
    assert "DTD" in refused(parser, docx(paragraph(b"&a;"), outside), "docx").reason
    hidden = (BODY % (head, paragraph(b"&a9;"))).decode().replace("?>", ' encoding="UTF-16"?>', 1).encode("utf-16")
    assert "DTD" in refused(parser, changed(word_of("x"), {DOCUMENT: hidden}), "docx").reason


def test_deep_nesting() -> None:
    """Some of it takes an HTML parser quadratic time: then the limit ends it."""
    deep = 100_000
    with Parser(Limits(3, 512 << 20, UNPACKED)) as parser:
        for tag in (b"b", b"h1", b"table><tr><td", b"div"):
            found = parse(parser, b"<p>before</p>" + (b"<" + tag + b">") * deep + b"inside", "html")
            assert "inside" in found.text if isinstance(found, Parsed) else found.kind == "time", tag
        plain = parse(parser, b"<span>" * deep + b"inside" + b"</span>" * deep, "html")
        assert plain == Parsed("inside")
        nested = b"<w:sdt><w:sdtContent>" * deep + paragraph(b"x") + b"</w:sdtContent></w:sdt>" * deep
        refused(parser, docx(nested), "docx")
        assert parse(parser, b"<p>goes on</p>", "html") == Parsed("goes on")


def test_pdf_streams_that_unpack_to_much() -> None:
    def pack(drawn: bytes) -> tuple[bytes, bytes]:
        return zlib.compress(drawn + b" " * 100_000_000), b"/Filter /FlateDecode"

    def long(drawn: bytes) -> tuple[bytes, bytes]:
        text = b"BT /F1 12 Tf " + b"(word word word) Tj T* " * 100_000 + b"ET"
        return zlib.compress(text), b"/Filter /FlateDecode"

    with Parser(Limits(20, 512 << 20, 1_000_000)) as parser:
        assert refused(parser, pdf(["text"], stream=pack), "pdf").kind in ("unreadable", "memory")
        assert refused(parser, pdf(["text"], stream=long), "pdf").kind == "too-large"
        assert parse(parser, pdf(["goes on"]), "pdf") == Parsed("goes on", pages=(0,))


def test_pdf_that_refers_to_itself(parser: Parser) -> None:
    content = pdf(["text"])
    for old, new in (
        (b"/Kids [5 0 R]", b"/Kids [2 0 R]"),
        (b"/Parent 2 0 R", b"/Parent 5 0 R"),
        (b"/Contents 4 0 R", b"/Contents 5 0 R"),
    ):
        assert old in content, old
        found = parse(parser, content.replace(old, new), "pdf")
        assert isinstance(found, (Parsed, Refused))


def test_what_a_parser_may_not_do(tmp_path: Path) -> None:
    """The child's own limits, tried from inside of such a process."""
    code = """
import json, os, socket, subprocess, sys
from inhouse.values import Artifact
from inhouse_documents.limits import Limits, confine
import urllib.request, tempfile
confine(Limits(10, 400 << 20, 10))
tried = {
    "network": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1]))),
    "lookup": lambda: socket.getaddrinfo("localhost", 80),
    "process": lambda: subprocess.run(["true"]),
    "fork": lambda: os.fork(),
    "shell": lambda: os.system("true"),
    "read": lambda: open(sys.argv[2]),
    "read by path": lambda: os.open(sys.argv[2], os.O_RDONLY),
    "write": lambda: open(sys.argv[2] + ".new", "w"),
    "temporary": lambda: tempfile.TemporaryFile(),
    "memory": lambda: bytearray(600 << 20),
}
came = {}
for name, do in tried.items():
    try:
        do()
        came[name] = "done"
    except BaseException as error:
        came[name] = type(error).__name__
print(json.dumps(came))
"""
    own = tmp_path / "own"
    own.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-P", "-c", code, str(server.getsockname()[1]), str(own)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(os.environ))
    came = json.loads(done.stdout)
    assert came.pop("memory") == "MemoryError"
    assert set(came.values()) <= {"PermissionError", "FileNotFoundError"}, done.stdout
    assert list(tmp_path.iterdir()) == [own]


def test_the_child_inherits_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with Parser(Limits(10, 512 << 20, 1000)) as parser, tempfile.TemporaryFile() as held:
        os.set_inheritable(held.fileno(), True)
        parse(parser, b"<p>x", "html")
        own = Path(f"/proc/{parser.pid}")
        if not own.is_dir():
            pytest.skip("no /proc here")
        assert b"SECRET_TOKEN" not in (own / "environ").read_bytes()
        assert str((own / "cwd").readlink()) == "/"
        left = sorted(int(each.name) for each in (own / "fd").iterdir())
        assert len(left) <= 4, "stdin, stdout and its copy, stderr"


def test_odd_paths(tmp_path: Path) -> None:
    folder, outside = tmp_path / "docs", tmp_path / "outside"
    (folder / ".git").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.md").write_text("secret words")
    (folder / "fine.md").write_text("fine words")
    (folder / ".hidden.md").write_text("hidden words")
    (folder / ".git" / "a.md").write_text("git words")
    (folder / "link.md").symlink_to(outside / "secret.md")
    (folder / "up.md").symlink_to("../outside/secret.md")
    (folder / "away").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "gone.md").symlink_to(folder / "nowhere.md")
    os.mkfifo(folder / "pipe.md")
    (folder / "folder.md").mkdir()
    (folder / "folder.md" / "inside.txt").write_text("inside words")
    (folder / "image.png").write_bytes(b"\x89PNG")
    (folder / "a\n\x1b[31m.md").write_text("odd name")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.md")).write_text("no utf-8 name")
    step = read(folder, tmp_path / "out")
    assert {row["path"]: row["id"] for row in step.rows().values()} == {
        "\\xff.md": "\\xff", "a\\x0a\\x1b[31m.md": "a\\x0a\\x1b[31m", "fine.md": "fine", "folder.md/inside.txt": "inside",
    }  # fmt: skip
    assert b"secret" not in step.corpus
    assert step.skipped() == {
        ".git": "hidden", ".hidden.md": "hidden", "link.md": "link", "up.md": "link", "away": "link", "loop": "link",
        "gone.md": "link", "pipe.md": "special", "image.png": "other-kind",
    }  # fmt: skip
    assert all(line.isprintable() for line in step.notices)


def test_names_that_lie(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, content in {
        "pdf.docx": pdf(["pdf words"]),
        "word.pdf": word_of("word words"),
        "page.md": b"<!DOCTYPE html><p>page <b>words</b><script>x</script>",
        "binary.txt": bytes(range(256)) * 8,
        "text.pdf": b"only text",
        "zip.docx": changed_zip({"a.txt": b"a"}),
        "sheet.docx": changed_zip({"xl/workbook.xml": b"<a/>"}),
        "old.docx": b"\xd0\xcf\x11\xe0" + b"\x00" * 600,
        "cut.docx": word_of("x")[:200],
    }.items():
        (folder / name).write_bytes(content)
    step = read(folder, tmp_path / "out")
    assert {row["path"]: row["text"] for row in step.rows().values()} == {
        "page.md": "page words", "pdf.docx": "pdf words", "word.pdf": "word words",
    }  # fmt: skip
    assert step.skipped() == {
        "binary.txt": "wrong-kind", "text.pdf": "wrong-kind", "old.docx": "wrong-kind", "zip.docx": "unreadable",
        "sheet.docx": "unreadable", "cut.docx": "unreadable",
    }  # fmt: skip
    assert "Excel" in step.reason("sheet.docx")
    assert "before 2007" in step.reason("old.docx")
    assert step.facts["findings"]["wrong-kind"] == 6


def changed_zip(parts: dict[str, bytes]) -> bytes:
    """A ZIP file of these members."""
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    return changed(empty.getvalue(), parts)


def test_long_runs_take_no_longer_than_their_length(tmp_path: Path) -> None:
    """Each would take hours where a pattern goes back and forth."""
    run = " " * 300_000
    folder = tmp_path / "docs"
    folder.mkdir()
    for at, text in enumerate(
        (f"# a{run}b", f"# a{run}#{run}b", f"---\na: x{run}y\nb: [{run}x{run}\n---\ntext", "#" * 300_000, f"a{run}\n\nb{run}",
         f"```{run}\n# no\n```\n# Title {'#' * 300_000}", f"<html>{run}<p>{run}a{run}b", f"<!--{run}", "-" * 300_000)
    ):  # fmt: skip
        (folder / f"{at}.md").write_text(text)
        (folder / f"{at}.html").write_text(f"<p style='display{run}:'>page {text}")
    (folder / "a.csv").write_text(f"a,b\n{run[:90_000]}x,{'y' * 90_000}\n")
    (folder / "a.pdf").write_bytes(pdf([f"a{run}b"]))
    step = read(folder, tmp_path / "out", near_duplicates=1.0)
    assert step.rows()["5.md"]["title"] == "Title"
    assert "time" not in step.facts["findings"]


def test_odd_characters(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"one\x00two \x1b[31mred\x07 \xff end" + b" more words" * 50)
    (folder / "b.md").write_bytes(b"\xef\xbb\xbf# T\x00itle\r\n\r\nText\rmore\r\n" + "words \u2028 \U0001f600".encode())
    (folder / "c.jsonl").write_text(
        '{"text": "half \\ud83d pair \\u0000", "title": "\\u001b[1m", "id": "x\\ny", "metadata": {"k\\u0007": "v\\ud800"}}\n'
    )
    (folder / "d.txt").write_bytes("UTF-16 text".encode("utf-16"))
    (folder / "e.txt").write_bytes("no mark".encode("utf-16-le") * 20)
    step = read(folder, tmp_path / "out")
    rows = step.rows()
    assert rows["a"]["text"].startswith("one two  [31mred  ÿ end")
    assert (rows["b"]["title"], rows["b"]["text"]) == ("T itle", "# T itle\n\nText\nmore\nwords \u2028 \U0001f600")
    assert (rows["x y"]["text"], rows["x y"]["title"]) == ("half \ufffd pair", "[1m")
    assert rows["x y"]["metadata"] == {"k ": "v\ufffd"}
    assert rows["d"]["text"] == "UTF-16 text"
    assert step.skipped() == {"e.txt": "wrong-kind"}
    assert step.corpus.count(b"\n") == len(rows)


def test_a_folder_of_all_that_becomes_a_base_that_answers(tmp_path: Path) -> None:
    knowledge = pytest.importorskip("inhouse_knowledge.indexer")
    sys.path.append(str(Path(knowledge.__file__).parents[2] / "tests"))
    standins = pytest.importorskip("knowledge_standins")
    (tmp_path / "secret.md").write_text("the password is swordfish")
    folder = tmp_path / "docs"
    folder.mkdir()
    deep = 20_000
    for name, content in {
        "bomb.docx": changed(word_of("x"), {"word/media/a.png": b" " * 3_000_000}),
        "climbs.docx": changed(word_of("Words of a climber."), {"../../climbed.txt": b"x", "/climbed.txt": b"x"}),
        "deep.html": b"<p>Words of a diver.</p>" + b"<span>" * deep + b"</span>" * deep,
        "locked.pdf": encrypted(pdf(["locked words"]), "word"),
        "letter.txt": word_of("Words of a liar."),
        "odd.txt": b"Words of a \x1b[31m painter\x00 '); DROP TABLE documents; -- <script>",
        "ids.jsonl": b'{"id": "../../../etc/passwd", "text": "Words of a burglar."}\n{"id": "a\' OR 1=1", "text": "Words of a clerk."}',
    }.items():
        (folder / name).write_bytes(content)
    (folder / "up.md").symlink_to("../secret.md")
    step = read(folder, tmp_path / "out", unpacked="2MB")
    assert step.skipped() == {"bomb.docx": "too-large", "locked.pdf": "encrypted", "up.md": "link"}
    base_step = standins.FolderStep(tmp_path / "base", standins.HashingEmbedder())
    before = sorted(tmp_path.rglob("*"))
    knowledge.SqliteIndexer().index(base_step, Artifact("text/corpus", step.outputs["text/corpus"], "0"))
    assert {path.parts[len(tmp_path.parts)] for path in set(tmp_path.rglob("*")) - set(before)} == {"base"}
    assert not list(tmp_path.parent.glob("climbed*")) and not list(tmp_path.rglob("climbed*"))
    base = standins.opened(base_step.output, dense_weight=0)
    queries = ('"{}', "NEAR({} 5)", "text:{} AND", "{}* OR NOT", "'; {} --", "\x00{}\x1b")
    for who in ("climber", "diver", "liar", "painter", "burglar", "clerk"):
        for query in queries:
            assert who in base.search(query.format(who), 1)[0].text, query
    assert not any("swordfish" in hit.text for hit in base.search("password swordfish words", 50))
    base.close()
