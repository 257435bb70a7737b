"""Other tools' files to rows and back.

    for row in read("multipl-e", ["out/HumanEval_0.results.json.gz"], problems): ...
    write("bigcode", rows, "generations.json", problems)

| format | what |
|---|---|
| rrk | rows as they are |
| human-eval | samples (`task_id, completion`), and with verdicts what evaluate_functional_correctness writes (`passed, result`) |
| evalplus | samples (`task_id, solution`: whole programs); in also a folder of them, and eval_results.json of EvalPlus 0.3 |
| multipl-e | a folder with a file a problem: NAME.json.gz (`completions`), NAME.results.json.gz (`results`) |
| bigcode | generations.json: a list of whole programs a problem, in the order of the problems file |
| trl | `prompt, chosen, rejected` (texts or messages): candidates with verdicts in (also `prompt, completion, label`); out: labelled |
|     | completions of candidates, plain preferences of rrk's pairs |
| evalplus-results, lm-eval, vllm, acecode-pair, reward-bench, trl-messages | rrk/formats |

MultiPL-E's results hold the whole program with its tests; the completion is cut out of it by the prompt and tests that the
same file has. What a format has no place for is left behind on the way out, so rows are the file to keep.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rrk import formats, jsonl, outputs, rows
from rrk.errors import RowError, RrkError, UsageError
from rrk.formats import evalplus

OWN = ("rrk", "human-eval", "evalplus", "multipl-e", "bigcode", "trl")
SOURCES = (*OWN, *formats.IN)
TARGETS = (*OWN, *formats.OUT, formats.RESULTS)
Problems = Mapping[tuple[str, str], rows.Problem]  # by task_id and language, in the order of their file


def read(form: str, paths: Sequence[str], problems: Problems | None = None) -> Iterator[dict[str, Any]]:
    """Candidate rows of files in one format; RrkError where a file is not of that format."""
    if form == "multipl-e":
        return _read_multipl_e(paths)
    if form == "bigcode":
        return _read_bigcode(paths, problems)
    if form == "evalplus":
        return _numbered(_read_evalplus(paths))
    if form == "human-eval":
        return _numbered(_human_eval(row) for row in jsonl.read(paths))
    if form == "trl":
        return _read_trl(paths)
    if form in formats.IN:
        return formats.IN[form](paths, (problems or {}).values())
    return jsonl.read(paths)


def write(form: str, source: Iterable[dict[str, Any]], output: str, problems: Problems | None = None) -> int:
    """Write rows in one format to a file (a folder for multipl-e); returns how many."""
    if form == "multipl-e":
        return _write_multipl_e(source, Path(output), problems)
    if form == "bigcode":
        return _write_bigcode(source, output, problems)
    if form == formats.RESULTS:
        value, count = evalplus.results(source, lambda row: _whole(row, problems))
        with outputs.whole(output) as sink:
            sink.write(json.dumps(value).encode("ascii"))
        return count
    return jsonl.write(output, lines(form, source, problems))


def lines(form: str, source: Iterable[dict[str, Any]], problems: Problems | None = None) -> Iterator[dict[str, Any]]:
    """Rows in a format that is JSON Lines, one by one (for a pipe)."""
    turn: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "rrk": lambda row: row,
        "human-eval": lambda row: _to_human_eval(row, problems),
        "evalplus": lambda row: {"task_id": rows.task_id(row), "solution": _whole(row, problems)},
        "trl": lambda row: _to_trl(row, problems),
        **{name: partial(_with_prompt, turn, problems) for name, turn in formats.OUT.items()},
    }
    if form not in turn:
        raise UsageError(f"{form} is no JSON Lines format: give -o {'DIR' if form == 'multipl-e' else 'FILE'}")
    return map(turn[form], source)


def _with_prompt(
    turn: Callable[[dict[str, Any], str | None], dict[str, Any]], problems: Problems | None, row: dict[str, Any]
) -> dict[str, Any]:
    return turn(row, _prompt(row, problems))


# What stages found out about a text, which a shorter text must not inherit: of sample, execute, and rerank.
FOUND_OUT = {"logprob", "tokens", "finish_reason", "evidence", "score", "rank", "confidence"}
FOUND_OUT |= {"passed", "status", "reason", "integrity", "stdout", "stderr", "exit_code"}
FOUND_OUT |= {"time", "time_wall", "max_rss", "sandbox"}


def cut(
    source: Iterable[dict[str, Any]], stops: Sequence[str], problems: Problems | None, count: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Candidates ended before the first of `stops` and of their problem's stop tokens; whole programs stay as they are.

    What base models write behind the function they were asked for: Chen et al. 2021, section 3.1. A completion that begins
    with its prompt, or with the signature, once more is not ended there: only what follows the repeated part is looked at. A
    row that lost text loses its verdict, scores and log-probability too. `count` has the rows that were "cut", and those
    "without their function" after it.
    """
    for row in source:
        text = rows.completion(row)
        problem = find(problems, row)
        prompt = _prompt(row, problems) or ""
        start = _repeated(text, prompt, problem.entry_point if problem else row.get("entry_point"))
        ends = [text.find(stop, start) for stop in {*stops, *(problem.stop_tokens if problem else ())} if stop]
        end = min((at for at in ends if at >= 0), default=None)
        if end is None or rows.is_full(row):
            yield row
        else:
            count["cut"] += 1
            count["without their function"] += bool(text.strip()) and not text[:end].strip()
            yield {k: v for k, v in row.items() if k not in FOUND_OUT} | {"completion": text[:end]}


