"""The typed event bus: synchronous, by class, isolated listeners, no lock on publish."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import getpid
from threading import get_ident
from typing import Any, TypeVar

from attrs import define, frozen

from inhouse.events import Event, EventsDropped, ListenerFailed

E = TypeVar("E", bound=Event)
Handler = Callable[[Any], object]


@frozen
class Envelope:
    """An event with where it came from. ``time`` is Unix seconds; ``parent`` the id of the causing event.

    ``sequence`` grows by one for each event that one process put into envelopes.
    """

    id: str
    sequence: int
    time: float
    run: str
    source: str
    process: int
    event: Event
    parent: str | None = None


@define(eq=False)
class Subscription:
    """What ``subscribe`` returns; ``cancel()`` ends it."""

    type: type[Event]
    handler: Handler
    call: Handler
    priority: int
    order: int
    worker: "_Worker | None"
    _bus: "Bus"

    @property
    def name(self) -> str:
        """The handler's import path, for messages."""
        owner = getattr(self.handler, "__module__", "?")
        return f"{owner}.{getattr(self.handler, '__qualname__', type(self.handler).__name__)}"

    def cancel(self) -> None:
        """No event reaches the handler after this; a background one finishes what it has."""
        self._bus._remove(self)


class Bus:
    """Publishes events to the handlers subscribed to their class or a base of it.

    Handlers are looked up once per event class (its MRO) and kept until a subscription changes; the
    table is replaced, never changed, so publishing takes no lock. Handlers run in the publishing thread,
    by priority (high first), then in the order of subscription. What a handler publishes waits until all
    have seen the first event. ``strict`` makes a handler's exception propagate (for tests).
    """

    def __init__(self, *, run: str = "", source: str = "inhouse", strict: bool = False) -> None:
        self.run = run
        self.source = source
        self.strict = strict
        self._subscriptions: tuple[Subscription, ...] = ()
        self._handlers: dict[type[Event], tuple[Handler, ...] | None] = {}  # None: nobody, the quickest to ask
        self._threads: dict[int, _Thread] = {}
        self._order = itertools.count()
        self._sequence = itertools.count(1)
        self._change = threading.Lock()

    def subscribe(
        self, event_type: type[E], handler: Callable[[E], object], *, priority: int = 0, background: int = 0
    ) -> Subscription:
        """Calls ``handler(event)`` for events of this class and its subclasses.

        With ``background`` above 0 the handler runs in a thread of its own behind a queue of that length:
        when it is full, lossy events are dropped and counted, others wait.
        """
        return self._add(event_type, handler, priority, background)

    def subscribe_envelopes(
        self, event_type: type[E], handler: Callable[[Envelope], object], *, priority: int = 0, background: int = 0
    ) -> Subscription:
        """As :meth:`subscribe`, for a handler that takes each event in its :class:`Envelope`."""
        return self._add(event_type, handler, priority, background, enveloped=True)

    def _add(
        self, event_type: type[Event], handler: Handler, priority: int, background: int, *, enveloped: bool = False
    ) -> Subscription:
        worker = _Worker(self, handler, background) if background else None
        inner: Handler = worker.put if worker else handler
        call: Handler = (lambda event: inner(self._wrap(event))) if enveloped else inner
        with self._change:
            made = Subscription(event_type, handler, call, priority, next(self._order), worker, self)
            self._subscriptions = (*self._subscriptions, made)
            self._handlers = {}
        if worker:
            worker.name = made.name
            worker.start()
        return made

    def publish(self, event: Event) -> None:
        """Tells every subscribed handler; returns when the synchronous ones are done."""
        if not self._subscriptions:
            return
        try:
            handlers = self._handlers[event.__class__]
        except KeyError:
            handlers = self._resolve(event.__class__)
        if handlers is None:
            return
        try:
            thread = self._threads[get_ident()]
        except KeyError:
            thread = self._thread()
        if thread.publishing:
            thread.waiting.append(event)
            thread.nested = True
            return
        thread.publishing = True
        try:
            for handler in handlers:
                try:
                    handler(event)
                except Exception as error:
                    self._failed(handler, event, error)
            if thread.nested:
                self._drain(thread)
        finally:
            thread.publishing = False

    def close(self) -> None:
        """Cancels background subscriptions: their handlers finish what they have, then their threads end."""
        for subscription in self._subscriptions:
            if subscription.worker:
                subscription.cancel()

    @contextmanager
    def caused_by(self, parent: str) -> Iterator[None]:
        """Envelopes made in this thread inside the block name ``parent`` as their cause."""
        thread = self._thread()
        before, thread.parent = thread.parent, parent
        try:
            yield
        finally:
            thread.parent = before

    def _thread(self) -> "_Thread":
        return self._threads.setdefault(get_ident(), _Thread())

    def _drain(self, thread: "_Thread") -> None:
        while thread.waiting:  # grows while it is emptied
            event = thread.waiting.popleft()
            for handler in self._handlers.get(type(event)) or self._resolve(type(event)) or ():
                try:
                    handler(event)
                except Exception as error:
                    self._failed(handler, event, error)
        thread.nested = False

    def _resolve(self, event_type: type[Event]) -> tuple[Handler, ...] | None:
        with self._change:
            fitting = [s for s in self._subscriptions if issubclass(event_type, s.type)]
            fitting.sort(key=lambda s: (-s.priority, s.order))
            handlers = tuple(s.call for s in fitting) or None
            self._handlers = {**self._handlers, event_type: handlers}
        return handlers

    def _remove(self, subscription: Subscription) -> None:
        with self._change:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            self._handlers = {}
        if subscription.worker:
            subscription.worker.stop()

    def _failed(self, handler: Handler, event: Event, error: Exception) -> None:
        if self.strict:
            raise error
        if isinstance(event, ListenerFailed):
            return  # a listener of failures that fails would never end
        name = next((s.name for s in self._subscriptions if handler in (s.call, s.handler)), repr(handler))
        self.publish(ListenerFailed(name, type(event).__name__, f"{type(error).__name__}: {error}"))

    def _wrap(self, event: Event) -> Envelope:
        number, parent = next(self._sequence), self._thread().parent
        return Envelope(uuid.uuid4().hex, number, time.time(), self.run, self.source, getpid(), event, parent)


class _Thread:
    """What the bus knows of one publishing thread."""

    __slots__ = ("nested", "parent", "publishing", "waiting")

    def __init__(self) -> None:
        self.publishing = False
        self.nested = False  # something waits; quicker to ask than the queue
        self.waiting: deque[Event] = deque()
        self.parent: str | None = None


class _Worker(threading.Thread):
    """Runs one slow handler behind a bounded queue."""

    def __init__(self, bus: Bus, handler: Handler, size: int) -> None:
        super().__init__(daemon=True)
        self._bus = bus
        self._handler = handler
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=size)
        self._counting = threading.Lock()
        self._dropped = 0

    def put(self, item: Any) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            event = item.event if isinstance(item, Envelope) else item
            if event.lossy or threading.current_thread() is self:  # waiting for itself would never end
                with self._counting:
                    self._dropped += 1
            else:
                self._queue.put(item)

    def run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._handler(item)
            except Exception as error:
                self._bus._failed(self._handler, item.event if isinstance(item, Envelope) else item, error)
            if self._dropped and self._queue.empty():
                self._report()
        if self._dropped:
            self._report()

    def _report(self) -> None:
        with self._counting:
            count, self._dropped = self._dropped, 0
        self._bus.publish(EventsDropped(self.name, count))

    def stop(self) -> None:
        if self.is_alive():
            self._queue.put(None)
            if self is not threading.current_thread():
                self.join()
