"""Many readers or one writer; a waiting writer goes first, so that searches cannot starve it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock


class ReadWriteLock:
    """Not reentrant: a reader that asks to write, or reads twice while a writer waits, waits for itself."""

    def __init__(self) -> None:
        self._mutex = Lock()  # held for a moment, to look at the numbers below
        self._changed = Condition(self._mutex)
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

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
        """Waits for writers, and holds them off until :meth:`end_reading`; shared with other readers.

        Two calls, since a context manager would cost a search more than all the rest of the lock.
        """
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
