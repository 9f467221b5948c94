"""Each format to text: what a reader would see, with headings that the chunker finds."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents_made import encrypted, pdf, word, word_of
from hypothesis import given
from hypothesis import strategies as st

from inhouse_documents import frontmatter
from inhouse_documents.decode import clean, encoding, markup
from inhouse_documents.findings import Findings, Place
from inhouse_documents.limits import Limits
from inhouse_documents.parsed import Parsed, Refused, dumps, loads, pages
from inhouse_documents.parser import Parser
from inhouse_documents.rows import csv_rows, jsonl_rows
from inhouse_documents.sniff import sniff

HERE = Place(Path("t"), "t")


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(Limits(60, 1 << 30, 10_000_000)) as made:
        yield made


def parsed(parser: Parser, content: bytes | str, kind: str = "html") -> Parsed:
    found = parse(parser, content, kind)
    assert isinstance(found, Parsed), found
    return found


def parse(parser: Parser, content: bytes | str, kind: str) -> Parsed | Refused:
    with tempfile.TemporaryFile() as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        return parser.parse(stream, kind)


PAGE = """<!DOCTYPE html><html><head><title>Shop | Returns</title><style>p {color: red}</style>
<script>alert("no")</script></head><body>
<nav><a href="/">Home</a> <a href="/cart">Cart</a></nav><div role="navigation">Menu</div>
<h1>Returns &amp;
 refunds</h1>
<p>Within <b>30</b>&nbsp;days,<br>in the   box.</p><div hidden>unseen</div><p style="display: none">unseen too</p>
<h2>Steps</h2>
<ol><li>Print the label<ul><li>at home</li><li>in a shop</li></ul></li><li><p>Send it</p></li></ol>
<table><caption>Fees</caption><thead><tr><th>Country<th>Fee</thead>
<tr><td>Austria</td><td>3 | 4&nbsp;€</td></tr><tr><td><p>Italy</p><p>and Malta</p></td></tr></table>
<pre>
if a:
    b = "`````"
</pre>
<button>Buy</button><svg><title>icon</title><text>icon</text></svg><noscript>no</noscript>
<blockquote>Said so.</blockquote>tail</body></html>"""

MARKDOWN = """# Returns & refunds

Within 30 days,
in the box.

## Steps

1. Print the label
   - at home
   - in a shop
2. Send it

Fees

| Country | Fee |
|---|---|
| Austria | 3 \\| 4 € |
| Italy and Malta |  |

``````
if a:
    b = "`````"
``````

Said so.

