"""MultiPL-E: a folder with a file a problem, NAME.json.gz (`completions`) and NAME.results.json.gz (`results`).

    for row in read(["out/HumanEval_0.results.json.gz"]): ...
    write(rows, Path("out"), problems)

Results hold the whole program with its tests; the completion is cut out of it by the prompt and tests that the same file has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rrk import rows
from rrk.errors import RowError, RrkError, UsageError
from rrk.formats.common import Problems, dump, find, load


def read(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.name.endswith((".json", ".json.gz")))
        else:
            files.append(path)
    names = {str(p) for p in files}
    for path in files:
        results = ".results.json" in path.name
        if not results and str(path).replace(".json", ".results.json") in names:
            continue  # its results say more
        yield from _file(path)
    if not files:
        raise UsageError(f"{', '.join(map(str, paths))}: no .json or .json.gz of MultiPL-E there")


def _file(path: Path) -> Iterator[dict[str, Any]]:
    value = load(str(path))
    if not isinstance(value, dict) or not {"results", "completions"} & value.keys():
        raise RrkError(f"{path}: not a file of MultiPL-E: neither 'completions' nor 'results'")
    name = str(value.get("name") or path.name.split(".")[0])
    common = {"task_id": name, "language": rows.language_code(str(value.get("language", "py")))}
    if isinstance(value.get("prompt"), str):
        common["prompt"] = value["prompt"]
    settings = {key: value[key] for key in ("temperature", "top_p", "max_tokens") if value.get(key) is not None}
    if "results" not in value:
        for number, text in enumerate(value["completions"]):
            yield {**common, "completion_id": number, "completion": str(text), **settings}
        return
    sibling = path.with_name(path.name.replace(".results.json", ".json"))
    drawn = load(str(sibling)).get("completions") if sibling != path and sibling.is_file() else None
    if isinstance(drawn, list) and len(drawn) != len(value["results"]):
        raise RrkError(
            f"{path}: {len(value['results'])} results for {len(drawn)} completions: its evaluation did not end; run it again, "
            f"or convert {sibling.name} alone and judge it by rrk execute"
        )
    for number, result in enumerate(value["results"]):
        program, status = str(result.get("program", "")), str(result.get("status", "Exception"))
        row = {**common, "completion_id": number, **_cut(program, value), **settings}
        # MultiPL-E counts as passed what ended with OK and exit code 0.
        passed = status == "OK" and result.get("exit_code") == 0
        row |= {"passed": passed, "status": status if passed or status != "OK" else "Exception"}
        yield row | {key: result[key] for key in ("exit_code", "stdout", "stderr") if key in result}


def _cut(program: str, value: Mapping[str, Any]) -> dict[str, str]:
    """The completion in program = prompt + completion + newline + tests."""
    prompt, tests = value.get("prompt"), value.get("tests")
    if isinstance(prompt, str) and isinstance(tests, str) and program.startswith(prompt) and program.endswith(tests):
        middle = program[len(prompt) : len(program) - len(tests)]
        return {"completion": middle.removesuffix("\n")}
    raise RrkError(
        f"{value.get('name')}: its program is not prompt + completion + tests; convert the .json.gz with 'completions' instead"
    )


def write(source: Iterable[dict[str, Any]], folder: Path, problems: Problems | None) -> int:
    """NAME.json.gz a problem, and NAME.results.json.gz where all its rows have verdicts."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in source:
        groups.setdefault((rows.task_id(row), rows.language_code(str(row.get("language") or "py"))), []).append(row)
    if len({task for task, _ in groups}) < len(groups):
        raise UsageError("several languages under one task: MultiPL-E has a folder a language; convert one at a time")
    folder.mkdir(parents=True, exist_ok=True)
    for (task, language), group in groups.items():
        problem = find(problems, group[0])
        prompt = problem.prompt if problem else group[0].get("prompt")
        if not isinstance(prompt, str):
            raise RowError("no field 'prompt'; give the problems with -p", rows.where(group[0]))
        if any(rows.is_full(row) for row in group):
            raise RowError("a whole program: MultiPL-E has completions of the prompt only", rows.where(group[0]))
        common = {
            "name": task,
            "language": language,
            "temperature": group[0].get("temperature"),
            "top_p": group[0].get("top_p"),
            "max_tokens": group[0].get("max_tokens"),
            "prompt": prompt,
            "tests": problem.tests if problem else "",
            "stop_tokens": list(problem.stop_tokens) if problem else [],
        }
        stem = task.replace("/", "_")
        dump(folder / f"{stem}.json.gz", {**common, "completions": [rows.completion(row) for row in group]})
        if all(isinstance(row.get("passed"), bool) for row in group):
            dump(folder / f"{stem}.results.json.gz", {**common, "results": [_result(r, common) for r in group]})
    return sum(map(len, groups.values()))


def _result(row: dict[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    passed = row["passed"]
    return {
        "program": common["prompt"] + rows.completion(row) + "\n" + common["tests"],
        "stdout": str(row.get("stdout") or ""),
        "stderr": str(row.get("stderr") or ""),
        "exit_code": row["exit_code"] if isinstance(row.get("exit_code"), int) else 0 if passed else 1,
        "status": "OK" if passed else row.get("status") or "Exception",
    }
