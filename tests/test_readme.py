"""What stands in a README's fenced blocks is run as it stands there, and what is shown as output is what is printed.

A block is run whole, by bash, in a folder of its own that holds the files it reads and does not write itself: small ones, made
here. Models of others are random ones under their names. What is not run stands in NOT_RUN with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rrk import jsonl
from tests.conftest import ROOT, environment
from tests.generation.tiny import make_model
from tests.reranking.models import save

PAGES = ("README.md", "examples/tiny/README.md")

# Commands, by their beginning.
NOT_RUN = {
    "python3 -m venv": "a virtual environment is there already",
    "pip install": "installs packages; `make setup` does",
    "rrk problems humaneval": "needs a hub",
    "make -C examples/real": "fetches a model, and takes hours",
    "make iterate": "minutes; tests/examples/test_makefile.py runs it on a smaller world",
}
# Blocks of output alone, by their first words.
NOT_COMPARED = {
    "round  ": "what `make iterate` prints after eight minutes, to the last bit only on the machine that it was run on",
}
# Blocks with such a command are left to `make test-all`.
SLOW = ("rrk sample problems.jsonl",)
CODET = "164 problems, 16400"
SHOWS = "$ rrk show"

PROBLEMS = range(24, 27)  # --dev-share 0.1 draws the last two of them


def blocks() -> list[tuple[str, str]]:
    """Every fenced block, with its page and line."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for match in re.finditer(r"^```.*\n((?:.*\n)*?)^```$", text, re.M):
            found.append((f"{page}:{1 + text[: match.start(1)].count(chr(10))}", match[1]))
    return found


def commands(block: str) -> list[str]:
    """A command may go on in a line that is indented."""
    return [line for line in re.split(r"\n(?!\s)", block.rstrip("\n")) if line]


def listed(text: str, where: dict[str, str]) -> list[str]:
    return [start for start in where if text.startswith(start)]


def runnable() -> Iterator:
    for place, text in blocks():
        if listed(text, NOT_COMPARED) or text.startswith((CODET, SHOWS)):
            continue
        script = "\n".join(command for command in commands(text) if not listed(command, NOT_RUN))
        slow = [pytest.mark.slow] if any(command.startswith(SLOW) for command in commands(text)) else []
        if script:
            yield pytest.param(script, id=place, marks=slow)


def test_every_entry_of_the_lists_still_excuses_something():
    texts = [text for _, text in blocks()]
    starts = {start for text in texts for command in commands(text) for start in listed(command, NOT_RUN)}
    starts |= {start for text in texts for start in listed(text, NOT_COMPARED)}
    assert starts == {*NOT_RUN, *NOT_COMPARED}
    for start in (CODET, SHOWS, *SLOW):
        assert sum("\n" + start in "\n" + text for text in texts) == 1


def problem(number: int) -> dict:
    """In HumanEval's shape, as `rrk problems humaneval` gives it; every other one has tests that let `abs` pass."""
    weak = "" if number % 2 else f"    assert candidate(-3) == {number - 3}\n"
    return {
        "task_id": f"HumanEval/{number}",
        "language": "py",
        "prompt": f'def shift(x):\n    """Increase x by {number}."""\n',
        "entry_point": "shift",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n    assert candidate(2) == {number + 2}\n{weak}",
        "stop_tokens": ["\n", " ", "e"],  # a random model's text ends soon
    }


