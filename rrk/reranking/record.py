"""`rrk_reranker.json`: what a trained reranker must never be separated from.

    record.write(folder, Record(rendering, golden=[0.31, -1.2, ...], calibration=(a, b)))
    record.read(folder)                # None where the folder is somebody else's classifier

How pairs are rendered, the scores of GOLDEN (computed when the model was saved, re-computed when it is loaded: other library
versions, other tokenizer files or a damaged checkpoint show here, not in a benchmark months later), and Platt's two parameters
that turn a raw score into a probability, fitted on dev problems.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from rrk import jsonl, manifest
from rrk.errors import RrkError, UsageError
from rrk.generation import runs
from rrk.reranking.render import Rendering

NAME = "rrk_reranker.json"
FORMAT = 1

# (prompt, programs, language, which stand alone). Two share a prompt, so that the shared path is checked too.
GOLDEN: list[tuple[str, list[str], str, list[bool]]] = [
    ("def add(a, b):\n", ["    return a + b\n", "    return a - b\n", "    pass"], "py", [False] * 3),
    (
        "// Größtes Element, größer als 0 – sonst 0.\nint f(vector<int> v) {\n",
        ["    return v[0];\n}\n"],
        "cpp",
        [False],
    ),
    ("Write a program.", ["print('hello')\nprint(\"12345\")\n" * 8, ""], "py", [True, False]),
]


@dataclass(frozen=True)
class Record:
    """`golden`: one score a program of GOLDEN, in order. `calibration`: (a, b) of p = sigmoid(a + b * score)."""

    rendering: Rendering
    golden: list[float]
    calibration: tuple[float, float] | None = None


def probability(calibration: tuple[float, float] | None, scores: Sequence[float]) -> list[float]:
    """Chance of passing by Platt's parameters, fitted on dev problems. UsageError where a reranker has none."""
    if calibration is None:
        raise UsageError("the reranker is not calibrated: train it with `rrk train-reranker --dev SCORED_ROWS`")
    a, b = calibration
    return [0.5 * (1.0 + math.tanh(0.5 * (a + b * score))) for score in scores]


def write(folder: str | Path, record: Record) -> None:
    target = Path(folder) / NAME
    part = target.with_suffix(".json.part")
    part.write_bytes(orjson.dumps({"format": FORMAT, **asdict(record)}, option=orjson.OPT_INDENT_2))
    os.replace(part, target)


def read(folder: str | Path) -> Record | None:
    """The record, or None if there is none; RrkError if it is damaged or of another rrk."""
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
        if found["format"] != FORMAT:
            raise RrkError(f"{path}: written by another rrk (format {found['format']}); train the reranker again")
        calibration = found["calibration"]
        golden = [float(score) for score in found["golden"]]
        return Record(Rendering(**found["rendering"]), golden, tuple(calibration) if calibration else None)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise RrkError(f"{path}: damaged ({error}); train the reranker again") from None


def left_by_training(folder: str | Path) -> bool:
    """Whether `rrk train-reranker` wrote here (or into the run that this is a checkpoint of)."""
    folder = Path(folder)
    for run in (folder / runs.RUN, folder.parent.parent / runs.RUN):
        if run.is_file() and "pooling" in jsonl.loads(run.read_bytes()):
            return True
    made = manifest.read(folder) if folder.is_dir() else None
    return made is not None and made.get("command") == "train-reranker"
