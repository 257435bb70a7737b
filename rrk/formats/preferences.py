"""Preferences of others in, conversations for TRL out.

AceCodePair (`instruction, chosen, rejected`) becomes pairs, for train-reranker: its chosen programs passed more tests than
the rejected ones, not all of them, so neither is given a verdict. RewardBench (`prompt, chosen, rejected, subset, id`)
becomes two candidates a prompt, for rerank and eval: ranked pass@1 is its accuracy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from rrk import jsonl, rows
from rrk.errors import RowError

# RewardBench's code subsets, after HumanEvalPack.
_SUBSETS = {"hep-python": "py", "hep-cpp": "cpp", "hep-go": "go", "hep-java": "java", "hep-js": "js", "hep-rust": "rs"}


def read_acecode_pairs(paths: Sequence[str], problems: Collection[rows.Problem] = ()) -> Iterator[dict[str, Any]]:
    """rrk's pairs (`prompt, chosen, rejected`), with the fields that came with them."""
    for row in jsonl.read(paths):
        name = next((name for name in ("instruction", "prompt", "question") if name in row), "instruction")
        prompt = _text(row, name)
        if isinstance(row.get("input"), str) and row["input"]:
            prompt += "\n" + row["input"]
        pair = {"task_id": _task(row, "acecode", prompt), "language": "py", "prompt": prompt}
        pair |= {"chosen": _text(row, "chosen"), "rejected": _text(row, "rejected"), "kind": "given"}
        used = {*pair, name, "input", "id"}
        yield jsonl.Row({**pair, **{key: value for key, value in row.items() if key not in used}}, row.where)


def read_reward_bench(paths: Sequence[str], problems: Collection[rows.Problem] = ()) -> Iterator[dict[str, Any]]:
    """The chosen answer passed, the rejected one did not; subsets that are no code are in the language `text`."""
    for row in jsonl.read(paths):
        subset = str(rows.need(row, "subset", str, "RewardBench's rows have one"))
        prompt = _text(row, "prompt")
        task = f"{subset}/{row['id']}" if "id" in row else _task(row, subset, prompt)
        for number, side in enumerate(("chosen", "rejected")):
            out: dict[str, Any] = {"task_id": task, "language": _SUBSETS.get(subset, "text"), "prompt": prompt}
            out |= {
                "completion_id": number,
                "completion": _text(row, side),
                "completion_kind": "full",
                "subset": subset,
            }
            if row.get(f"{side}_model"):
                out["model"] = row[f"{side}_model"]
            yield jsonl.Row({**out, "passed": side == "chosen", "status": "OK" if number == 0 else "Failed"}, row.where)


def to_messages(row: dict[str, Any], prompt: str | None) -> dict[str, Any]:
    """A pair, or a candidate with or without verdict, as messages of a user and an assistant."""
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) else prompt
    if prompt is None:
        raise RowError("no field 'prompt'; give the problems with -p", rows.where(row))
    asked = [{"role": "user", "content": prompt}]
    if "chosen" in row and "rejected" in row:
        sides = {side: [{"role": "assistant", "content": rows.need(row, side)}] for side in ("chosen", "rejected")}
        return {"prompt": asked, **sides, **({"margin": row["margin"]} if "margin" in row else {})}
    out = {"prompt": asked, "completion": [{"role": "assistant", "content": rows.completion(row)}]}
    return out | ({"label": row["passed"]} if isinstance(row.get("passed"), bool) else {})


def _task(row: jsonl.Row, source: str, prompt: str) -> str:
    """The row's own name, or one that equal prompts share."""
    own = row.get("task_id") or row.get("id")
    return str(own) if own else f"{source}/" + blake2b(prompt.encode("utf-8", "replace"), digest_size=6).hexdigest()


def _text(row: jsonl.Row, field: str) -> str:
    """A text, or the last of the messages that it is given as."""
    value = rows.need(row, field, (str, list))
    if isinstance(value, str):
        return value
    last = value[-1] if value else None
    if not isinstance(last, dict) or not isinstance(last.get("content"), str):
        raise RowError(f"field '{field}': a text or messages with 'content' are expected", row.where)
    return str(last["content"])
