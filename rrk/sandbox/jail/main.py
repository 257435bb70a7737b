"""What runs in a worker's own processes: a keeper outside of the jail, and inside it process 1, which starts candidates.

Started by rrk/sandbox/workers/worker.py as `python -s -S -P -c ...` with a clean environment, so that nothing of the judge (its
environment, its memory, other programs' tests) can be found from inside.

* The *keeper* makes the control group, clones process 1 into new namespaces, gives it its users, and waits: when the
  supervisor dies, however it dies, the keeper ends, and with it process 1 and all that it ever started.
* *Process 1* mounts a fresh tmpfs a candidate, forks it with limits and without capabilities, watches it, and afterwards
  kills everything that is left: kill(-1) by process 1 is atomic against fork bombs and cannot hit itself.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from rrk.sandbox.inside import candidate, wire
from rrk.sandbox.jail import case_runs, kernel, seccomp
from rrk.sandbox.jail.cgroups import Group
from rrk.sandbox.jail.fork_server import ForkServer
from rrk.sandbox.jail.watch import sweep

_KILLED = signal.SIGKILL
OPERATIONS = {"cases": case_runs.serve}  # beside those of the ForkServer itself


def main() -> NoReturn:
    """Entry point of the fresh interpreter; descriptor 3 is the control socket."""
    control = socket.socket(fileno=3)
    try:
        config, _, _ = wire.receive(control)
        if config["role"] == "tests":
            # While it can be found; and not where candidates are forked, for a fork costs by the page.
            import rrk.sandbox.inside.tests_apart  # noqa: F401
        sys.path.remove(config["root"])
        sys.path.extend(config["packages"])
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
    pid = kernel.clone(seccomp.NAMESPACES)
    if pid == 0:
        os.close(go_write)
        os.close(supervisor)
        _process_1(control, config, group, go_read)
    os.close(go_read)
    control_fd = control.detach()
    try:
        other = kernel.map_users(pid)
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
    """SIGTERM arrived: the supervisor wants the worker no more."""


def _ended(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would interrupt the cleaning up
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
        kernel.build_root([*config["mounts"], sys.base_prefix, sys.base_exec_prefix])
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        score = os.open("/proc/self/oom_score_adj", os.O_RDWR)  # while we may
        outputs = _detached_tmpfs()
        kernel.become(kernel.UID)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _KILLED)
        if select.select([go], [], [], 0)[0]:
            os._exit(1)  # the keeper died meanwhile
        if kernel.lock_down(deny_memfd=group is None):
            layers.append("seccomp")
        layers.append("cgroup" if group else "watchdog")
        candidate.preload()
        keep = [control.fileno(), go, outputs, score, *(group.handles() if group else [])]
        kernel.close_all_but(keep)
        gc.collect()
        gc.freeze()
        wire.send(control, {"ready": "+".join(layers), "users": other == b"1"})
        if config["role"] == "tests":
            _serve_tests(control)
        else:
            ForkServer(control, outputs, group, score, others=OPERATIONS).serve()
    except wire.Gone:
        pass
    except BaseException as error:
        try:
            wire.send(control, {"error": f"{type(error).__name__}: {error}"})
        except wire.Gone:
            pass
    os._exit(0)


def _serve_tests(control: socket.socket) -> None:
    from rrk.sandbox.inside import tests_apart

    tests_apart.serve(control)


def _detached_tmpfs() -> int:
    """A file system for candidates' output that no path leads to: files in it have no names, and only we hold its root."""
    kernel.mount("tmpfs", kernel.BOX, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=2g,mode=700")
    handle = os.open(kernel.BOX, os.O_RDONLY | os.O_DIRECTORY)
    os.chown(handle, kernel.UID, kernel.UID)
    kernel.umount(kernel.BOX)
    return handle


def _unjailed(control: socket.socket, config: dict[str, Any]) -> NoReturn:
    """Level none: limits only, in a folder of the host's. Nothing hostile may be run this way."""
    import shutil
    import tempfile

    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    base = ""
    try:
        signal.signal(signal.SIGTERM, _ended)
        base = tempfile.mkdtemp(prefix="rrk-")
        kernel.BOX, kernel.WORK = base + "/box", base + "/box/w"
        os.mkdir(kernel.BOX)
        outputs = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        candidate.preload()
        kernel.close_all_but([control.fileno(), outputs])
        try:
            wire.send(control, {"ready": "rlimits", "users": False})
            if config["role"] == "tests":
                _serve_tests(control)
            else:
                ForkServer(control, outputs, None, None, jailed=False, others=OPERATIONS).serve()
        except wire.Gone:
            pass
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing interrupts what follows
    except _Ended:
        pass
    finally:
        sweep(jailed=False)
        shutil.rmtree(base, ignore_errors=True)
    os._exit(0)