def _repeated(text: str, prompt: str, entry: Any) -> int:
    """Where the part ends that a completion repeats of its prompt: all of it, or the signature. 0 if it repeats nothing."""
    told = prompt.strip()
    lead = len(text) - len(text.lstrip())
    if told and text.startswith(told, lead):
        return lead + len(told)
    if isinstance(entry, str) and entry:
        header = re.search(rf"(?m)^(?:async )?def {re.escape(entry)}\b[^\n]*", text)
        # Before it there may be imports; anything else is what should have been cut.
        if header and re.fullmatch(r"(?:\s*(?:from\s.*|import\s.*)?\n?)*", text[: header.start()]):
            return header.end()
    return 0


def find(problems: Problems | None, row: Mapping[str, Any]) -> rows.Problem | None:
    """A row's problem. A row that names no language belongs to the only problem of its name."""
    if not problems:
        return None
    own = dict(row)
    if found := problems.get(rows.problem_key(own)):
        return found
    same = (
        [problem for (task, _), problem in problems.items() if task == rows.task_id(own)]
        if "language" not in own
        else []
    )
    return same[0] if len(same) == 1 else None


def entry_point(row: Mapping[str, Any], problems: Problems | None) -> str | None:
    """The function that a row's problem asks for, if the row or the problem says so."""
    problem = find(problems, row)
    own = problem.entry_point if problem else row.get("entry_point")
    return own if isinstance(own, str) and own else None


def renamed(source: Iterable[dict[str, Any]], field: str) -> Iterator[dict[str, Any]]:
    """Rows whose program stands in another field: a text becomes `completion`, a list of texts a row each."""
    for row in source:
        value = rows.need(row, field, (str, list))
        rest = {key: item for key, item in row.items() if key != field}
        if isinstance(value, str):
            yield jsonl.Row({**rest, "completion": value}, rows.where(row))
            continue
        if not all(isinstance(text, str) for text in value):
            raise RowError(f"field '{field}' must be a list of texts", rows.where(row))
        for number, text in enumerate(value):
            yield jsonl.Row({**rest, "completion_id": number, "completion": text}, rows.where(row))


# ---- human-eval, evalplus ----------------------------------------------------------------------------------


def _human_eval(row: jsonl.Row) -> dict[str, Any]:
    """human-eval's `result` becomes a status; everything else stays."""
    rows.task_id(row)
    rows.completion(row)
    out: dict[str, Any] = jsonl.Row(row, row.where)
    result = row.get("result")
    if isinstance(row.get("passed"), bool) and isinstance(result, str) and "status" not in row:
        out["status"] = "OK" if row["passed"] else "Timeout" if result == "timed out" else "Exception"
        if result.startswith("failed: ") and "stderr" not in row:
            out["stderr"] = result.removeprefix("failed: ")
    return out


def _to_human_eval(row: dict[str, Any], problems: Problems | None) -> dict[str, Any]:
    task = rows.task_id(row)
    text = rows.completion(row)
    if rows.is_full(row):
        # human-eval puts the prompt before every completion.
        prompt = _prompt(row, problems)
        if prompt is None:
            raise RowError("a whole program: give the problems with -p, to cut their prompt off", rows.where(row))
        if not text.startswith(prompt):
            text = "\n" + text  # after the prompt, the program defines its functions once more
        else:
            text = text[len(prompt) :]
    out: dict[str, Any] = {"task_id": task, "completion": text}
    if isinstance(row.get("passed"), bool):
        passed = row["passed"]
        failed = "timed out" if row.get("status") == "Timeout" else f"failed: {row.get('status') or 'Exception'}"
        out |= {"result": "passed" if passed else failed, "passed": passed}
    return out


