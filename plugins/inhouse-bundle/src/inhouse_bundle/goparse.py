"""Reads Go templates: the part of ``text/template`` that Ollama's templates are written in.

Text, fields, variables, constants, pipelines with parentheses, ``if``, ``else``, ``range``, ``with``, ``break``,
``continue``, comments and trim markers; no named templates. Reference: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from attrs import define, field, frozen

from inhouse.errors import DataError

DEPTH = 50
"""Blocks and parentheses in each other, at most."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<number>-?\d+(?![\w.]))|(?P<field>\.[A-Za-z_]\w*)"""
    r"""|(?P<variable>\$\w*)|(?P<word>[A-Za-z_]\w*)|(?P<sign>:=|[=|(),.])"""
)
_OPEN = re.compile(r"\{\{(-(?=\s))?")
_CLOSE = re.compile(r"(?:\s+-)?\}\}")
_COMMENT = re.compile(r"\s*/\*.*?\*/(?=(?:\s+-)?\}\})", re.DOTALL)
_BLOCKS = ("if", "range", "with")
_NOT_KNOWN = ("define", "template", "block")


class GoTemplateError(DataError):
    """A template, or data for it, that Go would refuse too, or that goes beyond the part that is known here."""


@frozen
class Operand:
    """A value and the ``path`` of fields from it. ``kind``: dot, root (``$``), variable, constant, call (a function
    without arguments), or pipe (parentheses)."""

    kind: Literal["dot", "root", "variable", "constant", "call", "pipe"]
    value: object = None
    path: tuple[str, ...] = ()


@frozen
class Pipe:
    """Commands, each with its operands; what one gives is the last argument of the next. ``names``: variables that
    are declared, or set, to what the last one gives."""

    commands: tuple[tuple[Operand, ...], ...]
    names: tuple[str, ...] = ()
    declares: bool = False


@frozen
class Text:
    """Text between actions."""

    text: str


@frozen
class Action:
    """Prints what a pipe gives, or sets variables."""

    pipe: Pipe


@frozen
class Jump:
    """``break`` or ``continue``."""

    word: str


@frozen
class Block:
    """``if``, ``range`` or ``with``, and what stands behind its ``else``."""

    word: str
    pipe: Pipe
    body: tuple["Node", ...]
    other: tuple["Node", ...] = ()


Node = Text | Action | Jump | Block


@frozen
class _Token:
    kind: str
    text: str
    glued: bool  # nothing stands between it and the token before


def parse(source: str) -> tuple[Node, ...]:
    """The nodes of a template. Raises ``GoTemplateError``."""
    parser = _Blocks(_cut(source))
    nodes, word = parser.nodes(0)
    if word is not None:
        raise GoTemplateError(f"{word!r} without a block that it ends")
    return nodes


def _cut(source: str) -> list[str | list[_Token]]:
    """Texts and the tokens of actions in turn; white space is gone where a marker trims it."""
    parts: list[str | list[_Token]] = []
    at, trim = 0, False
    while True:
        opened = _OPEN.search(source, at)
        text = source[at : opened.start() if opened else len(source)]
        text = text.lstrip(" \t\r\n") if trim else text
        if opened is None:
            return [*parts, text] if text else parts
        text = text.rstrip(" \t\r\n") if opened[1] else text
        parts += [text] if text else []
        tokens, at, trim = _action(source, opened.end())
        parts += [tokens] if tokens else []


def _action(source: str, at: int) -> tuple[list[_Token], int, bool]:
    """The tokens up to ``}}``, the place behind it, and whether it trims what follows. A comment has no tokens."""
    comment = _COMMENT.match(source, at)
    at = comment.end() if comment else at
    tokens: list[_Token] = []
    glued = False
    while True:
        if closed := _CLOSE.match(source, at):
            if not tokens and not comment:
                raise GoTemplateError("an action has nothing in it")
            return tokens, closed.end(), closed[0] != "}}"
        found = _TOKEN.match(source, at)
        if found is None or comment:
            raise GoTemplateError(f"cannot be read at {source[at : at + 20]!r}")
        kind = found.lastgroup or ""
        if kind != "space":
            tokens.append(_Token(kind, found[0], glued))
        glued, at = kind != "space", found.end()


