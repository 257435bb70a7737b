"""Runs candidate programs against their tests where they can harm nothing and cannot forge the verdict.

    with Judge(jobs=4) as judge:
        for verdict in judge.judge(jobs):     # in order; reads ahead a bounded window
            ...

Five rooms, by who may be trusted (each __init__ says who calls it, what it may import, what must never be in it):

    judge/      decides: what is run, what its outcome means, what is kept
    languages/  sandboxes/LANG.toml, carried out
    workers/    the host's ends of the jail
    jail/       makes the jail, forks candidates, watches them
    inside/     runs with a candidate

Beside them: verdict (the words), verdict_rules (what becomes of a Python program), candidates (rows become jobs), self_test
(`rrk doctor`), container (podman, docker). Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrk.sandbox.judge.judge import Judge
    from rrk.sandbox.verdict import Job, Verdict

__all__ = ["Job", "Judge", "Verdict"]


def __getattr__(name: str) -> Any:
    # Lazily: the jail's own processes import this package too, and must carry nothing that a program could turn to use.
    if name == "Judge":
        from rrk.sandbox.judge.judge import Judge

        return Judge
    if name in ("Job", "Verdict"):
        from rrk.sandbox import verdict

        return getattr(verdict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
