"""Memory of `rrk execute` while many rows of cheap programs stream through. Minutes; not part of `make test`.

    python -m tests.benchmarks.execute_stream [--rows 100000] [--distinct 100000] [-j 2] [--options "--sandbox none"]

Prints rows done, rows a second, and the resident memory of rrk alone and of everything below it (workers) while it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.conftest import environment, rrk_command


def rss(pid: int) -> int:
    """Bytes resident, 0 if the process has gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def below(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:
                pass
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=100_000, help="how many programs differ")
    parser.add_argument("-j", type=int, default=2)
    parser.add_argument("--options", default="", help="further options of rrk execute")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        problem = {"task_id": "S/0", "prompt": "def add(a, b):\n", "entry_point": "add"}
        problem["test"] = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
        problems.write_text(json.dumps(problem) + "\n")
        command = rrk_command("execute", "-p", str(problems), "-q", "-j", str(options.j), *options.options.split())
        child = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None

        def feed() -> None:
            for n in range(options.rows):
                row = {
                    "task_id": "S/0",
                    "completion_id": n,
                    "completion": f"    return a + b + {n % options.distinct} * 0\n",
                }
                child.stdin.write(json.dumps(row).encode() + b"\n")
            child.stdin.close()

        threading.Thread(target=feed, daemon=True).start()
        began = time.monotonic()
        passed = done = 0
        high = []
        for line in child.stdout:
            done += 1
            row = json.loads(line)
            assert row["completion_id"] == done - 1, "out of order"
            passed += bool(row["passed"])
            if done % max(options.rows // 10, 1) == 0:
                own, workers = rss(child.pid), sum(map(rss, below(child.pid)))
                high.append(own)
                seconds = time.monotonic() - began
                print(
                    f"{done:7} rows, {done / seconds:6.0f}/s, rrk {own / 2**20:6.1f} MiB, workers {workers / 2**20:6.1f} MiB",
                    flush=True,
                )
        code = child.wait()
    print(
        f"exit {code}, {passed} of {done} passed; rrk grew by {(high[-1] - high[0]) / 2**20:.1f} MiB from the first tenth to the last"
    )


if __name__ == "__main__":
    main()
