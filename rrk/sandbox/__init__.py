"""Runs candidate programs against their tests where they can harm nothing and cannot forge the verdict.

    with Judge(jobs=4) as judge:
        for verdict in judge.judge(jobs):     # in order; reads ahead a bounded window
            ...

Standard library only: a lane has to start fast and must not carry anything that a program could turn to use.
"""

from rrk.sandbox.verdict import Job, Verdict

__all__ = ["Job", "Verdict"]
