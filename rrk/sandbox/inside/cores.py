"""The core that a worker stays on while its programs are short.

Candidate and tests' process talk in turns, a dozen times a job. Left alone, the scheduler wakes each of them on whichever core
looks idle, where another worker is about to go on, and it waits: a quarter of the throughput with as many workers as cores.
So a fork server stays where it is for some jobs, its candidates with it, and the tests' process follows. Anything that is not
short is set free at the first look of the watch, and between two stays the scheduler may move the worker.
"""

from __future__ import annotations

import os

STAY = 20  # jobs


class Core:
    """In process 1, the fork server."""

    def __init__(self) -> None:
        self.all = os.sched_getaffinity(0)
        self.here = b""  # its number, for follow()
        self.left = 0

    def settle(self) -> bytes:
        """Called when a job begins: stay where the scheduler has put us, for some jobs."""
        if not self.left:
            try:
                with open("/proc/self/stat", "rb") as file:
                    number = int(file.read().rpartition(b")")[2].split()[36])
                os.sched_setaffinity(0, {number})
                self.here = b"%d" % number
            except OSError:
                self.here = b""  # forbidden here: slower, and no harm
            self.left = STAY
        self.left -= 1
        return self.here

    def rest(self) -> None:
        """Called when a job has ended."""
        if not self.left:
            self.free(0)

    def free(self, pid: int) -> None:
        """Let a process (0: the caller) run on every core again."""
        try:
            os.sched_setaffinity(pid, self.all)
        except OSError:
            pass  # it has ended, or the machine's cores have changed


class Follower:
    """In the tests' process. It is told by the candidate, which may lie: about the core only."""

    def __init__(self) -> None:
        self.here = b""

    def follow(self, core: bytes) -> None:
        """Move to the core that the candidate runs on."""
        if core == self.here or not core.isdigit() or len(core) > 5:
            return
        try:
            os.sched_setaffinity(0, {int(core)})
            self.here = core
        except (OSError, ValueError):
            pass
