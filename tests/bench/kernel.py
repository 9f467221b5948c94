"""What the kernel costs: ``python tests/bench/kernel.py``, or ``make bench-kernel``.

Peers are measured in the same run, in turns with ours, so that a busy machine slows both. A row's figure is
the median over the repeats; a ratio is the median of the ratios within each repeat.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import blinker
import pluggy
from attrs import asdict, frozen

from inhouse import Kernel, Recipe, SourceSpec, hookimpl
from inhouse.bus import Bus
from inhouse.events import Event, StepFinished, StepStarted
from inhouse.plugins import Registry

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.distributions import CONSOLE, environment, points, write_distribution  # noqa: E402

EVENT = StepFinished("finetune", "trainer", "lora", 1.0, False)
STEPS = 6


@frozen
class Row:
    """``ours``, ``peer`` and ``goal`` in ``unit``; a goal that is a ratio has the unit ``x``."""

    work: str
    against: str
    ours: float
    peer: float | None
    ratio: float | None
    unit: str
    goal: str
    met: bool


def heard(event: Any) -> None:
    """A listener that does nothing, the same for all three."""


def pluggy_call() -> Callable[..., Any]:
    """A hook with one implementation."""
    spec, impl = pluggy.HookspecMarker("bench"), pluggy.HookimplMarker("bench")

    class Specs:
        @spec
        def step_finished(self, event: Any) -> None: ...

    class Plugin:
        @impl
        def step_finished(self, event: Any) -> None: ...

    manager = pluggy.PluginManager("bench")
    manager.add_hookspecs(Specs)
    manager.register(Plugin())
    return manager.hook.step_finished


def blinker_send() -> Callable[..., Any]:
    """A signal with one receiver."""
    signal = blinker.Signal()
    signal.connect(heard, weak=False)
    return signal.send


def bus_publish(*types: type[Event]) -> Callable[[Event], None]:
    """A bus with a listener for each of ``types``."""
    bus = Bus()
    for each in types:
        bus.subscribe(each, heard)
    bus.publish(EVENT)
    return bus.publish


def in_turns(works: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each work's figures, one of each per repeat."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(work())
    return found


def nanoseconds(statement: str, **names: Any) -> Callable[[], float]:
    """A work that gives the nanoseconds of one execution, over 2,000.

    Of processor time: a busy machine interrupts the slow ones more often than the quick ones.
    """
    timer = timeit.Timer(statement, timer=time.process_time, globals=names)
    timer.timeit(2000)
    return lambda: timer.timeit(2000) / 2000 * 1e9


def against(work: str, peer: str, ours: list[float], theirs: list[float], unit: str, limit: float) -> Row:
    """A row whose goal is a ratio to a peer."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    goal = f"<= 1/{1 / limit:.0f}" if limit < 1 else f"<= {limit:.0f} times"
    return Row(work, peer, statistics.median(ours), statistics.median(theirs), ratio, unit, goal, ratio <= limit)


def bus_rows() -> list[Row]:
    """Publishing, against pluggy and blinker."""
    figures = in_turns(
        {
            "one": nanoseconds("publish(event)", publish=bus_publish(StepFinished), event=EVENT),
            "pluggy": nanoseconds("call(event=event)", call=pluggy_call(), event=EVENT),
            "blinker": nanoseconds("send(event)", send=blinker_send(), event=EVENT),
            "none": nanoseconds("publish(event)", publish=bus_publish(), event=EVENT),
            "other": nanoseconds("publish(event)", publish=bus_publish(StepStarted), event=EVENT),
            "empty": nanoseconds("heard(event)", heard=heard, event=EVENT),
        },
        repeats=300,
    )
    none, other, empty = (statistics.median(figures[name]) for name in ("none", "other", "empty"))
    return [
        against("publish to one listener", "pluggy call", figures["one"], figures["pluggy"], "ns", 1 / 6),
        against("publish to one listener", "blinker send", figures["one"], figures["blinker"], "ns", 1 / 4),
        # the goal is a time, so the machine's own speed stands beside it
        Row("publish with no listener", "empty function", none, empty, none / empty, "ns", "< 100 ns", none < 100),
        Row("the same, others have one", "empty function", other, empty, other / empty, "ns", "< 100 ns", other < 100),
    ]


