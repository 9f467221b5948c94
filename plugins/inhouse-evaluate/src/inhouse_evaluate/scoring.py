"""Whether an answer solves a task, and if not, why."""

from __future__ import annotations

import re

from inhouse.values import Answer, Call, Json

from .tasks import ExpectedCall, Task, decimal_of


def problems(task: Task, answer: Answer) -> list[str]:
    """What is wrong with the answer; empty when the task is solved.

    Solved: exactly the expected calls in their order, every group of answer strings found, the expected
    documents cited, handed over if and only if that was expected.
    """
    found = _call_problems(task, answer)
    if task.hand_over:
        if answer.outcome != "handed_over":
            found.append("should have been handed over")
        return found
    if answer.outcome == "handed_over":
        return [*found, "should not have been handed over"]
    if answer.outcome == "gave_up":
        return [*found, answer.text]
    for group in task.answer:
        if not any(contains(answer.text, text) for text in group):
            found.append(f"the answer lacks '{group[0]}'")
    cited = {citation.document for citation in answer.citations}
    found += [f"does not cite [{document}]" for document in task.cites if document not in cited]
    return found


def contains(text: str, wanted: str) -> bool:
    """Whether ``wanted`` occurs in ``text``, case-insensitive, white space alike.

    A number at either end has to be that number: 3 is not in 13, but 718.5 is in 718.50 and 24 in 24.00.
    """
    pattern = r"\s+".join(re.escape(word) for word in wanted.split())
    if re.match(r"[0-9]", wanted):
        pattern = r"(?<![0-9])(?<![0-9][.,])" + pattern
    ending = re.search(r"[0-9]+(\.[0-9]+)?$", wanted)
    if ending:
        pattern += ("0*" if ending[1] else r"(?:\.0+)?") + r"(?![0-9]|[.,][0-9])"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _call_problems(task: Task, answer: Answer) -> list[str]:
    expected = [call for call in task.calls if call.tool != "hand_over"]  # ends a dialogue, calls nothing
    wanted = [call.tool for call in expected]
    made = [call.tool for call in answer.calls]
    if wanted != made:
        return [f"called {', '.join(made) or 'no tool'} instead of {', '.join(wanted) or 'none'}"]
    pairs = zip(expected, answer.calls, strict=True)
    return [problem for each, call in pairs if (problem := _call_problem(each, call)) is not None]


def _call_problem(expected: ExpectedCall, call: Call) -> str | None:
    if expected.arguments is not None and not _same(dict(expected.arguments), dict(call.arguments)):
        return f"{call.tool} got {dict(call.arguments)} instead of {dict(expected.arguments)}"
    if expected.value is not None and decimal_of(call.observation) != expected.value:
        return f"{call.tool} gave '{call.observation}' instead of {expected.value}"
    if expected.finds is not None and f"[{expected.finds}]" not in call.observation:
        return f"{call.tool} did not find [{expected.finds}]"
    return None


def _same(left: Json, right: Json) -> bool:
    """JSON equality: Python takes True for 1."""
    return bool(left == right) and repr(sorted(left.items())) == repr(sorted(right.items()))
