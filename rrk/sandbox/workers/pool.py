"""Keeps N workers busy: a queue, threads that drive workers, and the rules for who may start.

    pool = Pool(jobs=4, run=run)
    pool.submit(tasks)          # any objects; run(slot, task) is called in a thread that has a slot for a worker
    pool.alone(task)            # ... when nothing else runs or waits
    pool.alike(...)             # within run: more tasks of the same kind, to be done together
    pool.close()                # ends every worker, whatever it is doing

`jobs` counts cores, not workers. A worker whose candidate slept through the last look is parked: it holds no core, and another
worker may start in its place, up to PARKED workers a core. One lock guards everything; `changed` is notified when anything is.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from rrk.errors import RrkError

PARKED = 4  # workers a core, sleepers included
LOOK = 0.2  # seconds between looks at what the workers' programs burn
IDLE = 0.005  # CPU seconds in LOOK below which a program sleeps

_TICK = os.sysconf("SC_CLK_TCK")


class Slot:
    """A thread with a worker of its own."""

    def __init__(self) -> None:
        self.worker: Any = None
        self.mounts: frozenset[str] = frozenset()
        self.running = False
        self.parked = False
        self.burnt: float | None = None  # CPU seconds of the worker at the last look

    def drop(self) -> None:
        """End the worker; the next task gets a fresh one."""
        worker, self.worker = self.worker, None
        self.burnt = None
        if worker is not None:
            worker.close()


class Pool:
    """Threads, workers and the queue. `run` starts slot.worker where it is None, and hands results to whoever waits itself."""

    def __init__(
        self,
        jobs: int,
        run: Callable[[Slot, Any], None],
        parked: int = PARKED,
    ) -> None:
        self.jobs = jobs
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.failure: BaseException | None = None
        self._run = run
        self._cap = jobs * parked
        self._queue: deque[Any] = deque()
        self._alone: deque[Any] = deque()
        self._slots: list[Slot] = []
        self._threads: list[threading.Thread] = []
        self._waiting = 0  # threads without work
        self._exclusive = False
        self._closed = False
        self._watcher: threading.Thread | None = None

    # The caller's side.

    def submit(self, tasks: Iterable[Any], first: bool = False) -> None:
        """Queue tasks; `first` puts them before all others (they were begun before)."""
        with self.lock:
            if first:
                self._queue.extendleft(reversed(list(tasks)))
            else:
                self._queue.extend(tasks)
            self._more_threads()
            self.changed.notify_all()

    def alone(self, task: Any) -> None:
        """Queue a task that must have the machine to itself."""
        with self.lock:
            self._alone.append(task)
            self.changed.notify_all()

    def close(self) -> None:
        """End everything now. Workers are killed, not asked."""
        with self.lock:
            self._closed = True
            self._queue.clear()
            self._alone.clear()
            self.changed.notify_all()
            slots, threads = list(self._slots), list(self._threads)
        # Again and again: a worker that was just starting when the others were ended has work in hand, too.
        until = time.monotonic() + 10
        while threads and time.monotonic() < until:
            for slot in slots:
                worker = slot.worker
                if worker is not None and not worker.dead:
                    worker.close()
            threads[0].join(0.05)
            threads = [thread for thread in threads if thread.is_alive()]
        for slot in slots:
            slot.drop()

    # The threads' side.

    def alike(self, like: Callable[[Any], bool], most: int) -> list[Any]:
        """Take more tasks to be done together: at most so many, and a fair share of those that wait, so that the other
        workers get theirs."""
        with self.lock:
            if self._exclusive:
                return []
            found = [task for task in self._queue if like(task)]
            chosen = found[: max(min(most, math.ceil((len(found) + 1) / self.jobs) - 1), 0)]
            if chosen:
                names = set(map(id, chosen))
                self._queue = deque(task for task in self._queue if id(task) not in names)
            return chosen

    def _more_threads(self) -> None:
        wanted = min(len(self._queue), self.jobs - self._active()) - self._waiting
        for _ in range(min(wanted, self._cap - len(self._threads))):
            slot = Slot()
            self._slots.append(slot)
            thread = threading.Thread(target=self._work, args=(slot,), daemon=True, name=f"worker-{len(self._slots)}")
            self._threads.append(thread)
            thread.start()
        if self._watcher is None and self._threads:
            self._watcher = threading.Thread(target=self._watch, daemon=True, name="workers-watch")
            self._watcher.start()

    def _active(self) -> int:
        return sum(slot.running and not slot.parked for slot in self._slots)

    def _work(self, slot: Slot) -> None:
        try:
            while (task := self._take(slot)) is not None:
                try:
                    self._run(slot, task)
                finally:
                    with self.lock:
                        slot.running = slot.parked = self._exclusive = False
                        self.changed.notify_all()
        except BaseException as error:  # shown by the caller's thread
            with self.lock:
                others = any(other is not slot and other.worker is not None for other in self._slots)
                if isinstance(error, RrkError) and others and not self._closed:
                    # No further worker to be had (processes, memory): go on with those there are.
                    self._cap = max(len(self._threads) - 1, 1)
                    self._queue.appendleft(task)
                elif not self._closed and self.failure is None:
                    self.failure = error
                self.changed.notify_all()
        finally:
            slot.drop()
            with self.lock:
                if slot in self._slots:
                    self._slots.remove(slot)
                if threading.current_thread() in self._threads and not self._closed:
                    self._threads.remove(threading.current_thread())

    def _take(self, slot: Slot) -> Any:
        """The next task for this slot, or None at the end."""
        with self.lock:
            self._waiting += 1
            try:
                while not (self._closed or self.failure):
                    if self._queue and not self._exclusive and self._active() < self.jobs:
                        slot.running, slot.burnt = True, None
                        return self._queue.popleft()
                    if self._alone and not self._queue and not any(other.running for other in self._slots):
                        slot.running = self._exclusive = True
                        return self._alone.popleft()
                    self.changed.wait()
                return None
            finally:
                self._waiting -= 1

    def _watch(self) -> None:
        """Park workers whose programs sleep, so that they hold no core."""
        while not self._closed:
            with self.lock:
                running = [slot for slot in self._slots if slot.running and slot.worker is not None]
                if not running:
                    self.changed.wait(1.0)
                    continue
            seen = [(slot, slot.worker, burnt(slot.worker)) for slot in running]
            with self.lock:
                for slot, worker, now in seen:
                    if now is None or not slot.running or slot.worker is not worker or worker is None:
                        slot.burnt = None
                        continue
                    before, slot.burnt = slot.burnt, now
                    if before is None or self._exclusive:
                        continue
                    parked = now - before < IDLE
                    if parked != slot.parked:
                        slot.parked = parked
                        if parked:
                            self._more_threads()
                            self.changed.notify_all()
            time.sleep(LOOK)


def burnt(worker: Any) -> float | None:
    """CPU seconds that a worker and all below it have used until now; None if that cannot be told."""
    pid = getattr(worker, "pid", None)
    if not pid:
        return None
    total = 0
    below: list[int | str] = [pid]
    try:
        for process in below:
            with open(f"/proc/{process}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
            total += sum(map(int, fields[11:15]))  # user and system time, its own and of children it has waited for
            for thread in os.listdir(f"/proc/{process}/task"):
                with open(f"/proc/{process}/task/{thread}/children", encoding="ascii") as stream:
                    below += stream.read().split()
    except (OSError, ValueError, IndexError):
        # Something ended while we looked: the program is alive enough.
        return None
    return total / _TICK