def candidates(number: int) -> list[dict]:
    own = problem(number)
    names = {name: own[name] for name in ("task_id", "language", "prompt")}
    ends = (f"x + {number}", f"x - {number}", f"abs(x) + {number}", "x", f"{number} + x", "print(x)")
    return [
        {
            **names,
            "completion_id": i,
            "completion": f"    return {end}\n",
            "passed": i in ((0, 2, 4) if number % 2 else (0, 4)),
        }
        for i, end in enumerate(ends)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """All that the blocks read, under the names that stand there."""
    folder = tmp_path_factory.mktemp("readme")
    problems = [problem(n) for n in PROBLEMS]
    rows = [row for n in PROBLEMS for row in candidates(n)]
    cost = {"model": "m", "tokens": 9, "prompt_tokens": 20}
    for name, found in {
        "problems": problems,
        "candidates": [{k: v for k, v in row.items() if k != "passed"} for row in rows],
        "verdicts": rows,
        "a": [{**row, **cost, "parameters": 1e9, "score": float(row["passed"])} for row in rows],
        "b": [{**row, **cost, "parameters": 7e9} for row in rows],
        "corpus": [{"text": own["prompt"] + own["canonical_solution"]} for own in problems],
    }.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(map(jsonl.dumps, found)))
    save(folder / "BASE", "llama")
    make_model(folder / "Qwen" / "Qwen2.5-Coder-0.5B-Instruct")
    return folder


@pytest.fixture(scope="module")
def path(tmp_path_factory, warm) -> str:
    """A PATH on which `rrk` is this checkout's."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "rrk").write_text(f'#!/bin/sh\nexec {shlex.join(warm())} "$@"\n')
    (folder / "rrk").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("script", runnable())
def test_a_block_runs_as_it_stands(script, files, path, tmp_path):
    written = set(re.findall(r"(?:>|-o|--plot) (\S+)", script))
    for given in files.iterdir():
        if given.name not in written and re.search(rf"\b{given.name}\b", script):
            (tmp_path / given.name).symlink_to(given)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    for made in (tmp_path / name for name in written):
        assert any(made.iterdir()) if made.is_dir() else made.stat().st_size, made


def test_rrk_show_prints_what_is_shown(rrk, tmp_path):
    [block] = [text for _, text in blocks() if text.startswith(SHOWS)]
    command, shown = block.split("\n", 1)
    head, *programs = re.split(r"^--- .*\n", shown, flags=re.M)
    task, prompt = re.fullmatch(r"=== (\S+) \(py\)\n(.*)\n", head, re.S).groups()
    said = re.findall(r"^--- .*, score (.*), (passed|failed)(?: \((\w+)\))?, (.*) s(?:: (.*))?$", shown, re.M)
    numbers = re.findall(r"^--- \S+ #(\d+), rank (\d+) of (\d+)", shown, re.M)
    total = int(numbers[0][2])
    rows = [
        {"task_id": task, "language": "py", "prompt": prompt, "completion_id": 100 + i, "completion": "    pass\n"}
        | {"passed": False, "status": "Exception", "time": 0.0, "score": -1.0, "rank": 1 + i}
        for i in range(len(programs), total)
    ]
    for program, (score, verdict, status, seconds, why), (number, rank, _) in zip(programs, said, numbers, strict=True):
        rows.append(
            {
                "task_id": task,
                "language": "py",
                "prompt": prompt,
                "completion_id": int(number),
                "completion": program.rstrip("\n") + "\n",
            }
            | {"passed": verdict == "passed", "status": status or "OK", "time": float(seconds), "stderr": why}
            | {"score": float(score), "rank": int(rank)}
        )
    words = shlex.split(command.removeprefix("$ rrk "))
    words[1] = "rows.jsonl"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = rrk(*words)
    assert done.stdout.decode().rstrip("\n") == shown.rstrip("\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_codets_table_is_what_rrk_compare_prints(rrk, shared, tmp_path):
    """Its lines stand in this order in what is printed; some are left out there."""
    [block] = [text for _, text in blocks() if text.startswith(CODET)]
    problems = shared / "data/problems/humaneval.jsonl.gz"
    candidates = shared / "data/candidates/codet_humaneval_codegen16b.jsonl.gz"
    shown = tmp_path / "shown.jsonl"
    assert rrk("execute", "-p", problems, "--examples", candidates, "-o", shown, timeout=1500).returncode == 0
    done = rrk("compare", shown, "--ties", "ngram", timeout=280)
    printed = iter(done.stdout.decode().splitlines())
    assert all(line in printed for line in block.splitlines()), done.stdout.decode()
