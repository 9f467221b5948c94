"""The event bus: who hears what, in which order, and what a bad or slow listener can do."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from typing import Any

import pytest
from attrs import frozen

from inhouse.bus import Bus, Envelope
from inhouse.events import Event, EventsDropped, ListenerFailed, StepFinished, StepProgressed


@frozen
class Said(Event):
    text: str


@frozen
class Shouted(Said):
    pass


def test_listeners_hear_subclasses_and_nothing_else() -> None:
    bus, heard = Bus(strict=True), []
    bus.subscribe(Said, heard.append)
    for event in (Said("a"), Shouted("b"), StepFinished("s", "trainer", "lora", 1.0, False)):
        bus.publish(event)
    assert heard == [Said("a"), Shouted("b")]


def test_priority_then_order_of_subscription() -> None:
    bus, heard = Bus(strict=True), []
    for name, priority in (("first", 0), ("second", 0), ("urgent", 5), ("late", -5)):
        bus.subscribe(Said, lambda _, name=name: heard.append(name), priority=priority)
    bus.publish(Said("x"))
    assert heard == ["urgent", "first", "second", "late"]


def test_what_a_handler_publishes_waits_until_all_have_seen_the_first() -> None:
    bus, heard = Bus(strict=True), []

    def answer(event: Said) -> None:
        heard.append(("answerer", event.text))
        if len(event.text) < 3:
            bus.publish(Said(event.text + "!"))

    bus.subscribe(Said, answer)
    bus.subscribe(Said, lambda event: heard.append(("other", event.text)))
    bus.publish(Said("a"))
    assert heard == [(who, text) for text in ("a", "a!", "a!!") for who in ("answerer", "other")]


def test_a_deep_chain_of_events_is_no_recursion() -> None:
    bus, count = Bus(strict=True), []

    def go_on(event: Said) -> None:
        count.append(1)
        if len(count) < 5000:
            bus.publish(event)

    bus.subscribe(Said, go_on)
    bus.publish(Said("x"))
    assert len(count) == 5000


def test_a_failing_listener_is_isolated_and_named() -> None:
    bus, heard, failures = Bus(), [], []

    def broken(event: Said) -> None:
        raise ValueError("no disk")

    bus.subscribe(Said, broken)
    bus.subscribe(Said, heard.append)
    bus.subscribe(ListenerFailed, failures.append)
    bus.publish(Said("a"))
    assert heard == [Said("a")]
    (failure,) = failures
    assert "broken" in failure.listener
    assert (failure.event, failure.error) == ("Said", "ValueError: no disk")


def test_a_failing_listener_of_failures_ends() -> None:
    bus = Bus()

    def broken(event: Event) -> None:
        raise ValueError("always")

    bus.subscribe(Event, broken)
    bus.publish(Said("a"))


def test_strict_raises_and_the_bus_goes_on() -> None:
    bus, heard = Bus(strict=True), []

    def broken(event: Said) -> None:
        if event.text == "a":
            raise ValueError("no")

    bus.subscribe(Said, broken)
    bus.subscribe(Said, heard.append)
    with pytest.raises(ValueError, match="no"):
        bus.publish(Said("a"))
    bus.publish(Said("b"))
    assert heard == [Said("b")]


def test_cancel_ends_a_subscription() -> None:
    bus, heard = Bus(strict=True), []
    subscription = bus.subscribe(Said, heard.append)
    bus.publish(Said("a"))
    subscription.cancel()
    subscription.cancel()
    bus.publish(Said("b"))
    assert heard == [Said("a")]


def test_changes_during_publish_count_from_the_next_event() -> None:
    bus, heard = Bus(strict=True), []

    def swap(event: Said) -> None:
        leaving.cancel()
        bus.subscribe(Said, lambda event: heard.append(("new", event.text)))

    bus.subscribe(Said, swap)
    leaving = bus.subscribe(Said, lambda event: heard.append(("leaving", event.text)))
    bus.publish(Said("a"))
    assert heard == [("leaving", "a")]
    bus.publish(Said("b"))
    assert heard[1:] == [("new", "b")]


def test_many_threads_publish_and_subscribe_at_once() -> None:
    bus, heard = Bus(strict=True), []
    bus.subscribe(Said, heard.append)

    def work(number: int) -> None:
        for each in range(300):
            bus.publish(Said(f"{number}/{each}"))
            if each % 50 == 0:
                bus.subscribe(Shouted, lambda _: None).cancel()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):  # each thread's events in its own order, none lost
        assert [e.text for e in heard if e.text.startswith(f"{number}/")] == [f"{number}/{i}" for i in range(300)]


def test_a_nested_event_of_one_thread_is_not_delivered_by_another() -> None:
    bus, inside, go, heard = Bus(strict=True), threading.Event(), threading.Event(), []

    def handler(event: Said) -> None:
        heard.append((threading.current_thread().name, event.text))
        if event.text == "slow":
            bus.publish(Said("nested"))
            inside.set()
            assert go.wait(10)

    bus.subscribe(Said, handler)
    slow = threading.Thread(target=lambda: bus.publish(Said("slow")), name="slow")
    slow.start()
    assert inside.wait(10)
    bus.publish(Said("other"))
    go.set()
    slow.join()
    me = threading.current_thread().name
    assert heard == [("slow", "slow"), (me, "other"), ("slow", "nested")]


class Gate:
    """A slow listener: waits at each event until it is let through."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.arrived = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, event: Event) -> None:
        self.arrived.release()
        assert self.open.acquire(timeout=10)
        self.heard.append(event)


