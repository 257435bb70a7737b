"""Ordinary ways to test a function or class, each with a right program and a wrong twin: no label may depend on the way.

    from tests.sandbox.idioms import IDIOMS                 # list[Idiom]
    python -m tests.sandbox.idioms [OPTIONS OF EXECUTE]     # what `rrk execute` says of them; '<<<' marks a wrong label

They stand in idiom_texts/, written for rrk after what public test suites do, a file a theme:

    #### NAME [entry=f] [needs=numpy] [module=yes]
    the right program; the prompt ends with the entry point's first line (entry=: no entry point)
    ---- wrong: OLD ==> NEW
    the tests, which the wrong twin (OLD replaced in the completion, where it stands once) must fail
    ---- runner
    optional: what the tests' own runner does behind them, where they call nothing themselves
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TEXTS = Path(__file__).with_name("idiom_texts")


@dataclass(frozen=True)
class Idiom:
    """`prompt + right` passes `tests`, `prompt + wrong` fails them.

    runner: lines that stand for the tests' own runner, where the tests alone call nothing (unittest, pytest, check).
    module: the program is executed as a module, as HumanEval's harness does it; as a script its main guard would run.
    needs: packages outside the standard library.
    """

    name: str
    prompt: str
    right: str
    wrong: str
    tests: str
    entry: str | None = "f"
    runner: str = ""
    module: bool = False
    needs: tuple[str, ...] = ()


def read(text: str) -> list[Idiom]:
    """The idioms of one file's text."""
    found = []
    for part in re.split(r"(?m)^#### ", text)[1:]:
        head, _, part = part.partition("\n")
        program, change, tests = re.split(r"(?m)^---- wrong: (.*)\n", part)
        tests, _, runner = tests.partition("---- runner\n")
        name, *words = head.split()
        options = dict(word.split("=", 1) for word in words)
        entry = options.get("entry", "f") or None
        first = re.search(rf"(?m)^(?:async )?(?:def|class) {entry}\b.*\n", program) if entry else None
        cut = first.end() if first else 0
        right = program[cut:]
        old, arrow, new = change.partition(" ==>")
        if not arrow or right.count(old) != 1:
            raise ValueError(f"{name}: {old!r} is to stand once in the completion")
        wrong = right.replace(old, new[1:])
        needs = tuple(filter(None, options.get("needs", "").split(",")))
        found.append(
            Idiom(name, program[:cut], right, wrong, tests.rstrip() + "\n", entry, runner, "module" in options, needs)
        )
    return found


IDIOMS = [idiom for file in sorted(TEXTS.glob("*.txt")) for idiom in read(file.read_text("utf-8"))]


def rows() -> tuple[list[dict], list[dict]]:
    """Problems and candidates for `rrk execute`: completion 0 is right, 1 wrong."""
    problems, candidates = [], []
    for idiom in IDIOMS:
        problem = {"task_id": idiom.name, "language": "py", "prompt": idiom.prompt, "tests": idiom.tests}
        problems.append(problem | ({"entry_point": idiom.entry} if idiom.entry else {}))
        for number, completion in enumerate((idiom.right, idiom.wrong)):
            row = {"task_id": idiom.name, "language": "py", "completion_id": number, "completion": completion}
            candidates.append(row | {"completion_kind": "continuation"})
    return problems, candidates


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("problems.jsonl", "candidates.jsonl")]
        for file, lines in zip(files, rows(), strict=True):
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [sys.executable, "-m", "rrk", "execute", "-p", *map(str, files), *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    wrong = 0
    for row in map(json.loads, done.stdout.splitlines()):
        right = row["passed"] is (row["completion_id"] == 0)
        wrong += not right
        twin = ("right", "wrong")[row["completion_id"]]
        told = (row["stderr"].strip().splitlines() or [""])[-1] if not right else ""
        mark = "   " if right else "<<<"
        print(f"{mark} {row['task_id']} ({twin}): {row['status']} {row.get('integrity') or ''} {told}".rstrip())
    print(f"{wrong} wrong labels of {2 * len(IDIOMS)} ({len(IDIOMS)} idioms)")


if __name__ == "__main__":
    main()
