"""Process 1 of a worker at work: boxes, candidates with limits and without capabilities, and the watch over them.

There is no private mount namespace a candidate: none can mount, and all are dead before the tmpfs is changed for the next.
What process 1 itself mounts, forks and kills it does with capabilities that reach no further than the jail.
"""

from __future__ import annotations

import math
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from rrk.sandbox.inside import candidate, wire
from rrk.sandbox.inside.cores import Core
from rrk.sandbox.inside.program_process import ANSWER
from rrk.sandbox.jail import kernel
from rrk.sandbox.jail.box import PROOF_FD, Limits
from rrk.sandbox.jail.cgroups import Group
from rrk.sandbox.jail.watch import accurate, processes, reap, sweep, usage

TICK = 0.04  # seconds between two looks at memory, output and CPU time
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


class ForkServer:
    """Process 1 at work: one candidate at a time, each in a box that is made new and emptied by force."""

    def __init__(
        self,
        control: socket.socket,
        outputs: int,
        group: Group | None,
        score: int | None,
        jailed: bool = True,
        others: Mapping[str, Callable[[ForkServer, dict[str, Any], bytes], None]] = MappingProxyType({}),
    ):
        """others: further operations that run candidates, by name."""
        self.control, self.outputs, self.group, self.jailed = control, outputs, group, jailed
        self.score = score  # our /proc/self/oom_score_adj
        self.usual = b"" if score is None else os.pread(score, 16, 0).strip()
        self.size = 0  # of the box, MB; 0: none is open
        self.pristine: tuple[int, ...] = ()  # what an unused box looks like
        self.trouble: str | None = None
        self.kills = group.kills() if group else 0  # when we last looked
        self.meanwhile: Callable[[], object] = lambda: None  # called when a candidate turns out not to be short
        self.core = Core()
        self.others = others

    def serve(self) -> None:
        while True:
            header, blob, fds = wire.receive(self.control)
            operation = header["op"]
            if operation == "stop":
                continue  # came too late: that candidate has ended by itself
            try:
                if operation == "box":
                    self.open(header.get("size", 64))
                elif operation == "write":
                    self.write(header["name"], blob)
                elif operation == "run":
                    self.run(header, blob)
                elif operation == "python":
                    self.python(header, fds.pop())
                elif operation == "end":
                    self.close()
                elif operation in self.others:
                    self.others[operation](self, header, blob)
            except OSError as error:
                self.trouble = self.trouble or str(error)
                if operation in ("run", "python", *self.others):
                    sweep(self.jailed)
                    wire.send(self.control, {"error": self.trouble})
                    self.trouble = None
            for fd in fds:
                os.close(fd)

    # The box

    def open(self, size: int) -> None:
        if self.size == size and self._look() == self.pristine:
            return  # the one before left it untouched: as good as new, and cheaper
        self.close()
        if self.jailed:
            kernel.fresh_box(size)
        else:
            for name in ("", "/w", "/tmp", "/shm"):
                os.makedirs(kernel.BOX + name, exist_ok=True)
        self.size = size
        self.pristine = self._look()

    def _look(self) -> tuple[int, ...]:
        """Changes with what can be done to the box: a folder's ctime cannot be set, and moves with all else (by the tick)."""
        if not self.jailed:
            return (time.monotonic_ns(),)
        space = os.statvfs(kernel.BOX)
        folders = [os.stat(kernel.BOX + name) for name in ("", "/w", "/tmp", "/shm")]
        return space.f_bfree, space.f_ffree, *(n for f in folders for n in (f.st_ctime_ns, f.st_mode, f.st_size))

    def close(self) -> None:
        if not self.size:
            return
        os.chdir("/")
        if self.jailed:
            kernel.umount(kernel.BOX)
        else:
            import shutil  # here: what a candidate needs not is not in the process that forks it

            shutil.rmtree(kernel.BOX, ignore_errors=True)
        self.size = 0

    def write(self, name: str, data: bytes) -> None:
        """Write a file below the work folder; never through a link that a candidate may have left there."""
        *folders, last = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in (*folders, last):
            raise OSError(f"{name}: leads out of the box")
        at = os.open(kernel.WORK, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in folders:
                try:
                    os.mkdir(part, 0o755, dir_fd=at)
                except FileExistsError:
                    pass
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = below
            try:
                os.unlink(last, dir_fd=at)
            except FileNotFoundError:
                pass
            if len(data) > (self.size << 20) // 2:
                self._grow(2 * (len(data) >> 20) + 64)
            with open(os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755, dir_fd=at), "wb") as file:
                file.write(data)
        finally:
            os.close(at)

    def _grow(self, size: int) -> None:
        if size > self.size:
            if self.jailed:
                flags = kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV
                kernel.mount(None, kernel.BOX, "tmpfs", flags, f"size={size}m")
            self.size = size

    # Candidates

    def run(self, header: dict[str, Any], stdin: bytes) -> None:
        if self.trouble:
            raise OSError(self.trouble)
        limits = Limits(**header["limits"])
        self._grow(limits.files_mb)
        out, err, inp = self.output(), self.output(), self.output()
        if stdin:
            os.pwrite(inp, stdin, 0)
        proof_read, proof_write = os.pipe()
        said_read, said_write = os.pipe()
        try:
            pid = self.fork()
            if pid == 0:
                try:
                    keep = [PROOF_FD, said_write] if header["proof"] else [said_write]
                    self.child(limits, inp, out, err)
                    self.core.free(0)
                    if header["proof"]:
                        os.dup2(proof_write, PROOF_FD)
                    kernel.close_all_but(keep)
                    for number in (signal.SIGPIPE, signal.SIGXFSZ):
                        signal.signal(number, signal.SIG_DFL)
                    os.execvpe(header["argv"][0], header["argv"], self.environment(header["env"]))
                except BaseException as error:
                    os.write(said_write, f"{header['argv'][0]}: {error}".encode()[:4000])
                os._exit(127)
            os.close(proof_write)
            os.close(said_write)
            seen = self.watch(pid, limits, (out, err))
            said = os.read(said_read, 4096)
            os.set_blocking(proof_read, False)
            try:
                proof = os.read(proof_read, 4096)
            except BlockingIOError:
                proof = b""
            most = limits.output_kb << 10
            streams = [os.pread(fd, most, 0) for fd in (out, err)]
            seen["sizes"] = [len(streams[0]), len(streams[1]), len(proof)]
            if said:
                seen["error"] = said.decode("utf-8", "replace")
            wire.send(self.control, seen, b"".join([*streams, proof]))
        finally:
            for fd in (out, err, inp, proof_read, said_read):
                os.close(fd)

    @staticmethod
    def environment(more: dict[str, str]) -> dict[str, str]:
        """What a command finds in its environment."""
        environment = {**ENVIRONMENT, "HOME": kernel.WORK, **more}
        return environment if os.path.islink("/tmp") else {"TMPDIR": kernel.BOX + "/tmp", **environment}

    def python(self, header: dict[str, Any], talk: int) -> None:
        """Fork a Python candidate that talks over `talk`; we never see its text, so no later candidate can find it."""
        limits = Limits(**header["limits"])
        core = self.core.settle()
        self.open(limits.files_mb)
        out, err = self.output(), self.output()
        try:
            pid = self.fork()
            if pid == 0:
                try:
                    null = os.open("/dev/null", os.O_RDONLY)
                    self.child(limits, null, out, err)
                    kernel.limit([(resource.RLIMIT_DATA, limits.memory_mb << 20)])
                    talk = os.dup2(talk, 3)
                    os.closerange(4, 1 << 16)  # one system call, and less to touch than by ctypes
                    candidate.candidate(talk, kernel.WORK, core)
                finally:
                    os._exit(1)
            os.close(talk)
            seen = self.watch(pid, limits, (out, err), header["seq"])
            ends = []
            for fd, size in ((out, seen["output"][0]), (err, seen["output"][1])):
                if size <= 2048:
                    ends.append(os.pread(fd, 2048, 0))
                else:
                    ends.append(os.pread(fd, 1024, 0) + os.pread(fd, 1024, size - 1024).rjust(1024, b"\0"))
            seen["sizes"] = [len(ends[0]), len(ends[1])]
            wire.send(self.control, seen, b"".join(ends))
        finally:
            os.close(out)
            os.close(err)
            self.core.rest()

    def fork(self) -> int:
        """Fork a child that the kernel kills before anything else when memory runs out, and process 1 last of all."""
        if self.score is None:
            return os.fork()
        os.write(self.score, b"1000")
        pid = os.fork()
        if pid:
            os.write(self.score, self.usual)
        return pid

    def output(self) -> int:
        flags = os.O_RDWR | os.O_TMPFILE | os.O_APPEND
        return os.open(".", flags, 0o600, dir_fd=self.outputs)

    def child(self, limits: Limits, stdin: int, stdout: int, stderr: int) -> None:
        """In the child: everything that makes it a candidate but closing descriptors."""
        os.setsid()
        if not self.jailed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(kernel.WORK)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        size = max(limits.files_mb << 20, limits.output_kb << 10)
        mega = 1 << 20
        kernel.limit(
            [
                (resource.RLIMIT_CORE, 0),
                # The watch decides; this holds if it sleeps. Far above, for the kernel counts ticks here: on a busy machine
                # it killed after "6 s" a program that had had 4.2 s, which then looked like one that had killed itself.
                (resource.RLIMIT_CPU, math.ceil(2 * limits.cpu_s) + 1),
                (resource.RLIMIT_FSIZE, size),
                (resource.RLIMIT_NOFILE, limits.nofile),
                (resource.RLIMIT_STACK, limits.stack_mb * mega),
                (resource.RLIMIT_MEMLOCK, 0),
                (resource.RLIMIT_MSGQUEUE, 0),
            ]
        )
        if self.jailed:
            kernel.limit([(resource.RLIMIT_NPROC, limits.nproc + 1)])
            kernel.drop_capabilities()

    def watch(
        self,
        pid: int,
        limits: Limits,
        outputs: tuple[int, int],
        seq: int | None = None,
        line: socket.socket | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of `pid` or of what it is granted, then for the end of everything that it started.

        With a line, `pid` is a program process (inside/program_process.py): it lives on if its child ended well and left
        nobody; otherwise all are killed, and `gone` is true. `lost`: it ended without a word about its child.
        """
        began = time.monotonic()
        memory = limits.memory_mb << 20
        if self.group:
            # The files of the box and what was printed are this candidate's too, and have their own limits.
            self.group.limit(memory + (limits.files_mb + 64 << 20), limits.nproc + 8)
        handle = os.pidfd_open(pid) if line is None else line.fileno()
        forker = None if line is None else pid
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if seq is not None:
            poll.register(self.control, select.POLLIN)
        status: int | None = None
        spent, peak = 0.0, 0
        timed_out: str | None = None
        out_of_memory = stopped = flooded = free = False
        delay = burnt = 0.0
        most = limits.output_kb << 10
        while True:
            events = poll.poll(TICK * 1000)
            if any(fd == handle for fd, _ in events):
                break
            if events:  # the supervisor has seen enough, or has gone
                header, _, _ = wire.receive(self.control)
                if header["op"] == "stop" and header["seq"] == seq:
                    stopped = True
                    break
                continue
            if not free and seq is not None:
                for number in [pid] if line is None else processes(self.jailed):
                    self.core.free(number)
                free = True
                self.meanwhile()
            done, spent_by, rss_by = reap(pid)
            spent, peak = spent + spent_by, max(peak, rss_by)
            if done is not None:
                status = done
                break
            cpu, resident, delay = usage(self.jailed, forker)
            burnt = spent + cpu
            flooded = max(os.fstat(fd).st_size for fd in outputs) > most
            wall = time.monotonic() - began
            if (resident > memory and resident > accurate(self.jailed, forker)) or (
                self.group and self.group.kills() > self.kills
            ):
                out_of_memory = resident <= memory or accurate(self.jailed, forker) > memory
                if out_of_memory:
                    break
            if flooded:
                break
            if spent + cpu > limits.cpu_s:
                timed_out = "cpu"
            elif wall > limits.wall_s:
                timed_out = "wall"
            if timed_out:
                out_of_memory = resident > 0.9 * memory
                break
        wall = time.monotonic() - began
        gone = lost = False
        if line is None:
            swept, spent_by, rss_by = sweep(self.jailed, pid)
            os.close(handle)
            status = swept if status is None else status
            spent, peak = spent + spent_by, max(peak, rss_by)
        else:
            answer = said(line)
            status, left = None, True
            if len(answer) == ANSWER.size:
                status, spent_by, rss_by, left = ANSWER.unpack(answer)
                spent, peak = spent + spent_by, max(peak, rss_by)
            gone = left or out_of_memory or flooded or stopped or timed_out is not None
            if gone:
                _, spent_by, rss_by = sweep(self.jailed, uncounted=pid)
                spent, peak = max(spent + spent_by, burnt), max(peak, rss_by)
            lost = status is None and not (out_of_memory or flooded or stopped or timed_out)
            status = signal.SIGKILL if status is None else status  # as wait() has it
        out_of_memory = self.killed() or out_of_memory
        sizes = [os.fstat(fd).st_size for fd in outputs]
        killed = status is not None and os.WIFSIGNALED(status) and not stopped
        if timed_out is None and killed and spent > limits.cpu_s:
            timed_out = "cpu"  # the kernel's own limit was faster than our look
        more = {} if line is None else {"gone": gone, "lost": lost}
        return {
            **more,
            "status": status,
            "cpu": spent,
            "wall": wall,
            "max_rss": peak,
            "timed_out": timed_out,
            "memory": out_of_memory,
            "flooded": flooded or max(sizes) > most,
            "stopped": stopped,
            "output": sizes,
            # Time in which it could have run but was not let: was the machine too busy to be fair?
            "overloaded": bool(timed_out) and delay > 0.5 * max(spent, 0.2),
        }

    def killed(self) -> bool:
        """Whether the kernel has killed for lack of memory since this was asked last."""
        before, self.kills = self.kills, self.group.kills() if self.group else 0
        return self.kills > before


def said(line: socket.socket) -> bytes:
    """What a program process has said, if it has."""
    try:
        return line.recv(64, socket.MSG_DONTWAIT)
    except OSError:
        return b""
