"""Benchmarks become Problem rows: HumanEval, MBPP, EvalPlus, MultiPL-E, HumanEvalPack; those of rrk/case_benchmarks.py, too.

    rows = problems(jsonl.read(["humaneval.jsonl.gz"]))         # the schema is recognised by its fields
    rows = problems(hub("multipl-e", language="cpp"))           # through `datasets`

A Problem row has task_id, language, prompt, tests (or HumanEval's test + entry_point), and canonical_solution and stop_tokens
where known; a row's `prompt + canonical_solution + tests` is a program that passes. Other fields are passed on.

- HumanEval (Chen et al. 2021): as it is, with the stop strings of its paper.
- MBPP (Austin et al. 2021) has a text and asserts, no signature. The prompt is a docstring of the text and the first assert
  (the name and the form of the function must come from somewhere; EvalPlus' prompts have the same shape), and the completion
  the whole function. `test_setup_code`, `test_imports` and `test_list` become `tests`. One task_id form: Mbpp/11.
- EvalPlus (Liu et al. 2023): tests are made from the plus inputs and the reference solution, which runs beside the candidate;
  floats are compared with the problem's tolerance. Without inputs, `test` or `assertion` is taken as it is.
- MultiPL-E (Cassano et al. 2023): `name` becomes task_id; prompt, tests and stop_tokens are its own.
- HumanEvalPack (Muennighoff et al. 2024): prompt and test per language; Go's package and imports come before the prompt.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

from rrk import case_benchmarks, cases, evalplus_tests, jsonl, rows
from rrk.errors import RowError, RrkError, UsageError

SOURCES = ("humaneval", "mbpp", "humaneval+", "mbpp+", "multipl-e", "humanevalpack", *case_benchmarks.SOURCES)
# Chen et al. 2021, section 2.1; and where a chat model, which thinks itself in a fenced block, ends it (EvalPlus has that, too).
PYTHON_STOPS = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```"]
# MBPP completions begin with the function itself, so "\ndef " would cut helpers off; they end where a script begins.
MBPP_STOPS = ["\nif __name__", "\nprint(", '\n"""', "\nassert ", "\n```"]
_PACK = {"Python": "py", "CPP": "cpp", "Java": "java", "JavaScript": "js", "Go": "go", "Rust": "rs"}


def problems(
    given: Iterable[dict[str, Any]],
    language: str | None = None,
    split: str | None = None,
    left_out: list[str] | None = None,
) -> Iterator[dict]:
    """Problem rows in order; only those of a language or split where that is asked for (and the rows know theirs).

    What has no test that could be run is left out, and told in `left_out`.

    Raises RowError for a row that is no problem of a known schema.
    """
    wanted = rows.language_code(language) if language else None
    for row in given:
        if split and "split" in row and row["split"] != split:
            continue
        try:
            made = problem(row)
        except case_benchmarks.Untestable as error:
            if left_out is not None:
                left_out.append(str(error))
            continue
        if wanted is None or made["language"] == wanted:
            yield made


def problem(row: dict[str, Any]) -> dict[str, Any]:
    """One Problem row; the schema is recognised by its fields."""
    schema = recognise(row)
    made = dict(_MAKERS[schema](jsonl.Row(row, rows.where(row))))
    head = {key: made.pop(key) for key in ("task_id", "language", "prompt")}
    return {**head, **made}


def recognise(row: dict[str, Any]) -> str:
    """rrk, humaneval, mbpp, evalplus, multipl-e, humanevalpack, or one of case_benchmarks.SOURCES."""
    has = row.keys()
    if found := case_benchmarks.recognise(row):
        return found
    if {"name", "language", "prompt", "tests"} <= has:
        return "multipl-e"
    if {"prompt", "canonical_solution"} <= has and has & {"plus_input", "base_input"}:
        return "evalplus"
    if {"prompt", "test", "declaration"} <= has or {"prompt", "test", "buggy_solution"} <= has:
        return "humanevalpack"
    if {"text", "test_list"} <= has or ({"code", "prompt", "test_list"} <= has):
        return "mbpp"
    if {"task_id", "prompt", "test", "entry_point"} <= has:
        return "humaneval"
    if {"task_id", "prompt"} <= has and has & {"tests", "test_list", "cases"}:
        return "rrk"
    raise RowError(
        f"not a problem of {', '.join(SOURCES)} or rrk; it has "
        + (", ".join(sorted(map(str, has))[:8]) or "no fields"),
        rows.where(row),
    )


