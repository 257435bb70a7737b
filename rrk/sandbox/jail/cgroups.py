"""A control group for one worker, where this machine lets us make one: memory and the number of processes.

    group = Group.make("rrk-4711-0")     # None where nothing may be made; the caller then watches memory itself
    group.join(pid); group.limit(memory_bytes, processes); group.kills()
    group.remove()

Tried by doing, never by version: version 2 (a child of our own group or, where that cannot have children with controllers,
a sibling) and version 1 (a child of our own group in each hierarchy). Groups that a killed run left are removed on the way.
"""

from __future__ import annotations

import os
import re
import time

ROOT = "/sys/fs/cgroup"
NAME = re.compile(r"rrk-(\d+)-\d+\Z")


class Group:
    """One worker's group. Its files are opened once, so that a process inside the jail can go on using them."""

    def __init__(self, folders: dict[str, str], version: int):
        self.folders = folders
        self.version = version
        memory = folders["memory"]
        if version == 2:
            self._limit, self._swap = _open(f"{memory}/memory.max"), _open(f"{memory}/memory.swap.max", optional=True)
            self._events = os.open(f"{memory}/memory.events", os.O_RDONLY)
            self._processes = _open(folders["pids"] + "/pids.max") if "pids" in folders else None
        else:
            self._limit = _open(f"{memory}/memory.limit_in_bytes")
            self._swap = _open(f"{memory}/memory.memsw.limit_in_bytes", optional=True)
            self._events = os.open(f"{memory}/memory.oom_control", os.O_RDONLY)
            self._processes = _open(folders["pids"] + "/pids.max") if "pids" in folders else None
        self._now, self._most = 1 << 62, 0  # memory, as made: unlimited; processes

    @classmethod
    def make(cls, name: str) -> Group | None:
        for version, parents in ((2, _version_2()), (1, _version_1())):
            for places in parents:
                made: dict[str, str] = {}
                try:
                    for controller, parent in places.items():
                        _remove_stale(parent)
                        folder = f"{parent}/{name}"
                        if not os.path.exists(folder):
                            os.mkdir(folder)
                        made[controller] = folder
                    group = cls(made, version)
                    group.limit(1 << 40, 4096)
                    return group
                except OSError:
                    _remove(made)
        return None

    def join(self, pid: int) -> None:
        for folder in set(self.folders.values()):
            with open(f"{folder}/cgroup.procs", "w") as file:
                file.write(str(pid))

    def limit(self, memory: int, processes: int | None = None) -> None:
        """Bound the memory (bytes) and, if given, the number of processes of all in the group."""
        if memory != self._now:
            order = [self._limit, self._swap]
            if self.version == 1 and memory > self._now:
                order.reverse()  # memory and swap together may never be less than memory alone
            for handle in order:
                if handle is not None:
                    zero = self.version == 2 and handle == self._swap
                    os.pwrite(handle, b"0" if zero else b"%d" % memory, 0)
            self._now = memory
        if processes not in (None, self._most) and self._processes is not None:
            os.pwrite(self._processes, b"%d" % processes, 0)
            self._most = processes

    def kills(self) -> int:
        """How often the kernel has killed in this group for lack of memory."""
        for line in os.pread(self._events, 4096, 0).split(b"\n"):
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def handles(self) -> list[int]:
        return [h for h in (self._limit, self._swap, self._events, self._processes) if h is not None]

    def remove(self) -> None:
        _remove(self.folders)


def _open(path: str, optional: bool = False) -> int | None:
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        if optional:
            return None
        raise


def _own() -> dict[str, str]:
    """Controller -> our path in its hierarchy; version 2 under the empty name."""
    found = {}
    with open("/proc/self/cgroup") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _version_2() -> list[dict[str, str]]:
    try:
        path = _own().get("")
    except OSError:
        return []
    if path is None or not os.path.exists(f"{ROOT}/cgroup.controllers"):
        return []
    own = f"{ROOT}/{path.strip('/')}".rstrip("/")
    places: list[dict[str, str]] = []
    for parent in (own, os.path.dirname(own)):
        try:
            with open(f"{parent}/cgroup.subtree_control") as file:
                enabled = file.read().split()
        except OSError:
            continue
        if "memory" in enabled and os.access(parent, os.W_OK):
            places.append({name: parent for name in ("memory", "pids") if name in enabled})
    return places


def _version_1() -> list[dict[str, str]]:
    try:
        own = _own()
    except OSError:
        return []
    places: dict[str, str] = {}
    for name in ("memory", "pids"):
        parent = f"{ROOT}/{name}/{own.get(name, '/').strip('/')}".rstrip("/")
        if name in own and os.access(parent, os.W_OK) and os.path.exists(f"{parent}/cgroup.procs"):
            places[name] = parent
    return [places] if "memory" in places else []


def _remove_stale(parent: str) -> None:
    for name in os.listdir(parent):
        match = NAME.match(name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            try:
                os.rmdir(f"{parent}/{name}")
            except OSError:
                pass  # still in use by a process about to die, or not ours


def _remove(folders: dict[str, str]) -> None:
    for folder in set(folders.values()):
        for _ in range(100):
            try:
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.02)  # the last process is still on its way out
