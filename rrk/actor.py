"""What works on a node of a Ray cluster (rrk/cluster.py): a stage's own work, kept running over batch after batch.

    actor = Actor(make, cores=2, folder="/shared/run")     # make(cores) -> the work of a local run
    actor.start()                                          # rrk's version there, or why it cannot work
    outputs, error, figures, notes, seconds = actor.run(items)

The work sees one endless input, as in a local run: workers stay warm, a model is loaded once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rrk import __version__
from rrk.errors import RrkError

Make = Callable[[int], Any]


class Actor:
    """The work on a node: one thread runs it over everything that `run` is given, in the order in which that comes."""

    def __init__(self, make: Make, cores: int, folder: str) -> None:
        """`folder`: where the paths that `make` was given begin; nodes share it, or the paths are whole."""
        self._make, self._cores, self._folder = make, cores, folder
        self._feed = Feed()
        self._work: Any = None
        self._failure: RrkError | None = None
        self._thread = threading.Thread(target=self._drive, daemon=True)

    def start(self) -> str | RrkError:
        """The version of rrk here, or why the work cannot be done here."""
        try:
            if os.path.isdir(self._folder):
                os.chdir(self._folder)
            self._work = self._make(self._cores)
            if hasattr(self._work, "check"):
                self._work.check()
        except RrkError as error:
            return error
        self._thread.start()
        return __version__

    def run(self, items: list[Any]) -> tuple[Any, ...]:
        """(outputs, the error that came after them, figures so far, notes, seconds)."""
        outputs, error, seconds = self._feed.put(items).wait()
        return outputs, error, *self._told(), seconds

    def finish(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        self._feed.end()
        self._thread.join(20)
        return self._told()

    def _told(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        return dict(getattr(self._work, "figures", {})), tuple(getattr(self._work, "notes", ()))

    def _drive(self) -> None:
        results: Any = None
        try:
            results = self._work(self._feed)
            for output in results:
                self._feed.done(output)
        except RrkError as error:
            self._feed.fail(error)
        except BaseException as error:
            self._feed.fail(RrkError(f"{type(error).__name__}: {error}"))
        finally:
            if hasattr(results, "close"):
                results.close()


class Ticket:
    """A batch on its way through a worker's work."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._outputs: list[Any] = []
        self._error: RrkError | None = None
        self._done = threading.Event()
        self._began = time.monotonic()

    def began(self, when: float) -> None:
        self._began = max(self._began, when)

    def add(self, output: Any) -> bool:
        self._outputs.append(output)
        if len(self._outputs) < self._size:
            return False
        self.end()
        return True

    def end(self, error: RrkError | None = None) -> None:
        self._error = error
        self._seconds = time.monotonic() - self._began
        self._done.set()

    def wait(self) -> tuple[list[Any], RrkError | None, float]:
        self._done.wait()
        return self._outputs, self._error, self._seconds


class Feed:
    """The items of all batches in turn, as rrk.items.Items has them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._tickets: deque[Ticket] = deque()
        self._ended = False
        self._error: RrkError | None = None

    def put(self, items: list[Any]) -> Ticket:
        ticket = Ticket(len(items))
        with self._changed:
            if self._error is not None or self._ended:
                ticket.end(self._error or RrkError("the worker has ended"))
                return ticket
            self._items.extend(items)
            self._tickets.append(ticket)
            self._changed.notify_all()
        return ticket

    def done(self, output: Any) -> None:
        with self._changed:
            if self._tickets[0].add(output):
                self._tickets.popleft()
                if self._tickets:
                    self._tickets[0].began(time.monotonic())

    def fail(self, error: RrkError) -> None:
        with self._changed:
            self._error = error
            while self._tickets:
                self._tickets.popleft().end(error)

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def ready(self) -> bool:
        return bool(self._items) or self._ended

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Any:
        with self._changed:
            while not self._items:
                if self._ended:
                    raise StopIteration
                self._changed.wait()
            return self._items.popleft()
