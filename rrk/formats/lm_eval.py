"""lm-evaluation-harness: what `--log_samples` writes for its code tasks (humaneval, mbpp and their kin).

A row is a document: `doc` (the benchmark's own row), `resps` (what the model wrote, a list a request), `filtered_resps` (what
the task's filter made of it: whole programs) and the metric's value. A document that stands once for each filter counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError


def read(paths: Sequence[str], problems: Collection[rows.Problem] = ()) -> Iterator[dict[str, Any]]:
    """A candidate a response; `passed` where the metric judged a single one."""
    seen: set[tuple[str, Any]] = set()
    names = {problem.task_id for problem in problems}
    for row in jsonl.read(paths):
        doc = rows.need(row, "doc", dict, "samples_*.jsonl of lm-eval --log_samples is expected")
        key = (row.where[0] if row.where else "", row.get("doc_id"))
        if key in seen and row.get("doc_id") is not None:
            continue  # another filter of the same responses
        seen.add(key)
        if "task_id" not in doc:
            raise RowError("its 'doc' has no 'task_id': not a code task", row.where)
        task = str(doc["task_id"])
        if task not in names and f"Mbpp/{task}" in names:
            task = f"Mbpp/{task}"  # its rows carry the number alone
        prompt = doc.get("prompt")
        texts = _texts(row.get("filtered_resps")) or _texts(row.get("resps"))
        if not texts:
            raise RowError("neither 'filtered_resps' nor 'resps' holds texts", row.where)
        verdict = next((row[name] for name in ("pass@1", "pass_at_1") if row.get(name) in (0, 1)), None)
        for number, text in enumerate(texts):
            out: dict[str, Any] = {"task_id": task, "language": "py", "completion_id": number}
            if isinstance(prompt, str):
                out["prompt"] = prompt
            if isinstance(prompt, str) and text.startswith(prompt):
                out["completion"] = text[len(prompt) :]
            elif row.get("filtered_resps") or not isinstance(prompt, str):
                out |= {"completion": text, "completion_kind": "full"}
            else:
                out["completion"] = text
            if verdict is not None and len(texts) == 1:
                out |= {"passed": bool(verdict), "status": "OK" if verdict else "Failed"}
            yield jsonl.Row(out, row.where)


def _texts(value: Any) -> list[str]:
    """The texts in lists of lists; none where anything else is in them."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    found = [_texts(item) for item in value]
    return [text for texts in found for text in texts] if all(found) else []
