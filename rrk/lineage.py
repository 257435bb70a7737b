"""What a file of rows was made from, back through stages and the models that they used.

    found = trace(["scored.jsonl"])
    found.stages        # [{"stage": "rerank", "params": {...}, "cost": {...}}, {"stage": "sample", ...}], newest first
    found.models        # {"runs/reranker": manifest, "runs/sft": ...}: those used, and those that they were made from

A stage with `-o FILE` leaves a record beside it (rrk/sinks.py); it is followed from file to file. What came through a pipe
ends the trail, and so does a file that was changed since it was made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrk import jsonl, manifest, sinks


@dataclass
class Lineage:
    """`cut`: files whose making is not known."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)


def trace(paths: Iterable[str]) -> Lineage:
    """Follow these files back."""
    found, seen = Lineage(), set()
    todo = [str(path) for path in paths]
    while todo:
        path = todo.pop(0)
        if (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        record = sinks.made(path) if path != "-" and os.path.isfile(path) else None
        if record is None:
            found.cut.append(path)
            continue
        folder = Path(real).parent
        params = record.get("params") or {}
        stage = {"stage": record.get("stage"), "params": params, "cost": record.get("cost") or {}}
        found.stages.append({**stage, "items": record.get("items"), "file": path})
        if isinstance(model := params.get("model"), str):
            found.models |= models(_near(model, folder))
        todo += [name if name == "-" else os.path.join(folder, name) for name in record.get("inputs") or ["-"]]
    return found


def models(path: str | Path) -> dict[str, dict[str, Any]]:
    """The manifests of a trained folder and of what it was trained from, its own first; {} where there is none."""
    found: dict[str, dict[str, Any]] = {}
    todo = [str(path)]
    while todo:
        folder = todo.pop(0)
        record = _record(folder) if folder not in found else None
        if record is None:
            continue
        found[folder] = record
        params = record.get("params") or {}
        given = [params[name] for name in ("model", "reranker") if isinstance(params.get(name), str)]
        todo += [_near(name, Path(folder)) for name in given]
    return found


def trained_on(models: Mapping[str, Mapping[str, Any]], field: str = "problems") -> dict[str, list[str]]:
    """Base problem -> the models that were trained on it (`chosen_by`: picked by it)."""
    found: dict[str, list[str]] = {}
    for name, record in models.items():
        for problem in record.get(field) or ():
            found.setdefault(problem, []).append(name)
    return found


def _record(path: str) -> dict[str, Any] | None:
    """The manifest of a folder; of a fusion file the problems that it knows, unless each is scored by a member without it."""
    if os.path.isdir(path):
        return manifest.read(path)
    if not path.endswith(".json") or not os.path.isfile(path):
        return None
    try:
        found = jsonl.loads(Path(path).read_bytes())
        return {"problems": found["problems"] if len(found["members"]) < 2 else [], "params": {}}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _near(name: str, folder: Path) -> str:
    """A folder that was named from where the command ran: from here, or from a folder above what it made."""
    if os.path.isabs(name) or os.path.exists(name):
        return name
    return next((str(up / name) for up in folder.resolve().parents if (up / name).exists()), name)
