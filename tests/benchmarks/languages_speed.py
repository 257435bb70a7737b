"""What a verdict costs beside the commands that peers use, same programs, same folders, in one run. Not part of `make test`.

    python -m tests.benchmarks.languages_speed [LANG ...] [-n 20] [--tsc PATH] [--kind humaneval]

For each language it alternates, program by program, between the peer's bare commands (no proof, no limits beyond those of the
same plain box) and rrk's recipe; C++ uses its precompiled header, TypeScript and Java their batches (as the judge does). Programs are
gold ones where the shared data has them, else the self test that passes. Printed: wall and CPU ms a program, and the ratio
of wall times (above 1: rrk is faster). Without the jail: its cost is a benchmark of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rrk.sandbox.jail.box import Limits, RunSpec
from rrk.sandbox.languages import batches, recipes, toolchains
from rrk.sandbox.verdict import Job
from tests.conftest import SHARED
from tests.languages import known
from tests.languages.plainbox import PlainBox

SH = "/bin/sh"
TUPLES = "/usr/share/java/javatuples.jar"
# File name and shell line of each peer's way, after MultiPL-E's own evaluators.
PEERS = {
    "cpp": ("main.cpp", "g++ -std=c++17 main.cpp -o main && ./main"),
    "java": ("Problem.java", f"javac -encoding UTF8 -cp {TUPLES} -d . Problem.java && java -ea -cp {TUPLES}:. Problem"),
    "js": ("main.js", "node main.js"),
    "ts": ("main.ts", "TSC --target esnext --module commonjs --strict false main.ts && node main.js"),
    "php": ("main.php", "php main.php"),
    "cs": ("main.cs", "mcs -d:DEBUG -r:System.Numerics.dll main.cs -out:main.exe && MONO_TRACE_LISTENER=Console.Error mono main.exe"),
    "sh": ("main.sh", "bash main.sh"),
    "go": ("main_test.go", "GO111MODULE=off GOCACHE=/tmp/rrk-peer-go go test main_test.go"),
    "rs": ("main.rs", "rustc main.rs -o main && ./main"),
    "rb": ("main.rb", "ruby main.rb"),
    "lua": ("main.lua", "lua main.lua"),
    "pl": ("main.pl", "perl main.pl"),
    "r": ("main.r", "Rscript main.r"),
    "rkt": ("main.rkt", "racket main.rkt"),
    "scala": ("main.scala", "scalac -d . main.scala && scala -cp . Problem"),
    "hs": ("main.hs", "ghc -O0 main.hs -o main && ./main"),
    "ml": ("main.ml", "ocamlopt -w -a main.ml -o main && ./main"),
    "d": ("main.d", "ldc2 -unittest -of=main main.d && ./main"),
    "clj": ("main.clj", "clojure main.clj"),
    "ex": ("main.exs", "elixir main.exs"),
    "adb": ("main.txt", "gnatchop -w -q main.txt && gnatmake -q -gnatW8 -gnata -gnat2022 -gnatws main.adb -o main && ./main"),
}  # fmt: skip


def programs(language: str, count: int) -> list[Job]:
    found = []
    if (SHARED / "data").is_dir():
        found = [k.job for k in known.gold(SHARED) if k.job.language == language and not k.job.full]
        if language == "go":
            found = []
    if not found:
        test = next(t for t in toolchains.load(language).selftests if t.status == "OK")
        found = [Job(language, test.prompt, test.completion + "\n" * i, test.tests) for i in range(count)]
    return found[:: max(1, len(found) // count)][:count]


def peer(language: str, job: Job, tsc: str) -> tuple[float, float]:
    file, line = PEERS[language]
    with PlainBox() as box:
        tests = (
            job.tests.replace("(~", "(-") if language == "ml" else job.tests
        )  # as ml.toml does, or it would not compile
        box.write(file, (job.program + "\n" + tests).encode())
        began = time.perf_counter()
        limits = Limits(60, 240, 4096, 512, 512)
        path = "/usr/local/bin:/usr/bin:/bin"
        rustc = toolchains.load("rs").tools["rustc"].path or ""
        env = {"PATH": rustc.rpartition("/")[0] + ":" + path if language == "rs" else path}
        outcome = box.run(RunSpec([SH, "-c", line.replace("TSC", tsc)], limits, env))
        return time.perf_counter() - began, outcome.cpu


@contextmanager
def measured(spent: list[float]) -> Iterator[None]:
    """Adds wall and (children's) CPU seconds of the block."""
    import resource

    def cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before, began = cpu(), time.perf_counter()
    yield
    spent[0] += time.perf_counter() - began
    spent[1] += cpu() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*")
    parser.add_argument("-n", type=int, default=20)
    parser.add_argument("--tsc", default="tsc", help="the TypeScript compiler of the peer's command")
    options = parser.parse_args()
    print(f"{'language':8} {'peer ms':>8} {'CPU':>6} {'rrk ms':>8} {'CPU':>6} {'faster by':>9}  verdicts")
    for language in options.languages or PEERS:
        toolchain = toolchains.load(language)
        if lacking := toolchain.missing():
            print(f"{language:8} {'; '.join(lacking)}")
            continue
        with PlainBox() as box:
            batches.prepare(toolchain, box)
        work = programs(language, options.n)
        ours, theirs = [0.0, 0.0], [0.0, 0.0]
        passed = 0
        if toolchain.batch:
            half = len(work) // 2
            # Peers before, rrk's batch in the middle, peers after: a drift of the machine's load hits both.
            for job in work[:half]:
                with measured(theirs):
                    peer(language, job, options.tsc)
            with measured(ours):
                passed = sum(bool(v.passed) for v in batches.judge_batch(toolchain, work, PlainBox))
            for job in work[half:]:
                with measured(theirs):
                    peer(language, job, options.tsc)
        else:
            for job in work:
                with measured(theirs):
                    peer(language, job, options.tsc)
                with measured(ours), PlainBox() as box:
                    passed += bool(recipes.judge(toolchain, job, box).passed)
        n = len(work) / 1000
        print(
            f"{language:8} {theirs[0] / n:8.1f} {theirs[1] / n:6.1f} {ours[0] / n:8.1f} {ours[1] / n:6.1f} {theirs[0] / ours[0]:8.2f}x"
            f"  {passed} of {len(work)} passed",
            flush=True,
        )


if __name__ == "__main__":
    main()
