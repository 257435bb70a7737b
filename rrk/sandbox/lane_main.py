"""What runs in a lane's own processes: a keeper outside of the jail, and inside it process 1, which starts candidates.

Started by rrk/sandbox/lane.py as `python -s -S -P -c ...` with a clean environment, so that nothing of the judge (its
environment, its memory, other programs' tests) can be found from inside.

* The *keeper* makes the control group, clones process 1 into new namespaces, gives it its users, and waits: when the
  supervisor dies, however it dies, the keeper ends, and with it process 1 and all that it ever started.
* *Process 1* mounts a fresh tmpfs a candidate, forks it with limits and without capabilities, watches it, and afterwards
  kills everything that is left: kill(-1) by process 1 is atomic against fork bombs and cannot hit itself.

There is no private mount namespace a candidate: none can mount, all are dead before the tmpfs is changed for the next.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from rrk.sandbox import jail, lane_python, lane_tests, wire
from rrk.sandbox.box import PROOF_FD, Limits
from rrk.sandbox.cgroups import Group

TICK = 0.04  # seconds between two looks at memory, output and CPU time
_KILLED = signal.SIGKILL
_PAGE = resource.getpagesize()
_HERTZ = os.sysconf("SC_CLK_TCK")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


def main() -> NoReturn:
    """Entry point of the fresh interpreter; descriptor 3 is the control socket."""
    control = socket.socket(fileno=3)
    try:
        config, _, _ = wire.receive(control)
        sys.path.remove(config["root"])
        if config["level"] == "none":
            _unjailed(control, config)
        else:
            _keeper(control, config)
    except (wire.Gone, _Ended):
        pass
    except Exception as error:
        try:
            wire.send(control, {"error": f"{type(error).__name__}: {error}"})
        except wire.Gone:
            pass
    os._exit(0)


def _keeper(control: socket.socket, config: dict[str, Any]) -> NoReturn:
    supervisor = os.pidfd_open(os.getppid())
    if os.getppid() != config["parent"]:
        os._exit(1)
    signal.signal(signal.SIGTERM, _ended)  # so that the group is removed then too
    group = Group.make(f"rrk-{config['group']}") if config["group"] else None
    go_read, go_write = os.pipe()
    pid = jail.clone(jail.NAMESPACES)
    if pid == 0:
        os.close(go_write)
        os.close(supervisor)
        _process_1(control, config, group, go_read)
    os.close(go_read)
    control_fd = control.detach()
    try:
        other = jail.map_users(pid)
        if group:
            group.join(pid)
        os.write(go_write, b"1" if other else b"0")
        os.close(control_fd)
        child = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(supervisor, select.POLLIN)
        poll.register(child, select.POLLIN)
        poll.poll()
    except _Ended:
        pass
    except OSError as error:
        try:
            with socket.socket(fileno=control_fd) as sock:
                wire.send(sock, {"error": str(error)})
        except (OSError, wire.Gone):
            pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(pid, _KILLED)
        os.waitpid(pid, 0)
        if group:
            group.remove()
    os._exit(0)


class _Ended(BaseException):
    """SIGTERM arrived: the supervisor wants the lane no more."""


def _ended(*_: object) -> None:
    raise _Ended


def _process_1(control: socket.socket, config: dict[str, Any], group: Group | None, go: int) -> NoReturn:
    try:
        other = os.read(go, 1)
        if not other:
            os._exit(1)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 hears no signal that it has no handler for
        layers = ["namespaces", "pivot_root"]
        if other == b"1":  # the jail's root is ours, and can reach every folder that is to be shown
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        jail.build_root([*config["mounts"], sys.base_prefix, sys.base_exec_prefix])
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        score = os.open("/proc/self/oom_score_adj", os.O_RDWR)  # while we may
        outputs = _detached_tmpfs()
        jail.become(jail.UID)
        jail.prctl(jail.PR_SET_PDEATHSIG, _KILLED)
        if select.select([go], [], [], 0)[0]:
            os._exit(1)  # the keeper died meanwhile
        if jail.lock_down(deny_memfd=group is None):
            layers.append("seccomp")
        layers.append("cgroup" if group else "watchdog")
        lane_python.preload(config["role"])
        keep = [control.fileno(), go, outputs, score, *(group.handles() if group else [])]
        jail.close_all_but(keep)
        gc.collect()
        gc.freeze()
        wire.send(control, {"ready": "+".join(layers), "users": other == b"1"})
        if config["role"] == "tests":
            lane_tests.serve(control)
        else:
            Cell(control, outputs, group, score).serve()
    except wire.Gone:
        pass
    except BaseException as error:
        try:
            wire.send(control, {"error": f"{type(error).__name__}: {error}"})
        except wire.Gone:
            pass
    os._exit(0)


def _detached_tmpfs() -> int:
    """A file system for candidates' output that no path leads to: files in it have no names, and only we hold its root."""
    jail.mount("tmpfs", jail.BOX, "tmpfs", jail.MS_NOSUID | jail.MS_NODEV, "size=2g,mode=700")
    handle = os.open(jail.BOX, os.O_RDONLY | os.O_DIRECTORY)
    os.chown(handle, jail.UID, jail.UID)
    jail.umount(jail.BOX)
    return handle


