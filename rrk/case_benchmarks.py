"""Benchmarks of whole programs, and others that count tests, as Problem rows: LiveCodeBench, APPS, CodeContests, TACO,
AceCode-87K, BigCodeBench.

    row = case_benchmarks.MAKERS[case_benchmarks.recognise(raw)](raw)     # RowError; Untestable where it has no test

Each row's prompt is a docstring of the task (with the starter code in it, where there is one), so that prompt + completion is
a Python program, as MBPP's is; programs in other languages stand alone (`completion_kind: full`). How outputs are compared is
the benchmark's own rule (rrk/cases.py names them).

- LiveCodeBench (Jain et al. 2024), the releases' JSONL: public and private tests; the private ones may be JSON, or base64 of
  zlib of a pickle of JSON. Nothing is unpickled: only a pickle that is one text is read, opcode by opcode. Its runner puts
  imports before every program; `prelude` has them.
- APPS (Hendrycks et al. 2021) and TACO (Li et al. 2023): `input_output` and `solutions` are JSON texts; with `fn_name` a function
  (or a method of `class Solution`) is called.
- CodeContests (Li et al. 2022): public, private and generated tests. Problems that read or write named files are left out.
- AceCode-87K (Zeng et al. 2025): asserts. BigCodeBench (Zhuo et al. 2024): unittest; its packages come by `execute --packages`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import pickletools
import zlib
from collections.abc import Sequence
from typing import Any

from rrk import rows
from rrk.errors import RowError

SOURCES = ("livecodebench", "apps", "codecontests", "taco", "acecode", "bigcodebench")
# Where the hub has them: name, configuration, default split.
HUB: dict[str, tuple[str, str | None, str]] = {
    "livecodebench": ("livecodebench/code_generation_lite", "release_latest", "test"),
    "apps": ("codeparrot/apps", "all", "test"),
    "codecontests": ("deepmind/code_contests", None, "test"),
    "taco": ("BAAI/TACO", "ALL", "test"),
    "acecode": ("TIGER-Lab/AceCode-87K", None, "train"),
    "bigcodebench": ("bigcode/bigcodebench", None, "v0.1.4"),
}
STOPS = ['\n"""', "\n```"]  # a program may print at its top level
ACE_STOPS = ["\nif __name__", "\nprint(", '\n"""', "\nassert "]
MOST_BYTES = 1 << 30  # of decompressed tests
PYTHON3 = 3  # CodeContests' number for it
# The modules whose names LiveCodeBench's and APPS' runners give to every program.
_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "typing",
)  # fmt: skip
PRELUDE = "\n".join(
    [
        *(f"from {name} import *" for name in _MODULES),
        "import " + ", ".join(_MODULES[:-1]),
        "sys.setrecursionlimit(50000)",
    ]
)


class Untestable(RowError):
    """A problem without a test that could be run here; it is left out."""


def recognise(row: dict[str, Any]) -> str | None:
    """One of SOURCES by the row's fields, or None."""
    has = row.keys()
    if {"question_content", "public_test_cases", "private_test_cases"} <= has:
        return "livecodebench"
    if {"description", "public_tests", "generated_tests"} <= has:
        return "codecontests"
    if {"question", "input_output", "starter_code"} <= has:
        return "taco" if has & {"raw_tags", "skill_types", "Expected Time Complexity"} else "apps"
    if {"question", "test_cases", "id"} <= has:
        return "acecode"
    if {"complete_prompt", "test", "entry_point"} <= has:
        return "bigcodebench"
    return None


def docstring(*parts: str) -> str:
    '''A prompt that is Python: the task's text (and its starter code) between """.'''
    body = "\n\n".join(part.strip() for part in parts if part.strip()).replace("\r\n", "\n")
    return '"""\n' + body.replace("\\", "\\\\").replace('"""', "'''") + '\n"""\n'


def _livecodebench(row: dict[str, Any]) -> dict[str, Any]:
    at = rows.where(row)
    metadata = _json(row.get("metadata") or "{}", "metadata", at)
    name = metadata.get("func_name")
    found: list[dict[str, Any]] = []
    for field in ("public_test_cases", "private_test_cases"):
        for test in _tests(rows.need(row, field), field, at):
            if name:
                arguments = [_json(line, field, at) for line in test["input"].split("\n")]
                case: dict[str, Any] = {"args": arguments, "expected": _json(test["output"], field, at)}
            else:
                case = {"input": test["input"], "output": test["output"]}
            found.append({**case, "public": True} if field.startswith("public") else case)
    kept = ("question_title", "platform", "contest_id", "contest_date", "difficulty")
    return {
        "task_id": f"LiveCodeBench/{rows.need(row, 'question_id', (str, int))}",
        **_body(row, docstring(rows.need(row, "question_content"), row.get("starter_code") or ""), found, name),
        "compare": "equal" if name else "lines",
        "prelude": PRELUDE,
        **{key: row[key] for key in kept if key in row},
    }