def _rrk(row: dict[str, Any]) -> dict[str, Any]:
    cases.case_set(row)
    return {**row, "task_id": rows.task_id(row), "language": rows.language_code(str(row.get("language") or "py"))}


def _humaneval(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "language": "py", "stop_tokens": row.get("stop_tokens") or PYTHON_STOPS}


def _mbpp(row: dict[str, Any]) -> dict[str, Any]:
    # The sanitized hub configuration calls the text `prompt`, and its imports `test_imports`.
    text = rows.need(row, "text" if "text" in row else "prompt")
    asserts = [str(line) for line in rows.need(row, "test_list", list)]
    if not asserts:
        raise RowError("field 'test_list' is empty", rows.where(row))
    setup = [*(row.get("test_imports") or ()), *([row["test_setup_code"]] if row.get("test_setup_code") else ())]
    lines = [line.replace("\r\n", "\n") for line in [*setup, *asserts, *(row.get("challenge_test_list") or ())]]
    solution = str(row.get("code") or "").replace("\r\n", "\n")
    made = {
        "task_id": f"Mbpp/{rows.task_id(row).rpartition('/')[2]}",
        "language": "py",
        "prompt": mbpp_prompt(text, asserts[0]),
        "tests": "\n" + "\n".join(lines) + "\n",
        "entry_point": _called(asserts[0], solution),
        "stop_tokens": MBPP_STOPS,
    }
    if solution:
        made["canonical_solution"] = solution + "\n"
    return made | {key: row[key] for key in ("split", "sanitized") if key in row}


def mbpp_prompt(text: str, first_assert: str) -> str:
    '''A docstring of the task and one example: """\\nTEXT\\nassert f(1) == 2\\n"""\\n, as EvalPlus has it.'''
    body = f"{text.strip()}\n{first_assert.strip()}".replace("\r\n", "\n").replace("\\", "\\\\").replace('"""', "'''")
    return f'"""\n{body}\n"""\n'


