"""Programs that read and print, 20 cases each, judged by rrk, by LiveCodeBench's own runner and by a fresh interpreter a case.

    python -m tests.benchmarks.case_speed [--lcb FOLDER] [-j 2] [--problems 40] [--rounds 3]

--lcb: a checkout of LiveCodeBench (its evaluation/ is imported as it is, and isolates nothing). rrk's problems have the prelude
that `rrk problems livecodebench` gives them, for the runner imports the same before every program. C++ is compared with compiling
once and running 20 times by hand, with the same flags, one after the other. Rounds alternate; ratios are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rrk.case_benchmarks import PRELUDE
from rrk.cases import Case, CaseSet, Rule
from rrk.sandbox import Job, Judge

CASES = 20
# What competitive programs do: read a list, sort, count, search, build a table.
PROGRAMS = [
    "n = int(input())\nxs = list(map(int, input().split()))\nprint(sum(xs), max(xs))\n",
    "import sys\ndata = sys.stdin.read().split()\nn = int(data[0])\nxs = sorted(map(int, data[1:1 + n]))\nprint(*xs)\n",
    "from collections import Counter\nn = int(input())\nc = Counter(input().split())\nprint(max(c.values()), len(c))\n",
    "n = int(input())\nxs = list(map(int, input().split()))\nbest = [1] * n\nfor i in range(n):\n    for j in range(i):\n"
    "        if xs[j] < xs[i]: best[i] = max(best[i], best[j] + 1)\nprint(max(best))\n",
]
CPP = """#include <bits/stdc++.h>
using namespace std;
int main() { int n; cin >> n; vector<long> x(n); for (auto &y : x) cin >> y; sort(x.begin(), x.end()); for (auto y : x) cout << y << ' '; cout << endl; }
"""


def inputs(seed: int) -> list[str]:
    """CASES inputs of growing size."""
    found = []
    for number in range(CASES):
        n = 5 + 5 * number
        xs = [(seed * 7919 + number * 104729 + i * 1299709) % 10007 for i in range(n)]
        found.append(f"{n}\n{' '.join(map(str, xs))}\n")
    return found


def by_rrk(work: list[tuple[str, list[str], list[str]]], jobs: int) -> float:
    wanted = [
        Job(
            "py", "", text, "", full=True,
            case_set=CaseSet("stdin", tuple(map(Case, given, expected)), Rule("lines"), prelude=PRELUDE),
        )
        for text, given, expected in work
    ]  # fmt: skip
    began = time.perf_counter()
    with Judge(jobs=jobs) as judge:
        assert all(v.passed for v in judge.judge(wanted))
    return time.perf_counter() - began


def by_interpreters(work: list[tuple[str, list[str], list[str]]], jobs: int) -> float:
    def one(item: tuple[str, list[str], list[str]]) -> bool:
        text, given, expected = item
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write(text)
            file.flush()
            for data, right in zip(given, expected, strict=True):
                done = subprocess.run(
                    [sys.executable, file.name], input=data, capture_output=True, text=True, timeout=6
                )
                if done.stdout.split() != right.split():
                    return False
        return True

    began = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        assert all(pool.map(one, work))
    return time.perf_counter() - began


def by_livecodebench(work: list[tuple[str, list[str], list[str]]], jobs: int) -> float:
    from lcb_runner.evaluation.compute_code_generation_metrics import evaluate_generations  # type: ignore[import-not-found]

    samples = [{"input_output": json.dumps({"inputs": given, "outputs": expected})} for _, given, expected in work]
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        results, said = evaluate_generations(
            samples, [[text] for text, _, _ in work], num_process_evaluate=jobs, timeout=6
        )
    taken = time.perf_counter() - began
    assert all(one == 1 for found in results.values() for one in found[0]), said[0]
    return taken


def cpp(programs: int) -> tuple[float, float]:
    """Seconds that rrk takes for `programs` programs, one after the other, and that the same commands take by hand."""
    work = [(CPP + f"// {number}\n", inputs(number)) for number in range(programs)]
    sets = [
        CaseSet(
            "stdin", tuple(Case(g, " ".join(map(str, sorted(map(int, g.split()[1:]))))) for g in given), Rule("tokens")
        )
        for _, given in work
    ]
    warm = Job("cpp", "", CPP, "", full=True, case_set=sets[0])
    with Judge(jobs=1) as judge:
        assert all(v.passed for v in judge.judge([warm]))  # prepares
        began = time.perf_counter()
        jobs = [Job("cpp", "", text, "", full=True, case_set=s) for (text, _), s in zip(work, sets, strict=True)]
        assert all(v.passed for v in judge.judge(jobs))
        ours = time.perf_counter() - began
    from rrk.sandbox.languages import recipes, toolchains

    toolchain = toolchains.load("cpp")
    plan = recipes.bare(toolchain, warm)
    argv = recipes.spec(plan.mode.compile[0], plan.values).argv
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for text, given in work:
            (Path(folder) / "main.cpp").write_text(text)
            subprocess.run(argv, cwd=folder, check=True)
            for data in given:
                subprocess.run(["./program"], cwd=folder, input=data.encode(), capture_output=True, check=True)
        return ours, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lcb", metavar="FOLDER")
    add("-j", "--jobs", type=int, default=2)
    add("--problems", type=int, default=40)
    add("--rounds", type=int, default=3)
    options = parser.parse_args()
    ways = {"rrk": by_rrk, "a fresh interpreter a case": by_interpreters}
    if options.lcb:
        sys.path.insert(0, os.path.abspath(options.lcb))
        ways["LiveCodeBench's runner"] = by_livecodebench
    work = []
    for number in range(options.problems):
        text, given = PROGRAMS[number % len(PROGRAMS)] + f"# {number}\n", inputs(number)
        right = [
            subprocess.run([sys.executable, "-S", "-c", text], input=g, capture_output=True, text=True).stdout
            for g in given
        ]
        work.append((text, given, right))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            seconds[name].append(way(work, options.jobs))
    for name in ways:
        rate = options.problems / statistics.median(seconds[name])
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["rrk"], strict=True))
        print(f"{name:28} {rate:7.1f} programs/s   takes {ratio:5.2f} times rrk's time")
    pairs = [cpp(max(options.problems // 8, 2)) for _ in range(options.rounds)]
    print(f"C++: rrk takes {statistics.median(a / b for a, b in pairs):.2f} times what the same commands take by hand")


if __name__ == "__main__":
    main()
