"""Whether a chat template makes ChatML, found out by rendering it. Run as a child process: the template may
be hostile, and a sandbox does not bound time or memory.

stdin: {"template", "bos_token", "eos_token"}; stdout: "chatml" or "other".
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

_SECONDS = 10
_BYTES = 2 << 30
_TURNS = (("system", "Be brief."), ("user", "Hello, you."), ("assistant", "Hello."), ("user", "And now?"))


def is_chatml(template: str, bos: str, eos: str) -> bool:
    """Asks a child process with limits on time and memory; a template that fails there is none."""
    asked = json.dumps({"template": template, "bos_token": bos, "eos_token": eos})
    try:
        done = subprocess.run(  # noqa: S603  (our own module, no input in the command)
            [sys.executable, "-P", "-m", __name__],
            input=asked.encode(),
            capture_output=True,
            timeout=6 * _SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout.strip() == b"chatml"


def expected(turns: tuple[tuple[str, str], ...], *, generate: bool) -> str:
    """ChatML: each turn between its marks, then the opening of the assistant's."""
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + ("<|im_start|>assistant\n" if generate else "")


def renders_chatml(template: str, bos: str, eos: str) -> bool:
    """Renders a dialogue with a system message, with and without the opening of an answer."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers does
    made = environment.from_string(template)
    for generate in (False, True):
        messages = [{"role": role, "content": content} for role, content in _TURNS]
        given: dict[str, Any] = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": generate}
        if made.render(messages=messages, **given) != expected(_TURNS, generate=generate):
            return False
    return True


def main() -> None:
    """The child process."""
    for limit, value in ((resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_AS, _BYTES)):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some; the parent's timeout stays
            resource.setrlimit(limit, (value, value))
    asked = json.load(sys.stdin)
    found = renders_chatml(asked["template"], asked["bos_token"], asked["eos_token"])
    sys.stdout.write("chatml" if found else "other")


if __name__ == "__main__":
    main()
