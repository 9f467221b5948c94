"""Go templates: what Go's own text/template makes of them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from inhouse_bundle.goparse import DEPTH, GoTemplateError
from inhouse_bundle.gotemplate import render


def message(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"Role": role, "Content": content, "ToolCalls": [], **more}


CHAT = {
    "System": "You are a helpful assistant.",
    "Messages": [
        message("system", "You are a helpful assistant."),
        message("user", "Hello, how are you?"),
        message("assistant", "I'm doing great."),
        message("user", "I'd like to <show> off."),
    ],
    "Tools": [],
}

EXAMPLE = """{{- range .Messages }}
{{ .Role }}: {{ .Content }}
{{- end }}
"""
LLAMA3 = """{{- if .System }}<|start_header_id|>system<|end_header_id|>

{{ .System }}<|eot_id|>
{{- end }}
{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>
{{- end }}<|start_header_id|>assistant<|end_header_id|>

"""
CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
MISTRAL = """{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}
{{- if and (le (len (slice $.Messages $index)) 2) $.Tools }}[AVAILABLE_TOOLS] {{ json $.Tools }}[/AVAILABLE_TOOLS]
{{- end }}[INST] {{ if and (eq (len (slice $.Messages $index)) 1) $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{- end }}]</s>
{{- end }}
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}
"""
"""The examples of Ollama's documentation (docs/template.mdx)."""

HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"


def test_the_examples_of_ollamas_documentation() -> None:
    said = [(each["Role"], each["Content"]) for each in CHAT["Messages"]]  # type: ignore[index]
    assert render(EXAMPLE, CHAT) == "".join(f"\n{role}: {content}" for role, content in said) + "\n"
    turns = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in said)
    assert render(CHATML, CHAT) == turns + "<|im_start|>assistant\n"
    system = HEAD.format("system") + "You are a helpful assistant.<|eot_id|>"
    turns = "".join(f"{HEAD.format(role)}{content}<|eot_id|>" for role, content in said)
    assert render(LLAMA3, CHAT) == system + turns + HEAD.format("assistant")
    assert render(MISTRAL, CHAT) == (
        "[INST] Hello, how are you?[/INST] I'm doing great.</s>"
        "[INST] You are a helpful assistant.\n\nI'd like to <show> off.[/INST]\n"
    )


def test_tools_in_ollamas_example_for_mistral() -> None:
    call = {"Function": {"Name": "orders", "Arguments": {"order_id": "<1>", "all": True}}}
    chat = {
        "System": "",
        "Messages": [message("user", "Where?"), message("assistant", "", ToolCalls=[call]), message("tool", "[1]")],
        "Tools": [{"type": "function"}],
    }
    assert render(MISTRAL, chat) == (
        '[INST] Where?[/INST][TOOL_CALLS] [{"name": "orders", "arguments": {"all":true,"order_id":"\\u003c1\\u003e"}}]</s>'
        '[TOOL_RESULTS] {"content": [1]}[/TOOL_RESULTS]\n'
    )


DATA = {"S": "é", "E": "", "N": 3, "Z": 0, "T": True, "L": ["a", "b", "c"], "M": {"x": {"y": "deep"}}, "Nil": None}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain } text }} {", "plain } text }} {"),
        ("{{.S}}{{ .N }}{{ .T }}", "é3true"),
        ("a \n{{- .S -}}\t b", "aéb"),
        ("a {{- /* a comment {{ */ -}} b{{/* c */}}.", "ab."),
        ("{{ .M.x.y }}{{ (.M.x).y }}{{ $.M.x.y }}", "deepdeepdeep"),
        ("{{ if .E }}1{{ else if .Z }}2{{ else if .Nil }}3{{ else }}4{{ end }}", "4"),
        ("{{ with .M.x }}{{ .y }}{{ $.S }}{{ end }}{{ with .E }}1{{ else }}2{{ end }}", "deepé2"),
        ("{{ range $i, $m := .L }}{{ $i }}{{ $m }}{{ . }}{{ end }}", "0aa1bb2cc"),
        ("{{ range $m := .L }}{{ $m }}{{ else }}none{{ end }}", "abc"),
        ("{{ range .Nil }}1{{ else }}none{{ end }}", "none"),
        ("{{ range .L }}{{ if eq . \"b\" }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range .L }}{{ if eq . \"b\" }}{{ break }}{{ end }}{{ . }}{{ end }}", "a"),
        ("{{ $x := 1 }}{{ if .T }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if .T }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ if $x := .S }}{{ $x }}{{ end }}", "é"),
        ('{{ "{{" }}{{ "a\\"b\\n" }}{{ `raw\\n` }}', '{{a"b\nraw\\n'),
        ("{{ len .S }}{{ len .L }}{{ .L | len }}", "233"),
        ("{{ eq .N 3 }} {{ eq .S \"x\" \"é\" }} {{ ne .N 3 }} {{ lt 1 2 }}{{ ge 1 2 }}", "true true false truefalse"),
        ("{{ and .T .S }}{{ or .E .S }}{{ and .E .Missing }}{{ not .E }}", "éétrue"),
        ("{{ index .L 1 }}{{ (index .M \"x\").y }}{{ len (slice .L 1 2) }}", "bdeep1"),
        ("{{ json .L }}{{ json .S }}", '["a","b","c"]"é"'),
    ],
)  # fmt: skip
def test_what_go_makes_of_it(template: str, text: str) -> None:
    assert render(template, DATA) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{", "{{ }}", "{{ .S", "{{ if .S }}", "{{ end }}", "{{ else }}", "{{ range .L }}", "{{ if }}{{ end }}",
        "{{ break }}", "{{ .Missing }}", "{{ .S.x }}", "{{ .Nil.x }}", "{{ $x }}", "{{ $x = 1 }}", "{{ nothing .S }}",
        "{{ .S .N }}", "{{ 1.5 }}", "{{ 'a' }}", "{{ (.S }}", "{{ .S) }}", "{{ eq 1 \"1\" }}", "{{ lt .L .L }}",
        "{{ len 1 }}", "{{ index .L 9 }}", "{{ index .L -1 }}", "{{ slice .L 2 1 }}", "{{ range .S }}{{ end }}", "{{ .L }}",
        "{{ .M }}", "{{ .Nil }}", "{{ define \"x\" }}{{ end }}", "{{ template \"x\" }}", "{{ .S | }}", "{{ \"a }}",
        "{{ .S.__class__ }}", "{{ printf \"%s\" .S }}", "{{ /* a */ .S }}", "{{ not }}", "{{ if .S }}{{ else }}{{ else }}{{ end }}",
        "{{ if .S }}" * (DEPTH + 1) + "{{ end }}" * (DEPTH + 1), "{{ " + "(" * 99 + ".S" + ")" * 99 + " }}",
    ],
)  # fmt: skip
def test_what_is_refused(template: str) -> None:
    with pytest.raises(GoTemplateError) as told:
        render(template, DATA)
    assert told.value.exit_code == 2


def test_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import inhouse_bundle.gotemplate as module

    loop = "{{ range $.L }}{{ range $.L }}{{ range $.L }}{{ range $.L }}{{ end }}{{ end }}{{ end }}{{ end }}"
    with pytest.raises(GoTemplateError, match="steps"):
        render(loop, {"L": ["x"] * 1000})
    monkeypatch.setattr(module, "CHARACTERS", 1000)
    with pytest.raises(GoTemplateError, match="characters"):
        render("{{ range .L }}{{ . }}{{ end }}", {"L": ["x" * 100] * 11})
