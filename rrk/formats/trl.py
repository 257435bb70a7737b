"""TRL: preferences and labelled completions in, labelled completions of candidates and plain preferences of pairs out.

for row in read(["preferences.jsonl"]): ...
to_row(row, problems)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError
from rrk.formats.common import Problems, prompt_of


def read(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
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


def to_row(row: dict[str, Any], problems: Problems | None) -> dict[str, Any]:
    if "chosen" in row and "rejected" in row:
        return {key: row[key] for key in ("prompt", "chosen", "rejected", "margin") if key in row}
    prompt = prompt_of(row, problems)
    if prompt is None:
        raise RowError("no field 'prompt'; give the problems with -p", rows.where(row))
    verdict = rows.need(row, "passed", bool, "TRL wants a label: run rrk execute, and leave unjudged rows out")
    return {"prompt": prompt, "completion": rows.completion(row), "label": verdict}
