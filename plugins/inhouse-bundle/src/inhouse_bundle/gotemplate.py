"""Renders Go templates as Ollama does, without Go: bounded in steps and output, nothing outside the data is reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field

from .goparse import Action, Block, GoTemplateError, Jump, Node, Operand, Pipe, Text, parse

STEPS = 200_000
"""Nodes and operands that one rendering looks at, at most."""
CHARACTERS = 10_000_000
"""Of what it writes, at most."""


class _Jumped(Exception):
    """``break`` or ``continue``."""


def render(source: str, data: Mapping[str, Any]) -> str:
    """What the template ``source`` makes of ``data``: texts, integers, booleans, None, lists, and mappings as structs.

    Stricter than Go, which prints ``<no value>`` for what is not there: a missing field is an error. ``json`` (a
    function of Ollama's) writes a mapping's keys in their order in the alphabet, as Go does for maps. Raises
    ``GoTemplateError``.
    """
    run = _Run(data)
    run.nodes(parse(source), data)
    return "".join(run.written)


@define
class _Run:
    root: Mapping[str, Any]
    written: list[str] = field(factory=list)
    size: int = 0
    steps: int = 0
    scopes: list[dict[str, Any]] = field(factory=lambda: [{}])

    def nodes(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            self._step()
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Action):
                value = self.pipe(node.pipe, dot)
                if not node.pipe.names:
                    self._write(_printed(value))
            elif isinstance(node, Jump):
                raise _Jumped(node.word)
            else:
                self._block(node, dot)

    def _block(self, block: Block, dot: Any) -> None:
        self.scopes.append({})
        try:
            if block.word == "range":
                self._range(block, dot)
                return
            value = self.pipe(block.pipe, dot)
            if _true(value):
                self._scoped(block.body, value if block.word == "with" else dot)
            else:
                self._scoped(block.other, dot)
        finally:
            self.scopes.pop()

    def _range(self, block: Block, dot: Any) -> None:
        names = block.pipe.names
        items = self.pipe(Pipe(block.pipe.commands), dot)
        if items is not None and not isinstance(items, (list, tuple)):
            raise GoTemplateError("range goes over lists only here")
        for number, item in enumerate(items or ()):
            if names:
                values = (number, item) if len(names) == 2 else (item,)
                self._set(names, values, declares=block.pipe.declares)
            try:
                self._scoped(block.body, item)
            except _Jumped as jump:
                if str(jump) == "break":
                    break
        if not items:
            self._scoped(block.other, dot)

    def _scoped(self, nodes: Sequence[Node], dot: Any) -> None:
        depth = len(self.scopes)
        self.scopes.append({})
        try:
            self.nodes(nodes, dot)
        finally:
            del self.scopes[depth:]

    def pipe(self, pipe: Pipe, dot: Any) -> Any:
        """What the last command gives."""
        passed: tuple[Any, ...] = ()
        for command in pipe.commands:
            passed = (self._command(command, dot, passed),)
        if pipe.names:
            self._set(pipe.names, passed, declares=pipe.declares)
        return passed[0]

    def _set(self, names: Sequence[str], values: Sequence[Any], *, declares: bool) -> None:
        for name, value in zip(names, values, strict=True):
            scope = self.scopes[-1] if declares else next((s for s in reversed(self.scopes) if name in s), None)
            if scope is None:
                raise GoTemplateError(f"the variable {name} is not declared")
            scope[name] = value

    def _command(self, operands: Sequence[Operand], dot: Any, passed: tuple[Any, ...]) -> Any:
        first, rest = operands[0], operands[1:]
        if first.kind != "call":
            if rest or passed:
                raise GoTemplateError("a value that is no function has arguments")
            return self._value(first, dot)
        name = str(first.value)
        if name in ("and", "or"):
            return self._until(name == "or", rest, dot, passed)
        if name not in _FUNCTIONS:
            raise GoTemplateError(f"the function {name!r} is not known here")
        arguments = [*(self._value(each, dot) for each in rest), *passed]
        try:
            return _FUNCTIONS[name](*arguments)
        except (TypeError, ValueError, IndexError, KeyError, RecursionError) as error:
            raise GoTemplateError(f"{name} cannot be called with these arguments: {error}") from None

    def _until(self, wanted: bool, operands: Sequence[Operand], dot: Any, passed: tuple[Any, ...]) -> Any:
        """``or`` and ``and``: the first value that decides, or the last."""
        value: Any = None
        for each in operands:
            value = self._value(each, dot)
            if _true(value) is wanted:
                return value
        if passed:
            return passed[0]
        if not operands:
            raise GoTemplateError("'and' and 'or' want arguments")
        return value

    def _value(self, operand: Operand, dot: Any) -> Any:
        self._step()
        if operand.kind == "call":  # a function between arguments
            return self._command((operand,), dot, ())
        value = operand.value
        if operand.kind == "pipe":
            assert isinstance(value, Pipe)
            value = self.pipe(value, dot)
        elif operand.kind == "variable":
            value = self._variable(str(value))
        elif operand.kind != "constant":
            value = dot if operand.kind == "dot" else self.root
        for name in operand.path:
            if not isinstance(value, Mapping) or name not in value:
                raise GoTemplateError(f"there is no field .{name}")
            value = value[name]
        return value

    def _variable(self, name: str) -> Any:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        raise GoTemplateError(f"the variable {name} is not declared")

    def _step(self) -> None:
        self.steps += 1
        if self.steps > STEPS:
            raise GoTemplateError(f"takes more than {STEPS} steps")

    def _write(self, text: str) -> None:
        self.size += len(text)
        if self.size > CHARACTERS:
            raise GoTemplateError(f"writes more than {CHARACTERS} characters")
        self.written.append(text)


def _true(value: Any) -> bool:
    return bool(value)  # 0, "", nil and what is empty are false in Go too


def _printed(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    raise GoTemplateError(f"a {_kind(value)} cannot be printed here")


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "integer", str: "text", type(None): "nil"}
    return names.get(type(value), "list" if isinstance(value, (list, tuple)) else "struct")


def _same(first: Any, *others: Any) -> bool:
    """``eq``: equal to one of the others. Values of two kinds cannot be compared."""
    if not others or _kind(first) in ("list", "struct") or any(_kind(each) != _kind(first) for each in others):
        raise TypeError("incompatible types for comparison")
    return any(first == each for each in others)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def function(first: Any, second: Any) -> bool:
        if _kind(first) != _kind(second) or _kind(first) not in ("text", "integer"):
            raise TypeError("incompatible types for comparison")
        return compare(first, second)

    return function


def _len(value: Any) -> int:
    if _kind(value) not in ("text", "list", "struct"):
        raise TypeError("len of a value that has none")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _slice(value: Any, *ends: int) -> Any:
    if _kind(value) != "list" or len(ends) > 2 or any(not 0 <= each <= len(value) for each in ends):
        raise ValueError("slices of lists, within them, are known here")
    first, last = (*ends, 0)[0], ends[1] if len(ends) > 1 else len(value)
    if first > last:
        raise ValueError("a slice ends before it begins")
    return value[first:last]


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, str):
            raise TypeError("texts are not indexed here")
        if isinstance(key, int) and key < 0:
            raise IndexError("below 0")
        value = value[key]
    return value


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for letter in "<>&\u2028\u2029":  # Go writes these so
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "not": lambda value: not _true(value),
    "eq": _same,
    "ne": lambda first, second: not _same(first, second),
    "lt": _ordered(lambda first, second: first < second),
    "le": _ordered(lambda first, second: first <= second),
    "gt": _ordered(lambda first, second: first > second),
    "ge": _ordered(lambda first, second: first >= second),
    "len": _len,
    "slice": _slice,
    "index": _index,
    "json": _json,
}
