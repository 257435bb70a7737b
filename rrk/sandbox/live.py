"""Programs run on the examples that their prompts show, while the caller does something else.

    with Live(jobs=2) as examples:
        examples.submit("a", row)               # a candidate row; returns at once
        examples.results(wait=True)             # [("a", evidence)]: what is done; evidence as `execute --examples` writes it

A judge is one thread's; this one is a thread of its own, which starts with the first program.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RrkError
from rrk.sandbox.candidates import Evidence, Problems
from rrk.sandbox.judge.judge import Judge

_END = None


class Live:
    """`settings` are the Judge's; `each_s`: CPU seconds an example of Python. Problems are what their candidates' rows say."""

    def __init__(self, each_s: float = 1.0, sandboxes: Sequence[str] = (), **settings: Any):
        self._each_s, self._settings = each_s, {**settings, "sandboxes": sandboxes}
        self._evidence = Evidence((), Problems([], hidden=False), shown=True, sandboxes=sandboxes)
        self._asked: queue.SimpleQueue[tuple[Any, dict[str, Any], Any] | None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[tuple[Any, dict[str, Any]] | BaseException] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, row: dict[str, Any]) -> None:
        """RowError for a Problem row whose programs cannot be run on examples."""
        self._evidence.job(jsonl.Row({**row, "completion": ""}, rows.where(row)))

    def try_out(self) -> None:
        """RrkError where no program can be run here, before anybody has waited for a model."""
        shown = {
            "task_id": "",
            "language": "py",
            "entry_point": "f",
            "prompt": 'def f(x):\n    """\n    >>> f(1)\n    1\n    """\n',
        }
        self.submit(None, {**shown, "completion": "    return x\n"})
        [(_, found)] = self.results(wait=True)
        if found["passed"] != "1":
            raise RrkError(f"a program that is right fails its example here: {found.get('error') or found}")

    def shows(self, row: dict[str, Any]) -> bool:
        """Whether a candidate's prompt has an example."""
        return self._evidence.shows(row)

    def submit(self, key: Any, row: dict[str, Any]) -> None:
        """Run a candidate's program; RowError where it fits no problem."""
        job = self._evidence.job(row)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="rrk examples", daemon=True)
            self._thread.start()
        self._asked.put((key, row, job))

    def results(self, wait: bool) -> list[tuple[Any, dict[str, Any]]]:
        """What has become known since; with `wait` at least one of those that were submitted. RrkError where no worker can be had."""
        made: list[tuple[Any, dict[str, Any]]] = []
        while True:
            try:
                found = self._found.get(block=wait and not made)
            except queue.Empty:
                return made
            if isinstance(found, BaseException):
                raise found
            made.append(found)

    def close(self) -> None:
        """End the workers; what still runs is given up."""
        if self._thread is not None:
            self._asked.put(_END)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        taken: deque[tuple[Any, dict[str, Any]]] = deque()
        asked, evidence = self._asked, self._evidence

        class Jobs:
            """Ends at _END, and forgets what is still in hand then."""

            def ready(self) -> bool:
                return not asked.empty()

            def __iter__(self):
                return self

            def __next__(self):
                entry = asked.get()
                if entry is _END:
                    raise _Closed
                key, row, job = entry
                taken.append((key, row))
                return job

        try:
            with Judge(**self._settings) as judge:
                for verdict in judge.evidence(Jobs(), self._each_s):
                    key, row = taken.popleft()
                    self._found.put((key, evidence.found(row, verdict)))
        except _Closed:
            pass
        except BaseException as error:
            self._found.put(error)


class _Closed(Exception):
    """Nothing more is wanted."""
