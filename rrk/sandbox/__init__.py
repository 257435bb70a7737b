"""Runs candidate programs against their tests where they can harm nothing and cannot forge the verdict.

    with Judge(jobs=4) as judge:
        for verdict in judge.judge(jobs):     # in order; reads ahead a bounded window
            ...

Standard library only: a lane has to start fast and must not carry anything that a program could turn to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rrk.sandbox.verdict import Job, Verdict

if TYPE_CHECKING:
    from rrk.sandbox.judge.judge import Judge

__all__ = ["Job", "Judge", "Verdict"]


def __getattr__(name: str) -> Any:
    # Lazily: whoever wants a Verdict only should not pay for SQLite and threads.
    if name == "Judge":
        from rrk.sandbox.judge.judge import Judge

        return Judge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
