"""vLLM without a server: what `vllm run-batch` writes, and the outputs of LLM.generate written as JSON.

    {"custom_id": "HumanEval/0", "response": {"body": {"choices": [{"message": {"content": ...}}, ...]}}, "error": null}
    {"prompt": ..., "outputs": [{"text": ..., "cumulative_logprob": ..., "token_ids": [...], "finish_reason": ...}, ...]}

The first names its problem by `custom_id` (several requests of one problem as HumanEval/0#0, HumanEval/0#1, ...), the second by
`task_id`, or by its prompt among the problems. Chat answers come as they are: `rrk convert --code` takes the program out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError


def read(paths: Sequence[str], problems: Collection[rows.Problem] = ()) -> Iterator[dict[str, Any]]:
    """A candidate a choice, numbered within its problem."""
    by_prompt = {problem.prompt: problem for problem in problems}
    by_name = {problem.task_id: problem for problem in problems}
    count: dict[str, int] = {}
    for row in jsonl.read(paths):
        if isinstance(row.get("outputs"), list):
            name = rows.task_id(row) if "task_id" in row else None
            problem = by_name.get(name) if name else by_prompt.get(str(row.get("prompt")))
            if problem is None and name is None:
                raise RowError(
                    "no field 'task_id', and its prompt is no problem's: give the problems with -p", row.where
                )
            prompt = row.get("prompt")
            found = [_generated(row, item) for item in row["outputs"]]
        else:
            given = rows.need(row, "custom_id", str, "output of vllm run-batch, or rows with 'outputs', are expected")
            name = given if given in by_name else re.sub(r"#\d+$", "", given)
            problem = by_name.get(name)
            prompt = None
            found = _answered(row)
        task = problem.task_id if problem else str(name)
        for fields in found:
            count[task] = count.get(task, -1) + 1
            out: dict[str, Any] = {
                "task_id": task,
                "language": problem.language if problem else str(row.get("language") or "py"),
            }
            if problem is not None or isinstance(prompt, str):
                out["prompt"] = problem.prompt if problem else prompt
            yield jsonl.Row({**out, "completion_id": count[task], **fields}, row.where)


def _generated(row: jsonl.Row, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise RowError("an output without 'text'", row.where)
    out: dict[str, Any] = {"completion": item["text"]}
    if isinstance(item.get("cumulative_logprob"), (int, float)):
        out["logprob"] = item["cumulative_logprob"]
    if isinstance(item.get("token_ids"), list):
        out["tokens"] = len(item["token_ids"])
    return out | ({"finish_reason": item["finish_reason"]} if item.get("finish_reason") else {})


def _answered(row: jsonl.Row) -> list[dict[str, Any]]:
    response = row.get("response")
    body = response.get("body", response) if isinstance(response, dict) else None
    choices = body.get("choices") if isinstance(body, dict) else None
    if row.get("error") or not isinstance(choices, list):
        raise RowError(
            f"its request failed ({str(row.get('error'))[:200]}): ask again, or leave the row out", row.where
        )
    found = []
    for choice in sorted(choices, key=lambda choice: choice.get("index") or 0):
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else choice.get("text")
        if not isinstance(text, str):
            raise RowError("a choice without text", row.where)
        out = {"completion": text, **({"model": body["model"]} if body and body.get("model") else {})}
        found.append(out | ({"finish_reason": choice["finish_reason"]} if choice.get("finish_reason") else {}))
    return found