def _read_evalplus(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    for path in paths:
        if path != jsonl.STDIN and Path(path).is_dir():
            yield from evalplus.folder(path)
            continue
        results = _evalplus_results(path) if path != jsonl.STDIN else None
        if results is None:
            for row in jsonl.read([path]):
                rows.task_id(row)
                rows.completion(row)
                full = "solution" in row and "completion" not in row
                yield jsonl.Row({**row, **({"completion_kind": "full"} if full else {})}, row.where)
            continue
        for task, found in results.items():
            if not isinstance(found, list):
                raise RrkError(f"{path}: results without programs (EvalPlus before 0.3); convert its samples instead")
            for one in found:
                # plus_status is null where only the base tests were run.
                said = [one.get("base_status"), one.get("plus_status")]
                passed = all(status in ("pass", None) for status in said) and "pass" in said
                status = "OK" if passed else "Timeout" if "timeout" in said else "Exception"
                yield {
                    "task_id": task,
                    "language": "py",
                    "solution": str(one["solution"]),
                    "completion_kind": "full",
                    "passed": passed,
                    "status": status,
                    "base_status": said[0],
                    "plus_status": said[1],
                }


def _evalplus_results(path: str) -> dict[str, Any] | None:
    """The `eval` part of an eval_results.json, or None if the file is samples."""
    if not path.endswith((".json", ".json.gz")):
        return None
    value = _load(path)
    if not isinstance(value, dict) or not isinstance(value.get("eval"), dict):
        raise RrkError(f"{path}: neither EvalPlus samples (.jsonl) nor its eval_results.json")
    return value["eval"]


def _numbered(source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """With completion_id counted within each problem, where there is none, and the language (both are Python)."""
    count: dict[str, int] = {}
    for row in source:
        task = rows.task_id(row)
        number = count.get(task, 0)
        count[task] = number + 1
        row.setdefault("language", "py")
        row.setdefault("completion_id", number)
        yield row


# ---- MultiPL-E ---------------------------------------------------------------------------------------------


def _read_multipl_e(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
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
        yield from _multipl_e_file(path)
    if not files:
        raise UsageError(f"{', '.join(map(str, paths))}: no .json or .json.gz of MultiPL-E there")


def _multipl_e_file(path: Path) -> Iterator[dict[str, Any]]:
    value = _load(str(path))
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
    drawn = _load(str(sibling)).get("completions") if sibling != path and sibling.is_file() else None
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


def _write_multipl_e(source: Iterable[dict[str, Any]], folder: Path, problems: Problems | None) -> int:
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
        _dump(folder / f"{stem}.json.gz", {**common, "completions": [rows.completion(row) for row in group]})
        if all(isinstance(row.get("passed"), bool) for row in group):
            _dump(folder / f"{stem}.results.json.gz", {**common, "results": [_result(r, common) for r in group]})
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


# ---- bigcode -----------------------------------------------------------------------------------------------


def _read_bigcode(paths: Sequence[str], problems: Problems | None) -> Iterator[dict[str, Any]]:
    if not problems:
        raise UsageError("generations.json names no problems: give them with -p, in the order they were generated in")
    for path in paths:
        value = _load(path)
        if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
            raise RrkError(f"{path}: a list of lists of programs is expected (generations.json)")
        for number, group in enumerate(value):
            if not all(isinstance(program, str) for program in group):
                raise RrkError(
                    f"{path}: problem {number} holds something else than programs (texts); generate it again"
                )
        if len(value) > len(problems):
            raise UsageError(f"{path}: {len(value)} problems, but -p has only {len(problems)}")
        # The harness takes the first problems where --limit was given.
        for problem, group in zip(problems.values(), value, strict=False):
            for number, program in enumerate(group):
                row = {
                    "task_id": problem.task_id,
                    "language": problem.language,
                    "prompt": problem.prompt,
                    "completion_id": number,
                }
                text = program
                if text.startswith(problem.prompt):
                    yield {**row, "completion": text[len(problem.prompt) :]}
                else:
                    yield {**row, "completion": text, "completion_kind": "full"}


def _write_bigcode(source: Iterable[dict[str, Any]], output: str, problems: Problems | None) -> int:
    groups: dict[tuple[str, str], list[str]] = {key: [] for key in problems or {}}
    count = 0
    for row in source:
        found = find(problems, row)
        if problems and found is None:
            raise RowError(f"'{rows.task_id(row)}' is not among the problems of -p", rows.where(row))
        key = (found.task_id, found.language) if found else rows.problem_key(row)
        groups.setdefault(key, []).append(_whole(row, problems))
        count += 1
    with outputs.whole(output) as sink:
        sink.write(json.dumps(list(groups.values())).encode("ascii"))
    return count


# ---- TRL ---------------------------------------------------------------------------------------------------


def _read_trl(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Preferences become one passing and one failing candidate, each once though it stands in several pairs; a labelled
    completion becomes one."""
    count: dict[str, int] = {}
    seen: set[tuple[str, str, bool]] = set()
    for pair in jsonl.read(paths):
        if "label" in pair:
            prompt, sides = _text(pair, "prompt"), [("completion", bool(rows.need(pair, "label", (bool, int))))]
        else:
            pair = _explicit(pair)
            prompt, sides = _text(pair, "prompt"), [("chosen", True), ("rejected", False)]
        task = str(
            pair.get("task_id")
            or pair.get("name")
            or "trl/" + blake2b(prompt.encode("utf-8", "replace"), digest_size=6).hexdigest()
        )
        for side, passed in sides:
            text = _text(pair, side)
            if side != "completion" and (task, text, passed) in seen:
                continue
            seen.add((task, text, passed))
            count[task] = count.get(task, -1) + 1
            yield {
                "task_id": task,
                "language": rows.language_code(str(pair.get("language") or "py")),
                "prompt": prompt,
                "completion_id": count[task],
                "completion": text,
                "passed": passed,
                "status": "OK" if passed else "Failed",
            }


def _explicit(pair: jsonl.Row) -> jsonl.Row:
    """A preference with its prompt in a field of its own: TRL also has it at the beginning of both conversations."""
    chosen, rejected = rows.need(pair, "chosen", (str, list)), rows.need(pair, "rejected", (str, list))
    if isinstance(chosen, list) and isinstance(rejected, list):
        given = pair.get("prompt")
        common = 0
        while common < min(len(chosen), len(rejected)) - 1 and chosen[common] == rejected[common]:
            common += 1
        if isinstance(given, list) and given and chosen[: len(given)] == given == rejected[: len(given)]:
            common = len(given)
        elif given is not None and not (
            isinstance(given, str) and common == 1 and chosen[0].get("content", "").strip() == given.strip()
        ):
            return pair
        if common:
            told = {"prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:]}
            return jsonl.Row({**pair, **told, **({"prompt": given} if given is not None else {})}, pair.where)
    if "prompt" not in pair:
        raise RowError("no field 'prompt', and chosen and rejected do not begin with the same messages", pair.where)
    return pair


def _text(row: jsonl.Row, field: str) -> str:
    """A text, or the contents of its messages."""
    value = rows.need(row, field, (str, list))
    if isinstance(value, str):
        return value
    if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in value):
        raise RowError(f"field '{field}': a text or messages with 'content' are expected", row.where)
    return "\n".join(turn["content"] for turn in value)


def _to_trl(row: dict[str, Any], problems: Problems | None) -> dict[str, Any]:
    if "chosen" in row and "rejected" in row:
        return {key: row[key] for key in ("prompt", "chosen", "rejected", "margin") if key in row}
    prompt = _prompt(row, problems)
    if prompt is None:
        raise RowError("no field 'prompt'; give the problems with -p", rows.where(row))
    verdict = rows.need(row, "passed", bool, "TRL wants a label: run rrk execute, and leave unjudged rows out")
    return {"prompt": prompt, "completion": rows.completion(row), "label": verdict}


# ---- shared ------------------------------------------------------------------------------------------------


def _prompt(row: Mapping[str, Any], problems: Problems | None) -> str | None:
    own = row.get("prompt")
    if isinstance(own, str):
        return own
    problem = find(problems, row)
    return problem.prompt if problem else None


def _whole(row: dict[str, Any], problems: Problems | None) -> str:
    return rows.program(row, _prompt(row, problems))


def _load(path: str) -> Any:
    with jsonl.open_binary(path) as stream:
        try:
            return jsonl.loads(stream.read())
        except (ValueError, gzip.BadGzipFile, EOFError) as error:
            raise RrkError(f"{path}: not JSON, or damaged ({error})") from None


def _dump(path: Path, value: Any) -> None:
    with outputs.whole(path) as raw, outputs.packed(raw, path.name) as sink:
        sink.write(json.dumps(value, indent=2).encode("ascii"))
