"""What process 1 of a worker sees of the others: what they use, that they have ended, and that none is left.

A jailed worker's processes are all that /proc shows but process 1; without a jail they are our descendants.
"""

from __future__ import annotations

import os
import resource
import signal

_PAGE = resource.getpagesize()
_HERTZ = os.sysconf("SC_CLK_TCK")


def reap(pid: int) -> tuple[int | None, float, int]:
    """Collect what has died; the status of `pid` if it has, CPU seconds and largest size (bytes) of all."""
    found, spent, peak = None, 0.0, 0
    while True:
        try:
            done, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if done == 0:
            break
        spent += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss << 10)
        if done == pid:
            found = status
    return found, spent, peak


def sweep(jailed: bool, pid: int | None = None, uncounted: int | None = None) -> tuple[int | None, float, int]:
    """Kill and collect every process but our own; the status of `pid`, CPU seconds and largest size of all but `uncounted`."""
    found, spent, peak = None, 0.0, 0
    while True:
        if jailed:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            for child in processes(jailed):
                try:
                    os.kill(child, signal.SIGKILL)
                except OSError:
                    pass
        try:
            done, status, used = os.wait4(-1, 0)
        except ChildProcessError:
            return found, spent, peak
        if done == uncounted:
            continue
        spent += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss << 10)
        if done == pid:
            found = status


def processes(jailed: bool, but: int | None = None) -> list[int]:
    """All processes of the worker but process 1 (and `but`). Without a jail: all that descend from us."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if jailed:
        return [number for number in numbers if number not in (1, but)]
    parents = {}
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", "rb") as file:
                parents[number] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            pass
    found = {os.getpid()}
    while more := {n for n, parent in parents.items() if parent in found and n not in found}:
        found |= more
    return sorted(found - {os.getpid()})


def usage(jailed: bool, but: int | None = None) -> tuple[float, int, float]:
    """CPU seconds, private memory (bytes) and seconds spent waiting for a core, summed over the worker's processes."""
    cpu, resident, delay = 0, 0, 0
    for number in processes(jailed, but):
        try:
            with open(f"/proc/{number}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            cpu += sum(map(int, fields[11:15]))
            with open(f"/proc/{number}/statm", "rb") as file:
                pages = file.read().split()
            resident += int(pages[1])
            with open(f"/proc/{number}/schedstat", "rb") as file:
                delay += int(file.read().split()[1])
        except (OSError, IndexError):
            pass
    return cpu / _HERTZ, resident * _PAGE, delay / 1e9


def accurate(jailed: bool, but: int | None = None) -> int:
    """Memory of all processes (bytes) with shared pages counted once; slower, so asked only when it matters."""
    total = 0
    for number in processes(jailed, but):
        try:
            with open(f"/proc/{number}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) << 10
                        break
        except (OSError, IndexError):
            # Not ours to read in full: private pages are what is left to count.
            try:
                with open(f"/proc/{number}/statm", "rb") as file:
                    pages = file.read().split()
                total += (int(pages[1]) - int(pages[2])) * _PAGE
            except (OSError, IndexError):
                pass
    return total