def seconds_of(command: list[str], env: dict[str, str]) -> Callable[[], float]:
    """A work that gives the milliseconds of a process."""

    def run() -> float:
        started = time.perf_counter()
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - started) * 1e3

    run()
    return run


def help_rows() -> list[Row]:
    """``inhouse --help`` with 0 and 30 more plugins, against a Python that imports click."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(30):
            name = f"acme_{number}"
            write_distribution(Path(folder), f"acme-{number}", {name: name}, {name: "import this_is_never_imported"})
        bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        show = [str(CONSOLE), "--help"]
        figures = in_turns(
            {
                "click": seconds_of([sys.executable, "-c", "import click"], bare),
                "none": seconds_of(show, bare),
                "thirty": seconds_of(show, environment(Path(folder))),
            },
            repeats=25,
        )
    peer = "python -c 'import click'"
    return [
        against("inhouse --help", peer, figures["none"], figures["click"], "ms", 2),
        against("inhouse --help, 30 more plugins", peer, figures["thirty"], figures["click"], "ms", 2),
    ]


@frozen
class Number:
    """Makes each step another one for the store."""

    number: int = 0


class Trivial:
    """A step whose work is one small file."""

    def __init__(self, options: Number) -> None:
        self.options = options

    def produce(self, step: Any) -> None:
        (step.output / "a").write_text(str(self.options.number))


@hookimpl
def inhouse_sources() -> Iterator[SourceSpec]:
    """The source ``trivial``."""
    yield SourceSpec(name="trivial", summary="", options=Number, factory="bench_plugin:Trivial", produces="text/corpus")


def step_rows() -> list[Row]:
    """A recipe of trivial steps: the whole run, fsyncs and journal included, shared among its steps."""
    plugin = ModuleType("bench_plugin")
    vars(plugin).update(Trivial=Trivial, inhouse_sources=inhouse_sources)
    sys.modules["bench_plugin"] = plugin
    registry = Registry(points({"inhouse": "inhouse.builtin", "bench": "bench_plugin"}))
    steps = {f"s{n}": {"stage": "source", "use": "trivial", "trivial": {"number": n}} for n in range(STEPS)}
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:  # on the disk of the checkout: /tmp may be memory
        kernel = Kernel(folder, registry=registry)
        seed = iter(range(10_000))

        def run(*, cached: bool) -> float:
            at = 0 if cached else next(seed)
            recipe = Recipe.of({"seed": at, "steps": steps}, path=Path(folder) / "recipe.toml")
            started = time.perf_counter()
            kernel.run(recipe)
            return (time.perf_counter() - started) * 1e3 / STEPS

        run(cached=False)
        figures = in_turns({"new": lambda: run(cached=False), "found": lambda: run(cached=True)}, repeats=25)
    new, found = statistics.median(figures["new"]), statistics.median(figures["found"])
    return [
        Row("a trivial step, done and committed", "", new, None, None, "ms", "< 20 ms", new < 20),
        Row("a step that is in the store", "", found, None, None, "ms", "< 20 ms", found < 20),
    ]


def main() -> None:
    """Prints the table and writes it to ``build/bench/kernel.json``."""
    rows = [*bus_rows(), *help_rows(), *step_rows()]
    print(f"Python {platform.python_version()}, pluggy {version('pluggy')}, blinker {version('blinker')}")
    print(f"{'work':36}{'against':28}{'ours':>10}{'peer':>10}{'ratio':>8}  {'goal':12} met")
    for row in rows:
        peer = f"{row.peer:.1f}" if row.peer is not None else ""
        ratio = f"{row.ratio:.3f}" if row.ratio is not None else ""
        ours = f"{row.ours:.1f} {row.unit}"
        print(
            f"{row.work:36}{row.against:28}{ours:>10}{peer:>10}{ratio:>8}  {row.goal:12} {'yes' if row.met else 'NO'}"
        )
    target = ROOT / "build" / "bench" / "kernel.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"written: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
