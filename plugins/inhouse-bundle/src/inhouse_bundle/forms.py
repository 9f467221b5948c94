"""The form of a chat template, found by rendering chats whose texts are marks, and the same in Go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

from .rendering import Probe

_S, _U, _A, _V = (
    ("system", "Marksystem"),
    ("user", "Markquestion"),
    ("assistant", "Markanswer"),
    ("user", "Marksecond"),
)
ASKED = {
    "u": Probe((_U,)),
    "u-": Probe((_U,), generate=False),
    "ua-": Probe((_U, _A), generate=False),
    "uav": Probe((_U, _A, _V)),
    "su": Probe((_S, _U)),
    "suav": Probe((_S, _U, _A, _V)),
    "eu": Probe((("system", ""), _U)),
}
"""The chats that a form is read from: s, u, a, v are turns, e an empty system message; -: no opening of an answer."""

Around = tuple[str, str]
"""What stands before and behind a text."""


class NoForm(Exception):
    """Why a template has no form that is known here."""


@frozen
class Form:
    """What a template writes around the texts of a chat.

    ``start`` once, before all; ``absent`` where the first turn is no system message; ``last``: what opens an
    assistant's turn that ends the chat; ``answer`` opens the answer. The system message is a turn of its own, or
    stands in the first or the last question; None where it is refused. ``skips``: an empty one is left out.
    """

    start: str
    absent: str
    system: Around | None
    user: Around
    assistant: Around
    last: str
    answer: str
    place: Literal["turn", "first", "last"] = "turn"
    skips: bool = False


def read_form(found: Mapping[str, str | None], bos: str, eos: str) -> Form:
    """From the texts of ``ASKED``. Raises ``NoForm``."""
    whole, bare, told = found["u"], found["u-"], found["ua-"]
    if whole is None or bare is None or told is None:
        raise NoForm("it cannot be rendered for a question and an answer")
    if eos and bare.endswith(eos) and not whole.startswith(bare):  # written where no answer is asked for (Phi-3)
        bare, told = bare.removesuffix(eos), _without_end(told, eos)
    answer = _without_start(whole, bare)
    head, tail = _around(whole, _U)
    closes = _without_end(tail, answer)
    first, between, again, rest = _around(found["uav"], _U, _A, _V)
    begin, ending, end = _around(told, _U, _A)
    if (first, begin, rest) != (head, head, tail):
        raise _other()
    opens = _without_start(again, end)
    lead = _without_end(head, opens)
    start = bos if bos and lead.startswith(bos) and not opens.startswith(bos) else ""
    system, place = _system(found, lead=lead, start=start, opens=opens, tail=tail)
    return Form(
        start=start,
        absent=lead[len(start) :],
        system=system,
        user=(opens, closes),
        assistant=(_without_start(between, closes), end),
        last=_without_start(ending, closes),
        answer=answer,
        place=place,
        skips=system is not None and found["eu"] == whole,
    )


def _system(
    found: Mapping[str, str | None], *, lead: str, start: str, opens: str, tail: str
) -> tuple[Around | None, Literal["turn", "first", "last"]]:
    """What stands around the system message, and where it stands."""
    if found["su"] is None:
        return None, "turn"
    head, behind, rest = _around(found["su"], _S, _U)
    if rest != tail:
        raise _other()
    whole = found["suav"] or ""
    if whole.startswith(head + _S[1] + behind + _U[1]):
        before = _without_start(head, start)
        turn = behind.endswith(opens)
        return (before, _without_end(behind, opens) if turn else behind), "turn" if turn else "first"
    if whole.endswith(_S[1] + behind + _V[1] + rest):
        return (_without_start(head, lead), behind), "last"
    raise _other()


def _around(text: str | None, *turns: tuple[str, str]) -> list[str]:
    """What stands before, between and behind the texts of the turns."""
    pieces, rest = [], text or ""
    for _, content in turns:
        piece, mark, rest = rest.partition(content)
        if not mark:
            raise _other()
        pieces.append(piece)
    return [*pieces, rest]


def _without_start(text: str, start: str) -> str:
    if not text.startswith(start):
        raise _other()
    return text[len(start) :]


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise _other()
    return text[: len(text) - len(end)]


def _other() -> NoForm:
    return NoForm("it is of no form that is known here")


def go(form: Form, *, bos: str, adds_bos: bool) -> str:
    """The form as a Go template for Ollama; ``adds_bos``: Ollama puts ``bos`` before what the template writes."""
    start = "" if adds_bos and form.start == bos else form.start
    before = bos if adds_bos else ""
    turns = "" if before and form.user[0].startswith(before) else _by_role(form)
    turns = turns or _by_kind(form, before)
    counted = any(name in turns for name in ("$i", "$end"))
    over = "{{ range $i, $m := .Messages }}" if counted or form.absent else "{{ range .Messages }}"
    first = ""
    if form.absent:
        test = "(not $.System)" if form.skips else '(ne .Role "system")'
        first = f"{{{{ if and (eq $i 0) {test} }}}}{_text(form.absent)}{{{{ end }}}}"
    return f"{_text(start)}{_before(form, turns)}{over}{first}{turns}{{{{ end }}}}{_text(form.answer)}"


def _by_role(form: Form) -> str:
    """One line for all turns, where they differ by the name of the role only; else nothing."""
    if form.system is None or form.place != "turn" or form.skips or form.last != form.assistant[0]:
        return ""
    shapes = set()
    for role, (opening, close) in (("system", form.system), ("user", form.user), ("assistant", form.assistant)):
        before, name, after = opening.partition(role)
        shapes.add((before, name != "", after, close))
    before, named, after, close = next(iter(shapes))
    if len(shapes) > 1 or not named:
        return ""
    return f"{_text(before)}{{{{ .Role }}}}{_text(after)}{{{{ .Content }}}}{_text(close)}"


def _by_kind(form: Form, bos: str) -> str:
    """A case for each role. ``bos``: what Ollama writes itself before the first turn."""
    system, user, assistant = form.system, form.user, form.assistant
    opens, answers = _opening(user[0], bos), _text(assistant[0])
    if form.place == "first":
        opens = f"{{{{ if not $folded }}}}{opens}{{{{ end }}}}{{{{ $folded = false }}}}"
    cases = []
    if system and form.place == "last":
        told = f"{_text(system[0])}{{{{ $.System }}}}{_text(system[1])}"
        opens = f"{{{{ if and $system (eq $i $end) }}}}{told}{{{{ else }}}}{opens}{{{{ end }}}}"
    elif system:
        folded = "{{ $folded = true }}" if form.place == "first" else ""
        before = system[0].removeprefix(bos)
        told = f"{_text(before)}{{{{ .Content }}}}{_text(system[1])}{folded}"
        cases.append(("system", f"{{{{ if .Content }}}}{told}{{{{ end }}}}" if form.skips else told))
    if form.last != assistant[0]:
        answers = f"{{{{ if eq $i $end }}}}{_text(form.last)}{{{{ else }}}}{answers}{{{{ end }}}}"
    cases.append(("user", f"{opens}{{{{ .Content }}}}{_text(user[1])}"))
    cases.append(("assistant", f"{answers}{{{{ .Content }}}}{_text(assistant[1])}"))
    written = (f'{{{{ {"else " if n else ""}if eq .Role "{role}" }}}}{text}' for n, (role, text) in enumerate(cases))
    return "".join(written) + "{{ end }}"


def _opening(text: str, bos: str) -> str:
    """An opening that begins with BOS in every turn leaves it to Ollama in the first."""
    if not bos or not text.startswith(bos):
        return _text(text)
    return f"{{{{ if $i }}}}{_text(bos)}{{{{ end }}}}{_text(text[len(bos) :])}"


def _before(form: Form, turns: str) -> str:
    """What has to be known before the first turn is written."""
    before = "{{ $folded := false }}" if "$folded" in turns else ""
    if "$end" not in turns:
        return before
    told = '(eq .Role "system") .Content' if form.skips else '(eq .Role "system") true'
    system = f"{{{{ if and {told} }}}}{{{{ $system = true }}}}{{{{ end }}}}" if "$system" in turns else ""
    declared = "{{ $system := false }}" if system else ""
    counting = f"{{{{ range $i, $m := .Messages }}}}{{{{ $end = $i }}}}{system}{{{{ end }}}}"
    return f"{before}{{{{ $end := 0 }}}}{declared}{counting}"


def _text(text: str) -> str:
    """Text that no action begins in."""
    return re.sub(r"\{\{+|\{$", lambda found: f'{{{{ "{found[0]}" }}}}', text)


def joined(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Turns of one role that follow each other as one, as Ollama has them."""
    found: list[tuple[str, str]] = []
    for role, content in turns:
        if found and found[-1][0] == role:
            found[-1] = (role, f"{found[-1][1]}\n\n{content}")
        else:
            found.append((role, content))
    return found
