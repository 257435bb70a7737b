"""A million candidate rows through every stage that needs no model: resident memory, and speed beside a bare orjson loop.

    python -m tests.benchmarks.big_files [--rows 1000000] [--each 100] [--stages mine,eval,...] [--folder /tmp]

The rows are those of a scored file: a problem each `--each` rows, programs that differ in names, numbers and lines, three of
ten passing, one of twenty a copy. Each stage reads the file and writes another, alone, as a user calls it; `bare` is a loop
that reads the same file's lines with orjson and writes them. Figures are CPU seconds, for the machine may be busy, and the
most memory that was resident at any time. The file (1.4 GB for a million) is deleted. Exit code 1 if a stage fails.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tests.conftest import environment, rrk_command

BARE = """
import sys, orjson
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as sink:
    for line in source:
        sink.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
"""

LINES = (
    "    {a} = {n}\n",
    "    for {b} in range({n}, len(xs)):\n        {a} += xs[{b}] * {m}\n",
    "    if {a} > {n} and xs:\n        return {a} - {m}\n",
    "    # {b} may be negative here\n",
    "    {a} = [{b} for {b} in xs if {b} % {m} == 0]\n",
    "    {b} = sorted(xs, key=lambda {a}: ({a}, -{n}))\n",
    '    if not xs:\n        raise ValueError("no values, {n} wanted")\n',
    "    while {a} < {n}:\n        {a} += {m}\n",
    "    {a}, {b} = {b}, {a}\n",
)
NAMES = ("total", "i", "result", "x", "value", "count", "best", "item", "n", "seen")
PROMPT = '''from typing import List


def task_{n}(xs: List[int]) -> int:
    """ For a given list of integers, return what is left of the {n}th one once all of its neighbours
    that are larger than it were taken away, or -1 if there are none.
    >>> task_{n}([1, 2, 3])
    {m}
    >>> task_{n}([])
    -1
    """
'''


def programs(rng: random.Random) -> Iterator[str]:
    while True:
        lines = rng.choices(LINES, k=rng.randint(3, 7))
        text = "".join(
            line.format(a=rng.choice(NAMES), b=rng.choice(NAMES), n=rng.randrange(50), m=rng.randrange(1, 9))
            for line in lines
        )
        text += f"    return {rng.choice(NAMES)}\n"
        yield text
        if rng.random() < 0.05:
            yield text


def candidates(count: int, each: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    text = programs(rng)
    for n in range(count):
        task, number = divmod(n, each)
        if number == 0:
            prompt = PROMPT.format(n=task, m=task % 7)
            ranks = rng.sample(range(1, each + 1), each)
        passed = rng.random() < 0.3
        yield {
            "task_id": f"Big/{task}",
            "language": "py",
            "prompt": prompt,
            "completion_id": number,
            "completion": next(text),
            "model": "none",
            "temperature": 0.8,
            "top_p": 0.95,
            "max_tokens": 300,
            "seed": rng.getrandbits(63),
            "logprob": -rng.expovariate(0.02),
            "tokens": rng.randint(20, 200),
            "finish_reason": "stop",
            "passed": passed,
            "status": "OK" if passed else rng.choice(("Exception", "Exception", "Timeout", "SyntaxError")),
            "exit_code": int(not passed),
            "stdout": "",
            "stderr": ""
            if passed
            else 'Traceback (most recent call last):\n  File "test.py", line 4\nAssertionError\n',
            "time": rng.random() / 50,
            "time_wall": rng.random() / 40,
            "max_rss": rng.randrange(9_000_000, 12_000_000),
            "sandbox": "namespaces,seccomp,rlimits",
            "score": rng.gauss(passed, 2),
            "rank": ranks[number],
        }


# What each stage is given besides the file; {out} is where it writes.
STAGES = {
    "mine": ("mine", "{source}", "-q", "-o", "{out}"),
    "mine --hard": ("mine", "--hard", "{source}", "-q", "-o", "{out}"),
    "eval": ("eval", "{source}", "-q", "-o", "{out}"),
    "rerank ngram": ("rerank", "--method", "ngram", "{source}", "-q", "-o", "{out}"),
    "rerank majority": ("rerank", "--method", "majority", "{source}", "-q", "-o", "{out}"),
    "convert": ("convert", "--to", "evalplus", "{source}", "-q", "-o", "{out}"),
    "convert --stop": ("convert", "--stop", "\\n    while", "{source}", "-q", "-o", "{out}"),
    "show": ("show", "{source}"),
    "show --task": ("show", "{source}", "--task", "Big/7"),
    "show --top": ("show", "{source}", "--failed", "--top", "1"),
}


def measured(command: list[str], stdout: Path) -> tuple[int, float, float, float]:
    """Exit code, CPU seconds, seconds, MB resident at most."""
    began = time.monotonic()
    with open(stdout, "wb") as sink:
        child = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=sink)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_utime + usage.ru_stime, time.monotonic() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--stages", help=f"of: {', '.join(STAGES)}")
    parser.add_argument("--folder", help="where there is room")
    given = parser.parse_args()
    wanted = given.stages.split(",") if given.stages else list(STAGES)
    failed = False
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        source, out, printed = (Path(name) / part for part in ("rows.jsonl", "out", "printed"))
        with open(source, "wb") as stream:
            for row in candidates(given.rows, given.each):
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        print(f"{given.rows} rows, {source.stat().st_size / 1e6:.0f} MB")
        print(f"{'':16}{'CPU s':>8}{'rows/s':>10}{'of bare':>9}{'seconds':>9}{'MB':>7}")
        bare = 0.0
        for stage in ("bare", *wanted):
            if stage == "bare":
                command = [sys.executable, "-c", BARE, str(source), str(out)]
            else:
                command = rrk_command(*(part.format(source=source, out=out) for part in STAGES[stage]))
            code, cpu, seconds, memory = measured(command, printed)
            bare = bare or cpu
            print(
                f"{stage:16}{cpu:8.1f}{given.rows / cpu:10.0f}{bare / cpu:9.2f}{seconds:9.1f}{memory:7.0f}"
                + (f"  exit {code}" if code else ""),
                flush=True,
            )
            failed |= bool(code)
            for path in Path(name).iterdir():
                if path != source:
                    path.unlink()
    sys.exit(failed)


if __name__ == "__main__":
    main()
