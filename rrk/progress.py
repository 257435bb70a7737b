"""Progress on standard error: a live line on a terminal, a plain line every 30 s elsewhere, nothing with --quiet.

    with Progress("execute", total=lambda: count_rows(path)) as progress:
        progress.advance()
    with waiting("rrk sample: loading MODEL"): ...          # a line that is gone when it is over

Of the stages of a pipe only the last one has the terminal's line; the others would write over it.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INTERVAL = 30.0  # seconds between lines where standard error is not a terminal


def live() -> bool:
    """Whether somebody watches, and no later stage of a pipe has the line."""
    if not sys.stderr.isatty():
        return False
    try:
        return not stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        return True


@contextmanager
def waiting(text: str, quiet: bool = False) -> Iterator[None]:
    """A line on the terminal while something takes long before there is anything to count."""
    shown = not quiet and live()
    if shown:
        print(f"\r{text[:79]}\x1b[K", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`45 s`, `9 min`, `2 h 46 min`: the coarser, the longer."""
    if seconds < 180:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Counts what is done; `total` may be unknown, or a function that is asked once there is something to show.

    Work that is done but waits for what must come out before it counts for the rate and the time left (`ahead`).

    `done`: what an earlier run did; it counts as done and not for the rate. `opening`: what a terminal shows until something
    is done. Use as a context manager.
    """

    def __init__(
        self,
        stage: str,
        total: int | Callable[[], int | None] | None = None,
        unit: str = "rows",
        quiet: bool = False,
        done: int = 0,
        opening: str = "",
    ):
        self.stage, self.unit = stage, unit
        self.total: int | None = None if callable(total) else total
        self._ask = total if callable(total) else None
        self.done = self._kept = done
        self._worked = 0.0  # of this run, where it is known before it is done
        self.opening = opening
        self.started = self.last = self.advanced = time.monotonic()
        self.quiet = quiet
        self._live: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        # rich costs 50 ms to import: only where somebody watches, and never for a stage that is done at once.
        if self.opening and not self.quiet and live():
            print(f"rrk {self.stage}: {self.opening}"[:79], end="", file=sys.stderr, flush=True)
        else:
            self.opening = ""
        return self

    def _opened(self) -> None:
        if self.opening:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self.opening = ""

    def __exit__(self, *_: object) -> None:
        self._opened()
        if self._live is not None:
            self._live.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count more done; shows at most ten times a second (terminal) or twice a minute (file)."""
        self.done += count
        if count:
            self.advanced = time.monotonic()
        self._show(note)

    def began(self, done: int) -> None:
        """So many were done by an earlier run, where that is known only once this one has begun."""
        self.done += done - self._kept
        self._kept = done

    def ahead(self, count: float) -> None:
        """So much more of the work is done, in units or parts of them, though what it belongs to may not be out yet."""
        self._worked += count
        self._show()

    def _show(self, note: str = "") -> None:
        if self.quiet:
            return
        self._opened()
        now = time.monotonic()
        if live():
            if self._live is None:
                if now - self.started < 0.5:
                    return
                self._start_live()
            if now - self.last >= 0.1:
                self.last = now
                line = self.line(now) + (f"; {note}" if note else "")
                self._live.update(self._task, completed=self.done, total=self.total, line=line)
        elif now - self.last >= INTERVAL and not sys.stderr.isatty():
            self.last = now
            self._find_total()
            print(
                f"rrk {self.stage}: {self.line(now)}{'; ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )

    def line(self, now: float) -> str:
        """`120/400 rows, 31.2/s, 9 s left`; `2/67 steps, 153 s each, 2 h 46 min left` where one takes long;
        `2/164 rows (31 % drawn), 0.1/s, 18 min left` where work is ahead. Rate and time left need one that is done: of parts of
        many that are being drawn at once only the shortest are at an end, and 28 minutes were told as 5 hours. What has passed since
        the last one was done is the next one's: 8 updates of 9 minutes were told as 15 minutes each."""
        worked = max(self.done - self._kept, self._worked)
        since = 0.0
        if self._worked + 1 <= worked:  # otherwise work ahead has told of it
            since = max(min(now - self.advanced, (now - self.started) / (worked + 1)), 0.0)
        rate = worked / max(now - self.started - since, 1e-9)
        text = f"{self.done}{f'/{self.total}' if self.total else ''} {self.unit}"
        if self.total and self._kept + worked >= self.done + 0.01 * self.total:
            text += f" ({100 * (self._kept + worked) / self.total:.0f} % drawn)"
        if worked < 1:
            return text
        text += f", {rate:.1f}/s" if rate >= 0.1 else f", {1 / rate:.0f} s each"
        if self.total:
            text += f", {duration(max((self.total - self._kept - worked) / rate - since, 0.0))} left"
        return text

    def _start_live(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Live

        self._find_total()
        # Our own line, as it stands in a file: count, total, rate and time left, in so many columns that 80 hold them.
        columns = [TextColumn(f"rrk {self.stage}"), BarColumn(bar_width=16), TextColumn("{task.fields[line]}")]
        self._live = Live(*columns, console=Console(stderr=True), transient=True)
        self._task = self._live.add_task("", total=self.total, line="")
        self._live.start()

    def _find_total(self) -> None:
        if self._ask is not None:
            self.total, self._ask = self._ask(), None
