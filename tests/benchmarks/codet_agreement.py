"""`rrk execute` on the 16,400 CodeT candidates against their recorded verdicts. Minutes; not part of `make test`.

    python -m tests.benchmarks.codet_agreement [-j 2] [--every 1] [--options "--sandbox none"]

Prints the share that agrees and each class of difference (recorded, ours, reason) with examples.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import subprocess
import tempfile
import time
from pathlib import Path

from tests.conftest import SHARED, environment, rrk_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="take every n-th candidate")
    parser.add_argument("--options", default="", help="further options of rrk execute")
    parser.add_argument("--keep", metavar="FILE", help="keep the verdicts there")
    options = parser.parse_args()
    with gzip.open(SHARED / "data/candidates/codet_humaneval_codegen16b.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream][:: options.every]
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "candidates.jsonl"
        with open(given, "w") as stream:
            for row in rows:
                fields = {k: v for k, v in row.items() if k not in ("passed", "status", "passed_source")}
                stream.write(json.dumps(fields) + "\n")
        problems = str(SHARED / "data/problems/humaneval.jsonl.gz")
        output = options.keep or str(Path(folder) / "verdicts.jsonl")
        command = rrk_command(
            "execute", "-p", problems, "-j", str(options.j), *options.options.split(), str(given), "-o", output
        )
        began = time.monotonic()
        done = subprocess.run(command, env=environment(), check=False)
        seconds = time.monotonic() - began
        with open(output) as stream:
            verdicts = [json.loads(line) for line in stream]
    assert len(verdicts) == len(rows), f"{len(verdicts)} verdicts on {len(rows)} rows, exit {done.returncode}"
    classes: dict[tuple, list[str]] = collections.defaultdict(list)
    for before, after in zip(rows, verdicts, strict=True):
        if before["passed"] != after["passed"]:
            said = (after["stderr"].strip().splitlines() or [""])[-1][:100]
            key = (before["passed"], before.get("status"), after["passed"], after["status"], after.get("reason"))
            classes[key].append(f"{before['task_id']} #{before.get('sample')} {after['time']:.2f} s: {said}")
    differ = sum(map(len, classes.values()))
    for key, examples in sorted(classes.items(), key=lambda item: -len(item[1])):
        print(f"{len(examples):5} recorded {key[0]} ({key[1]}), here {key[2]} ({key[3]}, {key[4]})")
        for example in examples[:12]:
            print(f"          {example}")
    print(
        f"{len(rows) - differ} of {len(rows)} agree ({1 - differ / len(rows):.3%}) in {seconds:.0f} s, {len(rows) / seconds:.0f}/s, -j {options.j}"
    )
    print("statuses:", dict(collections.Counter(v["status"] for v in verdicts)))
    print("integrity:", dict(collections.Counter(str(v.get("integrity")) for v in verdicts if v["passed"])))


if __name__ == "__main__":
    main()
