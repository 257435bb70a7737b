"""How far the judge agrees with programs whose verdict is known, in every language (Python: HumanEvalPack only). Minutes; not part of `make test`.

    python -m tests.benchmarks.languages_agreement gold [LANG ...] [--box plain] [-j 4] [--every 1]
    python -m tests.benchmarks.languages_agreement humanevalpack [cpp go java js python rust]
    python -m tests.benchmarks.languages_agreement hostile

Prints a line for each disagreement and a table a language. `--box plain` runs without the jail: only for honest programs.
"""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from rrk.sandbox.languages import recipes, toolchains
from rrk.sandbox.verdict import Job, Verdict
from tests.conftest import SHARED
from tests.languages import known
from tests.languages.plainbox import PlainBox


def plain(jobs: Iterable[Job], workers: int) -> Iterator[Verdict]:
    def one(job: Job) -> Verdict:
        with PlainBox() as box:
            return recipes.judge(toolchains.load(job.language), job, box)

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(one, jobs)


def jailed(jobs: Iterable[Job], workers: int) -> Iterator[Verdict]:
    from rrk.sandbox.judge.judge import Judge

    with Judge(jobs=workers) as judge:
        yield from judge.judge(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gold", "humanevalpack", "hostile"])
    parser.add_argument("languages", nargs="*")
    parser.add_argument("--box", choices=["plain", "jail"], default="jail")
    parser.add_argument("-j", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, help="take every n-th program")
    options = parser.parse_args()
    if options.what == "hostile" and options.box == "plain":
        parser.error("hostile programs run in the jail only")
    if options.what == "gold":
        work = known.gold(SHARED)
    elif options.what == "hostile":
        work = known.hostile(SHARED)
    else:
        # Python has no recipe: only the jail judges it.
        names = [name for name in known.CODES if name != "python" or options.box == "jail"]
        work = [k for name in names for k in known.humanevalpack(SHARED, name)]
    wanted = {toolchains.load(name).id for name in options.languages}
    work = [k for k in work if not wanted or k.job.language in wanted][:: options.every]
    run = plain if options.box == "plain" else jailed
    began = time.monotonic()
    agreed: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    cpu: collections.Counter[str] = collections.Counter()
    for item, verdict in zip(work, run((k.job for k in work), options.j), strict=True):
        language = item.job.language
        total[language] += 1
        cpu[language] += verdict.time
        if verdict.status in item.expected:
            agreed[language] += 1
        else:
            said = (verdict.stderr or verdict.stdout).strip()[-300:].replace("\n", " | ")
            print(
                f"{item.name}: {verdict.status} ({verdict.reason}), expected {'/'.join(sorted(item.expected))}: {said}"
            )
    for language in sorted(total):
        share = agreed[language] / total[language]
        print(
            f"{language:6} {agreed[language]:5} of {total[language]:5} agree ({share:.1%}), {cpu[language] / total[language]:.3f} CPU s a run"
        )
    print(
        f"all    {sum(agreed.values()):5} of {sum(total.values()):5} in {time.monotonic() - began:.0f} s with {options.j} workers, box {options.box}"
    )


if __name__ == "__main__":
    main()
