"""kill -9 of whoever uses workers, at any moment, leaves no process, mount, control group or folder behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rrk.errors import RrkError
from rrk.sandbox.workers.worker import Worker
from tests.conftest import ROOT

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)

SCRIPT = """
import sys, threading
from rrk.sandbox.jail.box import Limits, RunSpec
from rrk.sandbox.workers.worker import Worker
from rrk.sandbox.verdict import Job
programs = {
    "idle": "def f():\\n    return 1\\n",
    "asleep": "import os, time\\nfor _ in range(5):\\n    os.fork()\\nopen('/tmp/x', 'w').write('x' * 999999)\\ntime.sleep(600)\\n",
}
workers = [Worker(), Worker()]
print("up", flush=True)
def sleeper():
    with workers[1].box() as box:
        box.write("x", b"x" * 999999)
        box.run(RunSpec(["/bin/sh", "-c", "trap '' TERM INT HUP; setsid sleep 600 & setsid sleep 600"], Limits(wall_s=600)))
threading.Thread(target=sleeper, daemon=True).start()
while True:
    workers[0].python(Job("py", "", programs[sys.argv[1]], "assert f() == 1", "f", timeout=100.0))
"""


def descendants(root: int) -> dict[int, str]:
    """All processes below `root` by number, with their process namespace where it can be read."""
    parents = {}
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(number)] = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    found = {root}
    while more := {n for n, parent in parents.items() if parent in found} - found:
        found |= more
    return {n: namespace(n) for n in found - {root}}


def namespace(number: int) -> str:
    try:
        return os.readlink(f"/proc/{number}/ns/pid")
    except OSError:
        return ""


def begun(number: int) -> float:
    """When a process began, in seconds since the machine did; never for one that has ended."""
    try:
        ticks = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return float("inf")
    return ticks / os.sysconf("SC_CLK_TCK")


def alive(known: dict[int, str], killed: float) -> list[int]:
    """Which of them are left, and what else lives in their namespaces.

    Numbers of processes and of namespaces are given again at once, to whoever else makes jails on this machine: only what began
    before the kill counts. (What is left and forks is left itself.)
    """
    jails = {*known.values()} - {"", namespace(os.getpid())}
    numbers = [int(n) for n in filter(str.isdigit, os.listdir("/proc"))]
    return [n for n in numbers if (n in known or (jails and namespace(n) in jails)) and begun(n) <= killed]


def groups() -> list[str]:
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if "/rrk-" in folder]


@pytest.mark.parametrize("what", ["idle", "asleep"])
@pytest.mark.parametrize("after", [0.0, 0.02, 0.3])
def test_kill_9_leaves_nothing(what, after):
    before = {*os.listdir("/tmp")}, Path("/proc/mounts").read_text()
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, what],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"up\n"
    time.sleep(after)
    known = descendants(started.pid)
    assert len(known) >= 4  # two keepers, two of process 1
    started.send_signal(signal.SIGKILL)
    killed = time.clock_gettime(time.CLOCK_BOOTTIME)
    started.wait()
    for _ in range(200):
        processes = alive(known, killed)
        made = {group for group in groups() if f"rrk-{started.pid}-" in group}
        if not processes and not made:
            break
        time.sleep(0.05)
    assert not processes
    assert not made
    assert Path("/proc/mounts").read_text() == before[1]
    left = {name for name in {*os.listdir("/tmp")} - before[0] if name.startswith("rrk-")}
    for _ in range(200):
        if not left:  # what other tests make at the same time, they remove themselves
            break
        time.sleep(0.05)
        left &= {*os.listdir("/tmp")}
    assert not left


def test_a_worker_whose_process_is_killed_says_so_and_leaves_nothing():
    from rrk.sandbox.verdict import SANDBOX_ERROR, Job

    worker = Worker()
    job = Job("py", "", "def f():\n    return 1\n", "assert f() == 1\n", "f")
    assert worker.python(job).passed
    worker._server.process.kill()
    worker._server.process.wait()
    verdict = worker.python(job)
    assert (verdict.status, verdict.passed) == (SANDBOX_ERROR, None)
    assert worker.dead
    worker.close()


def test_the_tests_process_is_replaced_when_it_dies():
    from rrk.sandbox.verdict import Job

    with Worker() as worker:
        job = Job("py", "", "def f():\n    return 1\n", "assert f() == 1\n", "f")
        assert worker.python(job).passed
        assert worker._tests is not None
        worker._tests.process.kill()
        worker._tests.process.wait()
        assert worker.python(job).status in ("SandboxError", "OK")
        assert worker.python(job).passed
        assert not worker.dead