tail"""


def test_html_becomes_markdown(parser: Parser) -> None:
    assert parsed(parser, PAGE) == Parsed(MARKDOWN, "Returns & refunds")


def test_tables_that_are_layouts_are_written_as_they_come(parser: Parser) -> None:
    page = """<table><tr><td>Logo</td><td><h2>News</h2><p>One.</p>
    <table><tr><td>a</td><td>b</td></tr></table>after</td></tr><tr><td>Foot</td></tr></table>"""
    assert parsed(parser, page).text == "Logo\n\n## News\n\nOne.\n\n| a | b |\n|---|---|\n\nafter\n\nFoot"
    assert parsed(parser, "<table><tr><td>only</td></tr><tr><td>lines</td></tr></table>").text == "only\n\nlines"


def test_html_titles_and_nothing(parser: Parser) -> None:
    assert parsed(parser, "<title> A\n title </title><p>text").title == "A title"
    assert parsed(parser, "just text").text == "just text"
    assert parse(parser, "<script>x</script>", "html") == Refused("no-text", "has no text")
    assert parse(parser, "", "html") == Refused("no-text", "has no text")


def test_html_control_characters_come_back_as_references(parser: Parser) -> None:
    found = parsed(parser, "<h1>a&#27;[31m</h1><p>b\x00c&#x85;&#xD800;d")
    assert found.text == "# a [31m\n\nb c…\ufffdd"
    assert found.title == "a [31m"
    assert {kind for kind, _ in found.mended} == {"control-character"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>Grüße €".encode(), "<p>Grüße €"),
        ("\ufeff<p>Grüße".encode(), "<p>Grüße"),
        ("<p>Grüße".encode("utf-16"), "<p>Grüße"),
        ('<meta charset="utf-8"><p>Grüße'.encode("cp1252"), '<meta charset="utf-8"><p>Grüße'),
        ("<p>Grüße €".encode("cp1252"), "<p>Grüße €"),
        ('<meta charset="ISO-8859-1"><p>€'.encode("cp1252"), '<meta charset="ISO-8859-1"><p>€'),
        ('<meta content="text/html; charset=koi8-r"><p>Привет'.encode("koi8-r"), '<meta content="text/html; charset=koi8-r"><p>Привет'),
        (b'<meta charset="punycode"><p>\xe9', '<meta charset="punycode"><p>é'),
        (b'<meta charset="zlib"><p>\xe9', '<meta charset="zlib"><p>é'),
        (b'<meta charset="windows-999"><p>\xe9', '<meta charset="windows-999"><p>é'),
        ('<meta charset="utf-8"><p>Ж'.encode(), '<meta charset="utf-8"><p>Ж'),
    ],
)  # fmt: skip
def test_encodings_of_html(data: bytes, text: str) -> None:
    assert markup(data) == text


def test_encodings_of_text() -> None:
    long = "ä" * (1 << 20)  # a character lies across the pieces that are read
    for data, expected in (
        (f"x{long}".encode(), ("utf-8", -1)),
        (b"x" + b"\xe4" * 9, ("cp1252", 1)),
        (f"x{long}".encode() + b"\xff", ("cp1252", (2 << 20) + 1)),
        ("ä".encode()[:1], ("cp1252", 0)),
        ("ä".encode("utf-16"), ("utf-16", -1)),
        ("ä".encode("utf-32"), ("utf-32", -1)),
        ("\ufeffä".encode(), ("utf-8-sig", -1)),
        (b"", ("utf-8", -1)),
    ):
        stream = io.BytesIO(data)
        assert encoding(stream) == expected
        assert stream.tell() == 0


def fill(document: Any) -> None:
    document.add_heading("Handbook", 0)
    document.add_paragraph("Welcome.")
    document.add_heading("Holidays", 1)
    document.add_paragraph("Thirty days.", style="List Bullet")
    document.add_paragraph("More after ten years.", style="List Bullet")
    document.add_heading("Details", 2)
    table = document.add_table(rows=2, cols=2)
    for at, text in enumerate(("Years", "Days", "0", "30")):
        table.cell(at // 2, at % 2).text = text
    document.add_paragraph("The end.")


def test_docx_becomes_markdown(parser: Parser) -> None:
    assert parsed(parser, word(fill), "docx") == Parsed(
        "# Handbook\n\nWelcome.\n\n# Holidays\n\n- Thirty days.\n- More after ten years.\n\n## Details\n\n"
        "| Years | Days |\n|---|---|\n| 0 | 30 |\n\nThe end.",
        "Handbook",
    )
    assert parse(parser, word_of(), "docx") == Refused("no-text", "has no text")


def test_pdf_pages(parser: Parser) -> None:
    found = parsed(parser, pdf(["", "Warranty\nBoots: 18 months.", "", "Tents: 3 years (poles)."], "Care"), "pdf")
    assert found.title == "Care"
    assert found.text.split("\n\n") == ["", "Warranty\nBoots: 18 months.", "", "Tents: 3 years (poles)."]
    assert found.pages == (0, 2, found.text.index("Boots") + len("Boots: 18 months.") + 2, found.text.index("Tents"))
    assert found.text[found.pages[1] :].startswith("Warranty")
    assert found.mended == ()
    mostly = parsed(parser, pdf(["Text", "", ""]), "pdf")
    assert mostly.mended == (("empty-pages", "2 of 3 pages have no text (scans?)"),)


@pytest.mark.parametrize("title", ["Microsoft Word - draft.doc", "draft.docx", "untitled", "  ", "Untitled-1"])
def test_pdf_titles_that_programs_write_are_none(parser: Parser, title: str) -> None:
    assert parsed(parser, pdf(["text"], title), "pdf").title == ""


def test_pdf_scans_and_passwords(parser: Parser) -> None:
    scan = parse(parser, pdf(["", ""]), "pdf")
    assert isinstance(scan, Refused)
    assert (scan.kind, "OCR" in scan.reason) == ("no-text", True)
    for algorithm in ("RC4-128", "AES-256"):
        assert parse(parser, encrypted(pdf(["secret"]), "word", algorithm), "pdf") == Refused(
            "encrypted", "is protected by a password"
        )
        assert parsed(parser, encrypted(pdf(["may be read"]), "", algorithm), "pdf").text == "may be read"


def test_damaged_files_are_refused(parser: Parser) -> None:
    good = pdf(["text"] * 3)
    for content, kind in (
        (b"%PDF-1.4\n", "pdf"),
        (b"%PDF-1.7\n" + b"\xff" * 5000, "pdf"),
        (b"PK\x03\x04" + b"\x00" * 50, "docx"),
        (word_of("text")[:-40], "docx"),
        (b"", "docx"),
    ):
        found = parse(parser, content, kind)
        assert isinstance(found, Refused), content[:20]
        assert found.kind in ("unreadable", "no-text")
    assert parsed(parser, good.replace(b"startxref\n", b"startxref\n9"), "pdf").text.count("text") == 3


def table(content: str | bytes, longest: int = 100_000) -> tuple[list[tuple[int, str, str]], Findings]:
    findings = Findings()
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    return [(row.place.line, row.title, row.text) for row in csv_rows(stream, HERE, findings, longest)], findings


def test_csv_rows_carry_their_columns() -> None:
    expected = [(2, "Boots", "product: Boots\nprice: 79"), (4, "Tent, small", "product: Tent, small\nprice: 120")]
    for content in (
        'product,price\nBoots,79\n\n"Tent, small",120\n',
        "product;price\r\nBoots;79\r\n\r\nTent, small;120\r\n",
        "\ufeffproduct\tprice\nBoots\t79\n\t\nTent, small\t120",
        "product|price\rBoots|79\r\rTent, small|120",
        "product,price\nBoots,79\n\n\"Tent, small\",120\n".encode("utf-16"),
    ):  # fmt: skip
        assert table(content)[0] == expected, content
    assert table("sep=;\na;b\n1,5;2,5\n")[0] == [(3, "1,5", "a: 1,5\nb: 2,5")]
    assert table("a,b\n1,2,3\n")[0] == [(2, "1", "a: 1\nb: 2\ncolumn 3: 3")]
    assert table('a,b\n"two\nlines",2\n3,4\n')[0] == [(2, "two lines", "a: two\nlines\nb: 2"), (4, "3", "a: 3\nb: 4")]
    assert table("name\nAda\n")[0] == [(2, "Ada", "name: Ada")]
    for nothing in ("", "\n\n", "a,b\n", "a,b"):
        assert table(nothing)[0] == []
    rows, findings = table("größe,b\nübergroß,2\n".encode("cp1252"))
    assert rows == [(2, "übergroß", "größe: übergroß\nb: 2")]
    assert findings.counts == {"encoding": 1}


def test_csv_that_stops_being_csv() -> None:
    rows, findings = table('a,b\n1,2\n"' + "never closed\n" * 20_000)
    assert rows == [(2, "1", "a: 1\nb: 2")]
    assert findings.first["csv"].place == "t:3"
    rows, findings = table("a,b\n1,2\n" + "x" * 200 + "\n3,4\n", longest=100)
    assert rows == [(2, "1", "a: 1\nb: 2")]
    assert findings.first["too-large"].place == "t:3"


def test_jsonl_rows() -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one", "id": "x", "title": "One", "metadata": {"tenant": "north", "years": [1, 2.5]}}',
        b'{"text": "two", "id": 2, "title": null, "metadata": null}',
        b"",
        b'{"text": 3}',
        b'{"text": "NaN", "n": NaN}',
        b"[" * 100_000,
        b'{"text": "\xff"}',
        b'{"text": "' + b"x" * 200_000 + b'"}',
        b'{"text": "a", "metadata": [1]}',
        b'{"text": "a", "metadata": {"deep": {}}}',
        b'{"text": "last", "metadata": {}}',
    ]
    findings = Findings()
    rows = list(jsonl_rows(io.BytesIO(b"\n".join(lines)), HERE, findings, 150_000))
    assert [(row.place.line, row.id, row.title, row.text) for row in rows] == [
        (1, "x", "One", "one"), (2, "2", "", "two"), (11, "", "", "last"),
    ]  # fmt: skip
    assert rows[0].metadata == {"tenant": "north", "years": [1, 2.5]}
    assert findings.counts == {"no-text": 1, "json": 2, "encoding": 1, "too-large": 1, "metadata": 2}


def test_front_matter() -> None:
    text = """---