def _unjailed(control: socket.socket, config: dict[str, Any]) -> NoReturn:
    """Level none: limits only, in a folder of the host's. Nothing hostile may be run this way."""
    import shutil
    import tempfile

    signal.signal(signal.SIGTERM, _ended)
    jail.prctl(jail.PR_SET_CHILD_SUBREAPER, 1)
    base = tempfile.mkdtemp(prefix="rrk-")
    jail.BOX, jail.WORK = base + "/box", base + "/box/w"
    try:
        os.mkdir(jail.BOX)
        outputs = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        lane_python.preload(config["role"])
        jail.close_all_but([control.fileno(), outputs])
        wire.send(control, {"ready": "rlimits", "users": False})
        if config["role"] == "tests":
            lane_tests.serve(control)
        else:
            Cell(control, outputs, None, None, jailed=False).serve()
    except (wire.Gone, _Ended):
        sweep(jailed=False)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    os._exit(0)


class Cell:
    """Process 1 at work: one candidate at a time, each in a box that is made new and emptied by force."""

    def __init__(
        self, control: socket.socket, outputs: int, group: Group | None, score: int | None, jailed: bool = True
    ):
        self.control, self.outputs, self.group, self.jailed = control, outputs, group, jailed
        self.score = score  # our /proc/self/oom_score_adj
        self.usual = b"" if score is None else os.pread(score, 16, 0).strip()
        self.size = 0  # of the box, MB; 0: none is open
        self.pristine: tuple[int, ...] = ()  # what an unused box looks like
        self.trouble: str | None = None

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
            except OSError as error:
                self.trouble = self.trouble or str(error)
                if operation in ("run", "python"):
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
            jail.fresh_box(size)
        else:
            for name in ("", "/w", "/tmp", "/shm"):
                os.makedirs(jail.BOX + name, exist_ok=True)
        self.size = size
        self.pristine = self._look()

    def _look(self) -> tuple[int, ...]:
        """Changes with what can be done to the box: a folder's ctime cannot be set, and moves with all else (by the tick)."""
        if not self.jailed:
            return (time.monotonic_ns(),)
        space = os.statvfs(jail.BOX)
        folders = [os.stat(jail.BOX + name) for name in ("", "/w", "/tmp", "/shm")]
        return space.f_bfree, space.f_ffree, *(n for f in folders for n in (f.st_ctime_ns, f.st_mode, f.st_size))

    def close(self) -> None:
        if not self.size:
            return
        os.chdir("/")
        if self.jailed:
            jail.umount(jail.BOX)
        else:
            import shutil

            shutil.rmtree(jail.BOX, ignore_errors=True)
        self.size = 0

    def write(self, name: str, data: bytes) -> None:
        """Write a file below the work folder; never through a link that a candidate may have left there."""
        *folders, last = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in (*folders, last):
            raise OSError(f"{name}: leads out of the box")
        at = os.open(jail.WORK, os.O_RDONLY | os.O_DIRECTORY)
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
                flags = jail.MS_REMOUNT | jail.MS_NOSUID | jail.MS_NODEV
                jail.mount(None, jail.BOX, "tmpfs", flags, f"size={size}m")
            self.size = size

    # Candidates

    def run(self, header: dict[str, Any], stdin: bytes) -> None:
        if self.trouble:
            raise OSError(self.trouble)
        limits = Limits(**header["limits"])
        self._grow(limits.files_mb)
        out, err, inp = self._output(), self._output(), self._output()
        if stdin:
            os.pwrite(inp, stdin, 0)
        proof_read, proof_write = os.pipe()
        said_read, said_write = os.pipe()
        try:
            pid = self._fork()
            if pid == 0:
                try:
                    keep = [PROOF_FD, said_write] if header["proof"] else [said_write]
                    self._child(limits, inp, out, err)
                    if header["proof"]:
                        os.dup2(proof_write, PROOF_FD)
                    jail.close_all_but(keep)
                    for number in (signal.SIGPIPE, signal.SIGXFSZ):
                        signal.signal(number, signal.SIG_DFL)
                    environment = {**ENVIRONMENT, "HOME": jail.WORK, **header["env"]}
                    if not os.path.islink("/tmp"):
                        environment = {"TMPDIR": jail.BOX + "/tmp", **environment}
                    os.execvpe(header["argv"][0], header["argv"], environment)
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

    def python(self, header: dict[str, Any], talk: int) -> None:
        """Fork a Python candidate that talks over `talk`; we never see its text, so no later candidate can find it."""
        limits = Limits(**header["limits"])
        self.open(limits.files_mb)
        out, err = self._output(), self._output()
        try:
            pid = self._fork()
            if pid == 0:
                try:
                    null = os.open("/dev/null", os.O_RDONLY)
                    self._child(limits, null, out, err)
                    jail.limit([(resource.RLIMIT_DATA, limits.memory_mb << 20)])
                    talk = os.dup2(talk, 3)
                    os.closerange(4, 1 << 16)  # one system call, and less to touch than by ctypes
                    lane_python.candidate(talk, jail.WORK)
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

    def _fork(self) -> int:
        """Fork a child that the kernel kills before anything else when memory runs out, and process 1 last of all."""
        if self.score is None:
            return os.fork()
        os.write(self.score, b"1000")
        pid = os.fork()
        if pid:
            os.write(self.score, self.usual)
        return pid

    def _output(self) -> int:
        flags = os.O_RDWR | os.O_TMPFILE | os.O_APPEND
        return os.open(".", flags, 0o600, dir_fd=self.outputs)

    def _child(self, limits: Limits, stdin: int, stdout: int, stderr: int) -> None:
        """In the child: everything that makes it a candidate but closing descriptors."""
        os.setsid()
        if not self.jailed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(jail.WORK)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        size = max(limits.files_mb << 20, limits.output_kb << 10)
        mega = 1 << 20
        jail.limit(
            [
                (resource.RLIMIT_CORE, 0),
                (resource.RLIMIT_CPU, math.ceil(limits.cpu_s) + 1),  # the watch is finer; this holds if it sleeps
                (resource.RLIMIT_FSIZE, size),
                (resource.RLIMIT_NOFILE, limits.nofile),
                (resource.RLIMIT_STACK, limits.stack_mb * mega),
                (resource.RLIMIT_MEMLOCK, 0),
                (resource.RLIMIT_MSGQUEUE, 0),
            ]
        )
        if self.jailed:
            jail.limit([(resource.RLIMIT_NPROC, limits.nproc + 1)])
            jail.drop_capabilities()

    def watch(self, pid: int, limits: Limits, outputs: tuple[int, int], seq: int | None = None) -> dict[str, Any]:
        """Wait for the end of `pid` or of what it is granted, then for the end of everything that it started."""
        began = time.monotonic()
        memory = limits.memory_mb << 20
        kills = 0
        if self.group:
            # The files of the box and what was printed are this candidate's too, and have their own limits.
            self.group.limit(memory + (limits.files_mb + 64 << 20), limits.nproc + 8)
            kills = self.group.kills()
        handle = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if seq is not None:
            poll.register(self.control, select.POLLIN)
        status: int | None = None
        spent, peak = 0.0, 0
        timed_out: str | None = None
        out_of_memory = stopped = flooded = False
        delay = 0.0
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
            done, spent_by, rss_by = _reap(pid)
            spent, peak = spent + spent_by, max(peak, rss_by)
            if done is not None:
                status = done
                break
            cpu, resident, delay = usage(self.jailed)
            flooded = max(os.fstat(fd).st_size for fd in outputs) > most
            wall = time.monotonic() - began
            if (resident > memory and resident > accurate(self.jailed, memory)) or (
                self.group and self.group.kills() > kills
            ):
                out_of_memory = resident <= memory or accurate(self.jailed, memory) > memory
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
        swept, spent_by, rss_by = sweep(self.jailed, pid)
        os.close(handle)
        status = swept if status is None else status
        spent, peak = spent + spent_by, max(peak, rss_by)
        if self.group and self.group.kills() > kills:
            out_of_memory = True
        sizes = [os.fstat(fd).st_size for fd in outputs]
        if timed_out is None and status is not None and os.WIFSIGNALED(status) and not stopped:
            if os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU) and spent > limits.cpu_s:
                timed_out = "cpu"
        return {
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


def _reap(pid: int) -> tuple[int | None, float, int]:
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


def sweep(jailed: bool, pid: int | None = None) -> tuple[int | None, float, int]:
    """Kill and collect every process but our own."""
    found, spent, peak = None, 0.0, 0
    while True:
        if jailed:
            try:
                os.kill(-1, _KILLED)
            except ProcessLookupError:
                pass
        else:
            for child in _processes(jailed):
                try:
                    os.kill(child, _KILLED)
                except OSError:
                    pass
        try:
            done, status, used = os.wait4(-1, 0)
        except ChildProcessError:
            return found, spent, peak
        spent += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss << 10)
        if done == pid:
            found = status


def _processes(jailed: bool) -> list[int]:
    """All processes of the lane but process 1. Without a jail: all that descend from us."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if jailed:
        return [number for number in numbers if number != 1]
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


def usage(jailed: bool) -> tuple[float, int, float]:
    """CPU seconds, private memory (bytes) and seconds spent waiting for a core, summed over the lane's processes."""
    cpu, resident, delay = 0, 0, 0
    for number in _processes(jailed):
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


def accurate(jailed: bool, otherwise: int) -> int:
    """Memory of all processes (bytes) with shared pages counted once; slower, so asked only when it matters."""
    total = 0
    for number in _processes(jailed):
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
