"""Many readers or one writer; a waiting writer goes first, so that searches cannot starve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition, Lock


class ReadWriteLock:
    """Not reentrant: a reader that asks to write, or reads twice while a writer waits, waits for itself."""

    def __init__(self) -> None:
        self._mutex = Lock()  # held for a moment, to look at the numbers below
        self._changed = Condition(self._mutex)
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0
        self._reading = _Reading(self)

    def reading(self) -> AbstractContextManager[None]:
        """Holds off writers; shared with other readers."""
        return self._reading

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds off everybody else."""
        with self._mutex:
            self._writers_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._writers_waiting -= 1
        try:
            yield
        finally:
            with self._mutex:
                self._writing = False
                self._changed.notify_all()

    def begin_reading(self) -> None:
        """Waits for writers."""
        with self._mutex:
            while self._writing or self._writers_waiting:
                self._changed.wait()
            self._readers += 1

    def end_reading(self) -> None:
        """Wakes writers when it was the last."""
        with self._mutex:
            self._readers -= 1
            if not self._readers and self._writers_waiting:
                self._changed.notify_all()


class _Reading:
    """One for all readers: a generator for each would cost more than the rest of the lock."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.begin_reading()

    def __exit__(self, *_: object) -> None:
        self._lock.end_reading()
