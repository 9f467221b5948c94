"""The template that Ollama is given: a Go template that writes what the model's own chat template writes.

It is written from the form of the model's template and kept only where both write the same for sample chats.
Ollama's side, from its sources (``template/template.go``): it joins turns of one role that follow each other, hands
over ``.System`` (all system messages) and ``.Messages`` (with them), renders, and has llama.cpp add BOS where the GGUF
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from .forms import ASKED, NoForm, go, joined, read_form
from .gguf_file import Chat
from .gotemplate import render
from .rendering import Probe, rendered

_THOUGHT = "</think>"
_MARKS = "<|im_end|> [INST] </s> <|eot_id|> <end_of_turn>"
_CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "Hello, you."),),
    (("user", "Hello."), ("assistant", "Hello, you."), ("user", "And now?"), ("assistant", "Now."), ("user", "Bye!")),
    (("user", "Two\n\nlines"), ("assistant", 'naïve {"a": {"b": 1}} {{ c }}')),
    (("user", _MARKS), ("assistant", _MARKS), ("user", _MARKS)),
    (("system", "Be brief."), ("user", "Hello.")),
    (("system", "Be\nbrief."), ("user", "Hello."), ("assistant", "Hello, you."), ("user", "And now?")),
    (("system", _MARKS), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
    (("system", ""), ("user", "Hello.")),
)
_SPACED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "user": (("user", " \n a\t "), ("assistant", "b"), ("user", " \n c\t ")),
    "assistant": (("user", "a"), ("assistant", " \n b\t "), ("user", "c")),
    "system": (("system", " \n a\t "), ("user", "b")),
}
_THINKING = (("user", "a"), ("assistant", f"<think>\nhm\n{_THOUGHT}\n\nb"), ("user", "c"))

Turns = Sequence[tuple[str, str]]
"""(role, content) of each turn."""


@frozen
class OllamaTemplate:
    """``text``: the Go template, '' where there is none, and ``why``; ``stop``: what ends the assistant's turns.

    What it cannot do as the model's own: ``cuts``, roles whose texts lose white space at their ends there;
    ``forgets``, thoughts of earlier turns are left out there; without ``system`` messages of that role are refused.
    """

    text: str = ""
    why: str = ""
    stop: str = ""
    system: bool = True
    cuts: frozenset[str] = field(factory=frozenset)
    forgets: bool = False

    def prompt(self, turns: Turns) -> str | None:
        """What Ollama makes of a chat, without the BOS that llama.cpp adds; texts are cut as the model's own template
        would. None for a chat that the two cannot be compared for: turns that Ollama joins, thoughts."""
        if joined(turns) != [*turns] or any(role == "system" for role, _ in turns[1:]):
            return None
        if self.forgets and any(role == "assistant" and _THOUGHT in content for role, content in turns):
            return None
        return _prompt(self.text, _cut(turns, self.cuts))

    @property
    def limits(self) -> list[str]:
        """What is otherwise than in the model's own template, a sentence each."""
        found = []
        if self.cuts:
            found.append(f"The model's own cuts white space at the ends of messages ({', '.join(sorted(self.cuts))}).")
        if self.forgets:
            found.append("The model's own leaves thoughts of earlier answers out.")
        if not self.system:
            found.append("The model's own refuses system messages.")
        return found


def ollama_template(chat: Chat) -> OllamaTemplate:
    """The template for a GGUF that says ``chat``; a template that is hostile or of another form gives none."""
    if not chat.template:
        return OllamaTemplate(why="the model has no chat template")
    probes = [*ASKED.values(), Probe(ASKED["su"].turns, day=1), Probe(ASKED["u"].turns, day=1)]
    chats = [*_CHATS, *_SPACED.values(), *(_cut(each, {role}) for role, each in _SPACED.items()), _THINKING]
    found = rendered(chat.template, chat.bos, chat.eos, [*probes, *(Probe(tuple(each)) for each in chats)])
    asked = dict(zip(ASKED, found, strict=False))
    if (asked["su"], asked["u"]) != tuple(found[len(ASKED) : len(probes)]):
        return OllamaTemplate(why="the chat template writes the day's date")
    written = {tuple(each): text for each, text in zip(chats, found[len(probes) :], strict=True)}
    try:
        form = read_form(asked, chat.bos, chat.eos)
        text = go(form, bos=chat.bos, adds_bos=chat.adds_bos)
        return _proved(
            OllamaTemplate(text, stop=form.assistant[1].strip(), system=form.system is not None),
            {turns: _left(text, chat) for turns, text in written.items()},
        )
    except NoForm as why:
        return OllamaTemplate(why=f"Ollama's language cannot say the chat template: {why}")


def _left(text: str | None, chat: Chat) -> str | None:
    """What is left to write where Ollama has written BOS."""
    return text.removeprefix(chat.bos) if text is not None and chat.adds_bos else text


def _proved(made: OllamaTemplate, written: Mapping[tuple[tuple[str, str], ...], str | None]) -> OllamaTemplate:
    """``made`` with its limits. Raises ``NoForm`` where it writes other than the model's own template."""
    for turns in _CHATS:
        if written[turns] is not None and written[turns] != _prompt(made.text, turns):
            raise NoForm("it changes the texts")
    cuts = set()
    for role, turns in _SPACED.items():
        wanted = written[turns]
        if wanted is None or wanted == _prompt(made.text, turns):
            continue
        if wanted != written[tuple(_cut(turns, {role}))]:
            raise NoForm("it changes white space")
        cuts.add(role)
    thinking = written[_THINKING]
    forgets = thinking is not None and thinking != _prompt(made.text, _cut(_THINKING, cuts))
    return OllamaTemplate(made.text, stop=made.stop, system=made.system, cuts=frozenset(cuts), forgets=forgets)


def _cut(turns: Turns, roles: "set[str] | frozenset[str]") -> list[tuple[str, str]]:
    return [(role, content.strip() if role in roles else content) for role, content in turns]


def _prompt(template: str, turns: Turns) -> str:
    """What Ollama renders for a chat without tools."""
    system = "\n\n".join(content for role, content in turns if role == "system")
    messages = [{"Role": role, "Content": content, "Thinking": "", "ToolCalls": []} for role, content in joined(turns)]
    data = {"System": system, "Messages": messages, "Tools": [], "Response": "", "Think": False, "IsThinkSet": False}
    return render(template, data)
