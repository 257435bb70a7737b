"""Progress on standard error: a live line on a terminal, a plain line every 30 s elsewhere, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from typing import Any

INTERVAL = 30.0  # seconds between lines where standard error is not a terminal


class Progress:
    """Counts what is done; `total` may be unknown. Use as a context manager."""

    def __init__(self, stage: str, total: int | None = None, unit: str = "rows", quiet: bool = False):
        self.stage, self.total, self.unit = stage, total, unit
        self.done = 0
        self.started = self.last = time.monotonic()
        self.quiet = quiet
        self._live: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        # rich costs 50 ms to import: only where somebody watches, and never for a stage that is done at once.
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count more done; shows at most ten times a second (terminal) or twice a minute (file)."""
        self.done += count
        if self.quiet:
            return
        now = time.monotonic()
        if sys.stderr.isatty():
            if self._live is None:
                if now - self.started < 0.5:
                    return
                self._start_live()
            if now - self.last >= 0.1:
                self.last = now
                self._live.update(self._task, completed=self.done, note=note)
        elif now - self.last >= INTERVAL:
            self.last = now
            print(
                f"rrk {self.stage}: {self.line(now)}{'; ' + note if note else ''}",
                file=sys.stderr,
                flush=True,
            )

    def line(self, now: float) -> str:
        """`120/400 rows, 31.2/s, 9 s left`."""
        rate = self.done / max(now - self.started, 1e-9)
        text = f"{self.done}{f'/{self.total}' if self.total else ''} {self.unit}, {rate:.1f}/s"
        if self.total and rate > 0:
            text += f", {max(self.total - self.done, 0) / rate:.0f} s left"
        return text

    def _start_live(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Live

        columns = [
            TextColumn(f"rrk {self.stage}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self._live = Live(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._live.add_task("", total=self.total, note="")
        self._live.start()