def progress(done: int) -> StepProgressed:
    return StepProgressed("s", done, 10, "item")


def test_a_slow_listener_loses_only_lossy_events_and_they_are_counted() -> None:
    bus, gate, dropped = Bus(strict=True), Gate(), []
    bus.subscribe(Event, gate, background=2)
    bus.subscribe(EventsDropped, dropped.append)
    bus.publish(progress(0))
    assert gate.arrived.acquire(timeout=10)  # it holds number 0; two more fit into the queue
    for number in range(1, 8):
        bus.publish(progress(number))
    for _ in range(20):
        gate.open.release()
    bus.publish(Said("kept"))  # waits for room instead of being dropped
    bus.close()
    assert [e for e in gate.heard if not isinstance(e, EventsDropped)] == [*map(progress, range(3)), Said("kept")]
    assert sum(each.count for each in dropped) == 5
    assert all("Gate" in each.listener for each in dropped)


def test_a_background_listener_that_fails_is_named() -> None:
    bus, failures = Bus(), []

    def broken(event: Said) -> None:
        raise OSError("disk full")

    bus.subscribe(ListenerFailed, failures.append)
    bus.subscribe(Said, broken, background=4)
    bus.publish(Said("a"))
    bus.close()
    (failure,) = failures
    assert "broken" in failure.listener
    assert failure.error == "OSError: disk full"


def test_a_background_listener_with_envelopes_that_fails_is_named() -> None:
    bus, failures = Bus(), []

    def broken(envelope: Envelope) -> None:
        raise OSError("disk full")

    bus.subscribe(ListenerFailed, failures.append)
    bus.subscribe_envelopes(Said, broken, background=4)
    bus.publish(Said("a"))
    bus.close()
    assert ["broken" in each.listener and each.event for each in failures] == ["Said"]


def test_a_background_listener_that_publishes_into_its_own_full_queue_does_not_hang() -> None:
    bus = Bus(strict=True)
    done = threading.Event()
    once = iter([True])

    def talkative(event: Event) -> None:
        if next(once, False):
            for _ in range(5):
                bus.publish(Said("more"))
            done.set()

    bus.subscribe(Said, talkative, background=1)
    bus.publish(Said("a"))
    assert done.wait(10)
    bus.close()


def test_close_lets_background_listeners_finish_and_later_events_do_not_wait() -> None:
    bus, heard = Bus(strict=True), []
    bus.subscribe(Said, heard.append, background=100)
    for number in range(50):
        bus.publish(Said(str(number)))
    bus.close()
    assert [each.text for each in heard] == [str(number) for number in range(50)]
    for _ in range(300):  # more than the queue holds
        bus.publish(Said("late"))
    assert len(heard) == 50


def test_envelopes_say_where_an_event_came_from() -> None:
    bus, heard = Bus(run="run-1", source="test", strict=True), []
    bus.subscribe_envelopes(Said, heard.append)
    bus.publish(Said("a"))
    with bus.caused_by(heard[0].id):
        bus.publish(Said("b"))
        with bus.caused_by("inner"):
            bus.publish(Said("c"))
        bus.publish(Said("d"))
    bus.publish(Said("e"))
    first = heard[0]
    assert (first.run, first.source, first.process, first.event) == ("run-1", "test", os.getpid(), Said("a"))
    assert [each.parent for each in heard] == [None, first.id, "inner", first.id, None]
    assert [each.sequence for each in heard] == [1, 2, 3, 4, 5]
    assert len({each.id for each in heard}) == 5
    assert all(a.time <= b.time for a, b in pairwise(heard))


def test_an_interrupt_in_a_handler_passes_and_the_bus_goes_on() -> None:
    bus, heard = Bus(), []

    def interrupted(event: Said) -> None:
        if event.text == "a":
            raise KeyboardInterrupt

    bus.subscribe(Said, interrupted)
    bus.subscribe(Said, heard.append)
    with pytest.raises(KeyboardInterrupt):
        bus.publish(Said("a"))
    bus.publish(Said("b"))
    assert heard == [Said("b")]


def test_a_method_is_a_listener() -> None:
    class Display:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def show(self, event: Said) -> None:
            self.heard.append(event)

    bus, display = Bus(strict=True), Display()
    bus.subscribe(Said, display.show)
    bus.publish(Shouted("a"))
    assert display.heard == [Shouted("a")]