@define
class _Blocks:
    """Turns parts into nodes; ``at`` is the next part."""

    parts: list[str | list[_Token]]
    at: int = 0

    def nodes(self, depth: int, *, loop: bool = False) -> tuple[tuple[Node, ...], str | None]:
        """Nodes up to an ``else`` (what follows it comes too, after a space) or ``end``, and which of them it was."""
        if depth > DEPTH:
            raise GoTemplateError(f"has more than {DEPTH} blocks in each other")
        found: list[Node] = []
        while self.at < len(self.parts):
            part = self.parts[self.at]
            self.at += 1
            if isinstance(part, str):
                found.append(Text(part))
                continue
            word = part[0].text if part[0].kind == "word" else ""
            if word in ("else", "end"):
                return tuple(found), word
            found.append(self._node(word, part, depth, loop))
        return tuple(found), None

    def _node(self, word: str, tokens: list[_Token], depth: int, loop: bool) -> Node:
        if word in _NOT_KNOWN:
            raise GoTemplateError(f"{word!r} is not known here")
        if word in ("break", "continue"):
            if not loop or len(tokens) > 1:
                raise GoTemplateError(f"{word!r} stands outside of a range")
            return Jump(word)
        if word in _BLOCKS:
            return self._block(word, tokens[1:], depth + 1, loop or word == "range")
        return Action(_Words(tokens).whole())

    def _block(self, word: str, tokens: list[_Token], depth: int, loop: bool) -> Block:
        pipe = _Words(tokens).whole(pair=word == "range")
        body, end = self.nodes(depth, loop=loop)
        other: tuple[Node, ...] = ()
        if end == "else":
            behind = self.parts[self.at - 1][1:]
            if behind:  # else if …: a block of its own, which the same end closes
                assert isinstance(behind, list)
                if behind[0].text not in ("if", "with"):
                    raise GoTemplateError(f"'else {behind[0].text}' is not known here")
                return Block(word, pipe, body, (self._block(behind[0].text, behind[1:], depth + 1, loop),))
            other, end = self.nodes(depth, loop=loop)
        if end != "end":
            raise GoTemplateError(f"{word!r} has no end")
        return Block(word, pipe, body, other)


@define
class _Words:
    """Turns the tokens of one action into a pipe."""

    tokens: list[_Token]
    at: int = field(default=0)

    def whole(self, *, pair: bool = False) -> Pipe:
        """All of it; ``pair``: two variables may be declared (the index and the element of a range)."""
        names, declares = self._names(pair)
        pipe = self._pipe(0)
        if self.at < len(self.tokens):
            raise GoTemplateError(f"{self.tokens[self.at].text!r} was not expected")
        return Pipe(pipe.commands, names, declares)

    def _names(self, pair: bool) -> tuple[tuple[str, ...], bool]:
        kinds = [each.text if each.kind == "sign" else each.kind for each in self.tokens[:4]]
        if pair and kinds[:4] == ["variable", ",", "variable", ":="]:
            self.at = 4
            return (self.tokens[0].text, self.tokens[2].text), True
        if kinds[:1] == ["variable"] and kinds[1:2] in ([":="], ["="]):
            self.at = 2
            return (self.tokens[0].text,), kinds[1] == ":="
        return (), False

    def _next(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _pipe(self, depth: int) -> Pipe:
        commands: list[tuple[Operand, ...]] = []
        while True:
            operands: list[Operand] = []
            while (token := self._next()) is not None and token.text not in ("|", ")"):
                self.at += 1
                operands.append(self._operand(token, depth))
            if not operands:
                raise GoTemplateError("a command has nothing in it")
            commands.append(tuple(operands))
            token = self._next()
            if token is None or token.text != "|":
                return Pipe(tuple(commands))
            self.at += 1

    def _operand(self, token: _Token, depth: int) -> Operand:
        path: list[str] = []
        operand = self._start(token, depth)
        if token.kind == "field":
            path.append(token.text[1:])
        while (behind := self._next()) is not None and behind.kind == "field" and behind.glued:
            path.append(behind.text[1:])
            self.at += 1
        if path and operand.kind in ("constant", "call"):
            raise GoTemplateError(f"{token.text!r} has no fields")
        return Operand(operand.kind, operand.value, tuple(path))

    def _start(self, token: _Token, depth: int) -> Operand:
        if token.kind == "field" or token.text == ".":
            return Operand("dot")
        if token.kind == "variable":
            return Operand("root") if token.text == "$" else Operand("variable", token.text)
        if token.kind == "word":
            known = {"true": True, "false": False, "nil": None}
            return Operand("constant", known[token.text]) if token.text in known else Operand("call", token.text)
        if token.kind in ("string", "number"):
            return Operand("constant", _constant(token.text))
        if token.text == "(" and depth < DEPTH:
            inner = self._pipe(depth + 1)
            closing = self._next()
            if closing is None or closing.text != ")":
                raise GoTemplateError("a parenthesis is not closed")
            self.at += 1
            return Operand("pipe", inner)
        raise GoTemplateError(f"{token.text!r} was not expected")


def _constant(text: str) -> object:
    if text[0] == "`":
        return text[1:-1]
    try:
        return json.loads(text)  # Go's escapes that occur in templates are JSON's
    except ValueError:
        raise GoTemplateError(f"the constant {text[:20]!r} is not known here") from None