title: "Returns: how"
year: 2025   # of the rules
ratio: 1.5
public: true
code: 007
tags: [shop, "a, b", 3]
teams:
  - north
  - south
owner:
  name: Ada
quoted: "with \\" inside"
empty:
# a comment
---
# Text
"""
    front, body = frontmatter.split(text)
    assert body == "# Text\n"
    assert front.values == {
        "title": "Returns: how", "year": 2025, "ratio": 1.5, "public": True, "code": "007",
        "tags": ["shop", "a, b", 3], "teams": ["north", "south"],
    }  # fmt: skip
    assert front.passed == ["owner", "quoted"]
    for none in (
        "---\nA text between two rules.\n---\nmore",
        "---\na: 1\n",
        "# no",
        "",
        "---\n---\n",
        "----\na: 1\n---\n",
    ):
        assert frontmatter.split(none) == (frontmatter.FrontMatter(), none)


@given(
    st.lists(
        st.sampled_from(["---", "a: 1", "b:", "- x", "  c: 2", "[", "x: [", 'y: "', "..."]) | st.text(max_size=9)
    ).map("\n".join)
)
def test_any_front_matter_leaves_the_text(text: str) -> None:
    front, body = frontmatter.split(text)
    assert text.endswith(body)
    assert body == text or front.values or front.passed


@given(st.text())
def test_clean_text_can_be_stored(text: str) -> None:
    better, _ = clean(text)
    assert clean(better) == (better, [])
    made = Parsed(better, better, (0,))
    assert loads(dumps(made)) == made


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{}", b'{"text": "a\\u0007", "title": "", "pages": [], "mended": []}', b"[" * 100_000,
     b'{"text": "\\ud800", "title": "", "pages": [], "mended": []}',
     b'{"text": "a", "title": "", "pages": [1], "mended": []}', b'{"text": "a", "title": "", "pages": [0, 0], "mended": []}',
     b'{"text": "a", "title": "", "pages": [0, 2], "mended": []}', b'{"text": "a", "title": 3, "pages": [], "mended": []}',
     b'{"kind": "A B", "reason": "", "lasting": true}'],
)  # fmt: skip
def test_answers_of_the_child_are_not_trusted(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        loads(line)


@pytest.mark.parametrize(
    "line", [b'{"page": 0, "of": 1}', b'{"page": 2, "of": 1}', b'{"page": true, "of": 1}', b"[]", b"{"]
)
def test_pages_that_cannot_be(line: bytes) -> None:
    assert pages(b'{"page": 1, "of": 2}') == (1, 2)
    with pytest.raises(ValueError):  # noqa: PT011
        pages(line)


def test_content_tells_the_kind() -> None:
    for head, suffix, kind in (
        (b"%PDF-1.7", ".docx", "pdf"),
        (b"junk\n%PDF-1.7", ".pdf", "pdf"),
        (b"About %PDF-1.7", ".md", "markdown"),
        (b"PK\x03\x04", ".pdf", "docx"),
        (b"\n<!-- x --> <!doctype HTML>", ".md", "html"),
        (b'<?xml version="1.0"?>\n<html xmlns="x">', ".txt", "html"),
        (b"<div>Markdown may begin so</div>", ".md", "markdown"),
        (b"text", ".pdf", ""),
        (b"text", ".DOCX", ""),
        (b"\xd0\xcf\x11\xe0", ".docx", ""),
        (b"{\\rtf1", ".txt", ""),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", ".txt", ""),
        ("text".encode("utf-16"), ".txt", "text"),
        (b"one bell \x07 and one NUL \x00", ".txt", "text"),
        (b"", ".csv", "csv"),
    ):
        found = sniff(head, suffix)
        assert found.kind == kind, head
        assert bool(found.problem) == (
            kind != {".md": "markdown", ".txt": "text", ".csv": "csv"}.get(suffix, suffix[1:])
        )