def _body(row: dict[str, Any], prompt: str, found: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    if not found:
        raise Untestable("a problem without tests", rows.where(row))
    entry = {"entry_point": name} if name else {}
    return {"language": "py", "prompt": prompt, "cases": list(found), **entry, "stop_tokens": STOPS}


def _tests(text: str, field: str, at: tuple[str, int] | None) -> list[dict[str, str]]:
    try:
        given = json.loads(text)
    except ValueError:
        given = _json(pickled_text(text, at), field, at)
    if not isinstance(given, list) or not all(
        isinstance(t, dict) and isinstance(t.get("input"), str) and isinstance(t.get("output"), str) for t in given
    ):
        raise RowError(f"field '{field}': a list of tests with input and output is expected", at)
    return given


def pickled_text(text: str, at: tuple[str, int] | None = None) -> str:
    """The one text in a pickle, compressed by zlib, in base64. Anything else in the pickle is refused; nothing is built or run."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise RowError(f"field 'private_test_cases': more than {MOST_BYTES >> 20} MB, or cut off", at)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise RowError(f"field 'private_test_cases': neither JSON nor base64 of zlib ({error})", at) from None
    found: list[str] = []
    try:
        for opcode, value, _ in pickletools.genops(data):
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"):
                found.append(str(value))
            elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"):
                raise RowError(
                    f"field 'private_test_cases': a pickle of more than one text ({opcode.name}) is refused", at
                )
    except (ValueError, UnicodeDecodeError) as error:
        raise RowError(f"field 'private_test_cases': a damaged pickle ({error})", at) from None
    if len(found) != 1:
        raise RowError(f"field 'private_test_cases': a pickle of {len(found)} texts instead of one", at)
    return found[0]


def _apps(row: dict[str, Any]) -> dict[str, Any]:
    number = row.get("problem_id", row.get("id"))
    if number is None:
        raise RowError("no field 'problem_id' (or 'id')", rows.where(row))
    kept = ("difficulty", "url")
    return {"task_id": f"APPS/{number}", **_input_output(row), **{key: row[key] for key in kept if key in row}}


def _taco(row: dict[str, Any]) -> dict[str, Any]:
    # TACO's rows have no number of their own, and one name may stand for several.
    digest = hashlib.blake2b(rows.need(row, "question").encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    kept = ("name", "source", "url", "difficulty", "time_limit", "memory_limit")
    return {"task_id": f"TACO/{digest}", **_input_output(row), **{key: row[key] for key in kept if row.get(key)}}


def _input_output(row: dict[str, Any]) -> dict[str, Any]:
    at = rows.where(row)
    given = row.get("input_output")
    given = _json(given, "input_output", at) if isinstance(given, str) and given.strip() else given
    if not given:
        raise Untestable("a problem without tests (field 'input_output')", at)
    if not isinstance(given, dict) or len(given.get("inputs", ())) != len(given.get("outputs", "x")):
        raise RowError("field 'input_output': as many inputs as outputs are expected", at)
    name = given.get("fn_name")
    found: list[dict[str, Any]] = []
    for one, other in zip(given["inputs"], given["outputs"], strict=True):
        if name:
            found.append({"args": one if isinstance(one, list) else [one], "expected": other})
        else:
            found.append({"input": _lines(one), "output": _lines(other)})
    made = _body(row, docstring(rows.need(row, "question"), row.get("starter_code") or ""), found, name)
    solutions = row.get("solutions")
    solutions = _json(solutions, "solutions", at) if isinstance(solutions, str) and solutions.strip() else solutions
    if solutions:
        made["canonical_solution"] = str(solutions[0]).replace("\r\n", "\n").rstrip() + "\n"
    return {**made, "compare": "apps", "prelude": PRELUDE}


def _lines(value: Any) -> str:
    """Inputs and outputs are texts or lists of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _codecontests(row: dict[str, Any]) -> dict[str, Any]:
    at = rows.where(row)
    if row.get("input_file") or row.get("output_file"):
        raise Untestable("a problem that reads or writes named files", at)
    found: list[dict[str, Any]] = []
    for field in ("public_tests", "private_tests", "generated_tests"):
        tests = row.get(field) or {"input": [], "output": []}
        if isinstance(tests, list):  # as the protocol buffers have it
            tests = {key: [test[key] for test in tests] for key in ("input", "output")}
        for one, other in zip(tests["input"], tests["output"], strict=True):
            case = {"input": one, "output": other}
            found.append({**case, "public": True} if field == "public_tests" else case)
    made = {
        "task_id": f"CodeContests/{rows.need(row, 'name')}",
        **_body(row, docstring(rows.need(row, "description")), found, None),
        "compare": {"rule": "floats", "tolerance": 1e-5, "relative": 0, "ignore_case": True},
    }
    solutions = row.get("solutions") or {}
    for language, text in zip(solutions.get("language", ()), solutions.get("solution", ()), strict=True):
        if language == PYTHON3:
            made["canonical_solution"] = text
            break
    kept = ("source", "difficulty", "cf_rating", "cf_tags", "time_limit", "memory_limit_bytes")
    return {**made, **{key: row[key] for key in kept if row.get(key)}}


def _acecode(row: dict[str, Any]) -> dict[str, Any]:
    asserts = [str(text) for text in rows.need(row, "test_cases", list)]
    if not asserts:
        raise Untestable("a problem without tests (field 'test_cases')", rows.where(row))
    kept = ("source",)
    return {
        "task_id": str(row["id"]),
        "language": "py",
        "prompt": docstring(rows.need(row, "question"), asserts[0]),
        "tests": "\n" + "\n".join(asserts) + "\n",
        "stop_tokens": ACE_STOPS,
        **{key: row[key] for key in kept if key in row},
    }


def _bigcodebench(row: dict[str, Any]) -> dict[str, Any]:
    made = {
        "task_id": rows.task_id(row),
        "language": "py",
        "prompt": rows.need(row, "complete_prompt"),
        "tests": "\n" + rows.need(row, "test"),
        "entry_point": rows.need(row, "entry_point"),
        "stop_tokens": ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert "],
    }
    kept = ("canonical_solution", "instruct_prompt", "libs")
    return {**made, **{key: row[key] for key in kept if key in row}}


def _json(text: str, field: str, at: tuple[str, int] | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise RowError(f"field '{field}' is not JSON: {error}", at) from None


MAKERS = {
    "livecodebench": _livecodebench,
    "apps": _apps,
    "codecontests": _codecontests,
    "taco": _taco,
    "acecode": _acecode,
    "bigcodebench": _bigcodebench,
}
