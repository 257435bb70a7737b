"""What a run tells: one row an update in log.jsonl, where its seconds went, and the curves of --report-to.

log = Log(out, rows=[], write=True)
clock = Clock()
with clock("rollout"): ...
log.append({"update": 1, "score": 0.3, "seconds": clock.seconds()})
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from rrk.generation.reports import Curves

NAME = "log.jsonl"


class Clock:
    """Wall seconds by phase; they add up to the update's total, less what no phase claims. `tell` hears what begins."""

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self._tell = tell
        self._began = time.perf_counter()
        self._spent: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._tell(phase)
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[phase] = self._spent.get(phase, 0.0) + time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """Phases in the order in which they came, and the total so far."""
        return {k: round(v, 3) for k, v in {**self._spent, "total": time.perf_counter() - self._began}.items()}


class Log:
    """The rows so far; every append rewrites the file by rename, so it is never torn (a run has hundreds of rows)."""

    def __init__(self, out: Path, rows: list[dict[str, Any]], write: bool, curves: Curves | None = None):
        self.out, self.rows, self.write, self._curves = out, rows, write, curves
        if rows:
            self._flush()  # rows after the checkpoint will be made again

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; its numbers also go to the curves, under their names."""
        self.rows.append(row)
        if not self.write:
            return
        self._flush()
        if self._curves is not None:
            told = {**row, **{f"seconds/{phase}": spent for phase, spent in row.get("seconds", {}).items()}}
            numbers = {k: v for k, v in told.items() if isinstance(v, (int, float)) and k != "update"}
            self._curves.add(row["update"], numbers)

    def _flush(self) -> None:
        if self.write:
            part = self.out / (NAME + ".part")
            part.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in self.rows))
            os.replace(part, self.out / NAME)
