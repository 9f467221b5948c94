"""The GBNF grammar of a turn, built from the tools' schemas and kept small."""

from __future__ import annotations

import re
from collections.abc import Sequence

from inhouse.errors import RecipeError
from inhouse.values import Parameter, ToolSchema

from .pattern import pattern_to_gbnf

THOUGHT_LIMIT = 160  # characters
MOST_TOOLS = 24
MOST_PARAMETERS = 8
MOST_CHARACTERS = 8_000

HAND_OVER = ToolSchema(
    name="hand_over",
    description="Ends the dialogue: a person takes the question.",
    parameters=(Parameter("reason", description="why a person has to answer"),),
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

_SHARED = {
    "string": r'string ::= "\"" char* "\""',
    "char": r'char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "integer": r'integer ::= "-"? ("0" | [1-9] [0-9]{0,14})',
    "number": r'number ::= integer ("." [0-9]{1,9})?',
    "boolean": r'boolean ::= "true" | "false"',
}
_NEEDS = {
    "string": ("string", "char"),
    "number": ("number", "integer"),
    "integer": ("integer",),
    "boolean": ("boolean",),
}


def check_schemas(schemas: Sequence[ToolSchema]) -> None:
    """Refuses what a turn or a grammar cannot hold. Raises ``RecipeError`` naming the tool."""
    if len(schemas) > MOST_TOOLS:
        raise RecipeError(f"the agent has {len(schemas)} tools, at most {MOST_TOOLS} work", where="agent.tools")
    for schema in schemas:
        where = f"tools.{schema.name}"
        if not _NAME.fullmatch(schema.name):
            raise RecipeError(
                f"'{schema.name}' cannot be the name of a tool",
                where="agent.tools",
                hint="use letters, digits, _ and -, beginning with a letter",
            )
        if len(schema.parameters) > MOST_PARAMETERS:
            raise RecipeError(f"more than {MOST_PARAMETERS} parameters; small models cannot fill them", where=where)
        names = [parameter.name for parameter in schema.parameters]
        for name in names:
            if not _NAME.fullmatch(name) or names.count(name) > 1:
                raise RecipeError(f"'{name}' cannot be the name of a parameter, or occurs twice", where=where)


def build_grammar(schemas: Sequence[ToolSchema]) -> str:
    """GBNF of one turn: a bounded thought, then a call held to its schema, or the final answer.

    Keys come in the order of the parameters and with the separators of ``json.dumps``. Simple patterns
    become part of the grammar, others are left to the tool's own check. Raises ``RecipeError`` when the
    tools make a grammar that llama.cpp would be slow with.
    """
    calls = [f"call-{number}" for number in range(len(schemas))]
    turn = "(action | final)" if calls else "final"
    rules = [
        f'root ::= "Thought: " thought "\\n" {turn}',
        rf"thought ::= [^\x00-\x1F]{{1,{THOUGHT_LIMIT}}}",
        r'final ::= "Final: " [^\x00-\x1F]+',
    ]
    if calls:
        rules.append(f'action ::= "Action: " ({" | ".join(calls)})')
    used: set[str] = set()
    for name, schema in zip(calls, schemas, strict=True):
        rules.append(f"{name} ::= {_call(schema, used)}")
    rules += [rule for name, rule in _SHARED.items() if name in used]
    grammar = "\n".join(rules) + "\n"
    if len(grammar) > MOST_CHARACTERS:
        raise RecipeError(
            f"the grammar of the tools has {len(grammar)} characters, more than {MOST_CHARACTERS}",
            where="agent.tools",
            hint="fewer tools, shorter patterns, or grammar = false",
        )
    return grammar


def _call(schema: ToolSchema, used: set[str]) -> str:
    parts = []
    opening = f"{schema.name} {{"
    for parameter in schema.parameters:
        parts.append(f"{_literal(opening + chr(34) + parameter.name + chr(34) + ': ')} {_value(parameter, used)}")
        opening = ", "
    return " ".join([*parts, _literal("}" if schema.parameters else opening + "}")])


def _value(parameter: Parameter, used: set[str]) -> str:
    if parameter.type == "string" and parameter.pattern is not None:
        expression = pattern_to_gbnf(parameter.pattern)
        if expression is not None:
            return f'"\\"" {expression} "\\""'
    used.update(_NEEDS[parameter.type])
    return parameter.type


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