def _called(statement: str, solution: str) -> str | None:
    """The function that an assert is about: one that the solution defines, or else the innermost call's name."""
    try:
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(statement.strip()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
    except (SyntaxError, ValueError):
        calls = re.findall(r"(\w+)\s*\(", statement)
    defined = set(re.findall(r"^def\s+(\w+)", solution, re.M))
    named = [call for call in calls if call in defined] or [call for call in calls if call not in _BUILTINS]
    return named[0] if named else (calls[0] if calls else None)


_BUILTINS = {
    "set",
    "sorted",
    "list",
    "tuple",
    "len",
    "abs",
    "round",
    "str",
    "int",
    "float",
    "dict",
    "sum",
    "max",
    "min",
}


def _evalplus(row: dict[str, Any]) -> dict[str, Any]:
    mbpp = str(row.get("task_id", "")).lower().startswith("mbpp")
    kept = {
        key: value for key, value in row.items() if key not in ("base_input", "plus_input", "contract", "assertion")
    }
    made = {**kept, "task_id": rows.task_id(row), "language": "py"}
    made["stop_tokens"] = row.get("stop_tokens") or (MBPP_STOPS if mbpp else PYTHON_STOPS)
    if "test" not in row or row.get("plus_input"):
        made["tests"] = evalplus_tests.text(row)
        # HumanEval's own check() travels in HumanEval+ too; it is part of the base inputs.
        made.pop("test", None)
    return made


def _multipl_e(row: dict[str, Any]) -> dict[str, Any]:
    made = {"task_id": rows.need(row, "name"), **{key: value for key, value in row.items() if key != "name"}}
    made["language"] = rows.language_code(rows.need(row, "language"))
    # MultiPL-E runs a Python program as a script; HumanEval's, MBPP's and EvalPlus' harnesses execute it as a module.
    return made | ({"run_as_main": True} if made["language"] == "py" else {})


def _humanevalpack(row: dict[str, Any]) -> dict[str, Any]:
    task = rows.task_id(row)
    language = _PACK.get(task.partition("/")[0]) or rows.language_code(str(row.get("language") or "py"))
    made = {**row, "task_id": task, "language": language}
    if language == "py":
        made["stop_tokens"] = PYTHON_STOPS
    elif language == "go":
        made["prompt"] = go_prompt(row, str(row.get("canonical_solution") or ""))
    return made


def go_prompt(row: dict[str, Any], solution: str) -> str:
    """The test's package clause and imports, then those of the prompt that are not among them, then the rest.

    Go takes neither doubled nor idle imports: only what `solution` uses is imported.
    """
    setup, own = str(row.get("test_setup") or ""), str(row.get("import") or "")
    body = rows.need(row, "prompt")
    if not setup:
        return body
    body = body.replace(own, "", 1) if own else body
    program = body + solution
    used = [
        name
        for name in dict.fromkeys([*re.findall(r'"([\w/.]+)"', own), *_GO_PACKAGES])
        if re.search(rf"\b{name.rpartition('/')[2]}\.\w", program) and f'"{name}"' not in setup
    ]
    return setup.rstrip("\n") + "\n\n" + "".join(f'import "{name}"\n' for name in used) + "\n" + body.lstrip("\n")


_GO_PACKAGES = [
    "bytes",
    "crypto/md5",
    "errors",
    "fmt",
    "math",
    "math/rand",
    "regexp",
    "sort",
    "strconv",
    "strings",
    "unicode",
]

_MAKERS = {
    "rrk": _rrk,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "evalplus": _evalplus,
    "multipl-e": _multipl_e,
    "humanevalpack": _humanevalpack,
    **case_benchmarks.MAKERS,
}

# ---- the hub ---------------------------------------------------------------------------------------------------------


def hub(
    source: str, language: str | None = None, dataset: str = "humaneval", split: str | None = None
) -> Iterator[dict]:
    """Raw rows of a benchmark from the hub. RrkError (one line, with the remedy) where it cannot be had."""
    name, config, default = _address(source, language, dataset)
    try:
        from datasets import load_dataset
    except ImportError:
        raise RrkError("the hub needs `datasets`: pip install 'rrk[hub]'; or give a local file with --file") from None
    try:
        loaded = load_dataset(name, config, split=split or default)
    except Exception as error:  # every layer below has its own kinds, and all of them mean the same here
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RrkError(
            f"cannot get {name}{f' ({config})' if config else ''} from the hub: {first}; give a local copy with --file"
        ) from error
    for row in loaded:
        yield _from_hub(source, dict(row))


def _address(source: str, language: str | None, dataset: str) -> tuple[str, str | None, str]:
    if source in case_benchmarks.HUB:
        return case_benchmarks.HUB[source]
    if source == "humaneval":
        return "openai/openai_humaneval", None, "test"
    if source == "mbpp":
        return "google-research-datasets/mbpp", "full", "test"
    if source == "humaneval+":
        return "evalplus/humanevalplus", None, "test"
    if source == "mbpp+":
        return "evalplus/mbppplus", None, "test"
    if source == "humanevalpack":
        code = rows.language_code(language or "py")
        names = {"py": "python", "rs": "rust"}
        return "bigcode/humanevalpack", names.get(code, code), "test"
    if source == "multipl-e":
        if not language:
            raise UsageError("multipl-e needs --language, as --language cpp")
        if dataset not in ("humaneval", "mbpp"):
            raise UsageError("--dataset is humaneval or mbpp")
        return "nuprl/MultiPL-E", f"{dataset}-{rows.language_code(language)}", "test"
    raise UsageError(f"no benchmark '{source}'; there are {', '.join(SOURCES)}, or a local file")


def _from_hub(source: str, row: dict[str, Any]) -> dict[str, Any]:
    """What the hub's copies have otherwise than the originals' files."""
    if source == "mbpp+" and "code" in row and "test" in row:
        # The hub's copy: no prompt of its own, numbers as ids, the tests as one text.
        first = str((row.get("test_list") or [""])[0])
        return {
            "task_id": f"Mbpp/{row['task_id']}",
            "language": "py",
            "prompt": mbpp_prompt(str(row.get("prompt") or row.get("text")), first),
            "entry_point": _called(first, str(row["code"])),
            "canonical_solution": str(row["code"]) + "\n",
            "tests": "\n" + str(row["test"]) + "\n",
            "stop_tokens": MBPP_STOPS,
        }
    return row


def is_file(source: str) -> bool:
    """A source that names a file rather than a benchmark."""
    return source == "-" or PurePath(source).suffix != "" or "/" in source
