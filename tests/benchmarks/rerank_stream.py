"""`rrk rerank` on many candidates: its memory while they stream through, and the same bytes after SIGKILL and --resume.

    python -m tests.benchmarks.rerank_stream -m RERANKER -p PROBLEMS [--rows 100000] [--each 100] [--kills 3]

PROBLEMS are Problem rows with canonical solutions (the tiny world's corpus will do): a problem's candidates are `--each` variants
of its solution, all different. One run goes through; another is killed by SIGKILL at random places and resumed, as often as
--kills says. Prints rows a second and the resident memory at each tenth; exit code 1 if the two outputs differ.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rrk import jsonl, rows
from tests.benchmarks.execute_stream import rss
from tests.conftest import environment, rrk_command


def candidates(problems: list[rows.Problem], count: int, each: int):
    """`count` rows, `each` of them a problem; a problem that comes again has another name."""
    for n in range(count):
        at, variant = divmod(n, each)
        problem = problems[at % len(problems)]
        text = (problem.canonical_solution or "    pass\n").replace("return", f"b = {variant}\n    return", 1)
        yield {
            "task_id": f"{problem.task_id}/{at}",
            "language": problem.language,
            "prompt": problem.prompt,
            "completion_id": variant,
            "completion": text,
        }


def start(given: argparse.Namespace, source: Path, out: Path) -> subprocess.Popen:
    command = rrk_command("rerank", str(source), "-m", given.model, "-q", "-o", str(out), "--resume")
    return subprocess.Popen(command, env=environment())


def lines(path: Path) -> int:
    part = path if path.exists() else path.with_name(path.name + ".part")
    return part.read_bytes().count(b"\n") if part.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-p", "--problems", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    problems = [rows.problem(row, tests=False) for row in itertools.islice(jsonl.read([given.problems]), 2000)]
    with tempfile.TemporaryDirectory() as folder:
        source, whole, broken = (Path(folder) / name for name in ("rows.jsonl", "whole.jsonl", "broken.jsonl"))
        with open(source, "w") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in candidates(problems, given.rows, given.each))
        began, told, most = time.monotonic(), 0, 0
        child = start(given, source, whole)
        while child.poll() is None:
            time.sleep(0.2)
            now = rss(child.pid)
            most = max(most, now)
            done = lines(whole)
            if done >= told + given.rows // 10:
                told = done
                print(
                    f"{done:7} rows, {done / (time.monotonic() - began):6.0f}/s, {now / 2**20:6.1f} MiB, at most {most / 2**20:.1f}",
                    flush=True,
                )
        seconds = time.monotonic() - began
        print(f"{lines(whole)} rows in {seconds:.0f} s, exit {child.returncode}, at most {most / 2**20:.1f} MiB")
        for _ in range(given.kills):
            child = start(given, source, broken)
            time.sleep(random.uniform(0.3, 0.7) * seconds)
            child.send_signal(signal.SIGKILL)
            child.wait()
            print(f"killed with {lines(broken)} rows written")
        start(given, source, broken).wait()
        same = whole.read_bytes() == broken.read_bytes()
        print("resumed to the same bytes" if same else "THE OUTPUTS DIFFER")
    sys.exit(not same or child.returncode not in (0, -signal.SIGKILL))


if __name__ == "__main__":
    main()
