"""Requests to stop a training run: the first Ctrl-C or TERM lets it save, the second ends it at once.

asked = Stopping()
if train(..., should_stop=asked) is None:
    raise asked.error("runs/sft")          # exit 130 or 143, and how to go on
"""

from __future__ import annotations

import signal

from rrk.errors import Terminated


class Stopping:
    """Catches SIGINT and SIGTERM from now on; true once one has come."""

    def __init__(self) -> None:
        self._asked: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: object) -> None:
        self._asked.append(number)
        if len(self._asked) > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def __call__(self) -> bool:
        return bool(self._asked)

    def error(self, folder: str) -> BaseException:
        """What to raise once the run has saved itself."""
        # Nothing caught: the signal reached another process of the run.
        error: BaseException = KeyboardInterrupt() if self._asked[:1] == [signal.SIGINT] else Terminated()
        error.add_note(f"a checkpoint is kept in {folder}; the same command with --resume goes on from there")
        return error
