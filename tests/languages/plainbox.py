"""A Box without a jail, for tests of the recipes alone: a temporary folder, rlimits and the proof pipe. Never for hostile programs."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from rrk.sandbox.jail.box import PROOF_FD, Outcome, RunSpec


class PlainBox:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rrk-plain-"))

    def __enter__(self) -> PlainBox:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def run(self, spec: RunSpec) -> Outcome:
        read, write = os.pipe()
        limits = spec.limits

        def before() -> None:
            os.setsid()
            if spec.proof:
                os.dup2(write, PROOF_FD)
            cpu = int(limits.cpu_s + 0.999)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
            size = limits.files_mb << 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "LANG": "C.UTF-8",
            **spec.env,
        }
        began = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as stdin:
            stdin.write(spec.stdin)
            stdin.seek(0)
            try:
                child = subprocess.Popen(
                    list(spec.argv), cwd=self.folder, env=env, stdin=stdin, stdout=out, stderr=err, preexec_fn=before,
                    close_fds=False,
                )  # fmt: skip
            except OSError as error:
                os.close(read)
                os.close(write)
                return Outcome(error=str(error))
            os.close(write)
            timed_out: list[str] = []

            def late() -> None:
                timed_out.append("wall")
                os.killpg(child.pid, signal.SIGKILL)

            timer = threading.Timer(limits.wall_s, late)
            timer.start()
            _, status, usage = os.wait4(child.pid, 0)
            timer.cancel()
            child.returncode = 0
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except OSError:
                pass
            os.set_blocking(read, False)
            try:
                proof = os.read(read, 4096)
            except BlockingIOError:
                proof = b""
            os.close(read)
            result = Outcome(wall=time.monotonic() - began, proof=proof)
            result.cpu = usage.ru_utime + usage.ru_stime
            result.max_rss = usage.ru_maxrss * 1024
            if os.WIFSIGNALED(status):
                result.signal = os.WTERMSIG(status)
            else:
                result.exit_code = os.WEXITSTATUS(status)
            # The kernel's own limit counts in ticks, rusage does not: on a core that is shared, a program of several threads is
            # killed with as little as three quarters of it. Nothing else kills here but the timer.
            if result.signal in (signal.SIGKILL, signal.SIGXCPU) and result.cpu >= 0.5 * limits.cpu_s:
                result.timed_out = "cpu"
            if timed_out:
                result.timed_out = "wall"
            for stream, name in ((out, "stdout"), (err, "stderr")):
                size = stream.seek(0, 2)
                result.output_limit |= size > limits.output_kb << 10
                stream.seek(0)
                setattr(result, name, stream.read(limits.output_kb << 10))
        return result
