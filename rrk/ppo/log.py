"""What a run tells: one row an update in log.jsonl, where its seconds went, and TensorBoard's curves if that is installed.

log = Log(out, rows=[], write=True)
clock = Clock()
with clock("rollout"): ...
log.append({"update": 1, "score": 0.3, "seconds": clock.seconds()})
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

NAME = "log.jsonl"


class Clock:
    """Wall seconds by phase; they add up to the update's total, less what no phase claims."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
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

    def __init__(self, out: Path, rows: list[dict[str, Any]], write: bool):
        self.out, self.rows, self.write = out, rows, write
        self._board = _tensorboard(out, rows[-1]["update"] + 1 if rows else 0) if write else None
        if rows:
            self._flush()  # rows after the checkpoint will be made again

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; numbers also go to TensorBoard under their names."""
        self.rows.append(row)
        if self.write:
            self._flush()
        if self._board is not None:
            for name, value in [*row.items(), *((f"seconds/{k}", v) for k, v in row.get("seconds", {}).items())]:
                if isinstance(value, (int, float)) and name != "update":
                    self._board.add_scalar(name, value, row["update"])
            self._board.flush()

    def _flush(self) -> None:
        if self.write:
            part = self.out / (NAME + ".part")
            part.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in self.rows))
            os.replace(part, self.out / NAME)


def _tensorboard(out: Path, at: int):
    """A writer of curves, or None where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=at)
