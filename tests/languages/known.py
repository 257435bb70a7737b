"""Programs whose verdict is known: gold_passing_multipl_e, HumanEvalPack and the hostile corpus, read from the shared data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrk import benchmarks
from rrk.sandbox.verdict import Job

CODES = {"cpp": "cpp", "go": "go", "java": "java", "js": "js", "python": "py", "rust": "rs"}
# The neutral words of the hostile corpus in rrk's.
WORDS = {
    "pass": {"OK"},
    "fail": {"Exception", "Tampered", "MemoryLimit", "OutputLimit"},
    "timeout": {"Timeout"},
    "compile_error": {"CompileError", "SyntaxError"},
}


@dataclass(frozen=True)
class Known:
    name: str
    job: Job
    expected: frozenset[str]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def gold(shared: Path) -> list[Known]:
    """MultiPL-E completions known to pass; `label_source` repo (cs, php, some others) was not run by the data's makers."""
    problems: dict[tuple[str, str], dict[str, Any]] = {}
    out = []
    for number, row in enumerate(rows(shared / "data/problems/gold_passing_multipl_e.jsonl.gz")):
        language = row["language"]
        if (row["dataset"], language) not in problems:
            path = shared / f"data/problems/multipl-e/{row['dataset']}-{language}-reworded.jsonl.gz"
            problems[row["dataset"], language] = {p["name"]: p for p in rows(path)}
        problem = problems[row["dataset"], language].get(row["name"])
        if problem is None:
            continue
        job = Job(
            language, problem["prompt"], row["completion"], problem["tests"], full=row["completion_kind"] == "full"
        )
        out.append(Known(f"{row['dataset']}/{language}/{row['name']}#{number}", job, frozenset({"OK"})))
    return out


def humanevalpack(shared: Path, language: str) -> list[Known]:
    """Each problem's correct solution (OK) and its buggy one (anything else, but a verdict)."""
    out = []
    wrong = frozenset({"Exception", "Timeout", "CompileError", "SyntaxError", "MemoryLimit", "OutputLimit", "Tampered"})
    for row in rows(shared / f"data/problems/humanevalpack/humanevalpack_{language}.jsonl.gz"):
        prompt = row["prompt"]
        for kind, expected in (("canonical", frozenset({"OK"})), ("buggy", wrong)):
            if language == "go":
                prompt = benchmarks.go_prompt(row, row[f"{kind}_solution"])
            job = Job(CODES[language], prompt, row[f"{kind}_solution"], row["test"], row["entry_point"])
            out.append(Known(f"{row['task_id']}/{kind}", job, expected))
    return out


def hostile(shared: Path) -> list[Known]:
    """The hostile corpus in every language but Python."""
    out = []
    for row in rows(shared / "adversarial/candidates.jsonl.gz"):
        if row["language"] == "py":
            continue
        words = {word for neutral in row["acceptable"] for word in WORDS[neutral]}
        if row["reason"] in ("tampered", "early_exit"):
            words = {"Tampered"}
        # `extra` limits of the corpus are for its own judge; the languages' own are used here.
        job = Job(row["language"], row["prompt"], row["completion"], row["tests"])
        out.append(Known(row["id"], job, frozenset(words)))
    return out
