"""Was a model trained on what it is measured on?

    found = seen(problems, history.models)     # {"trained_on": {"HumanEval/7": ["runs/sft"]}, "chosen_by": {...}}
    refuse(found)                              # RrkError that names them
    remarks(found)

Every manifest names the base problems that the model and those before it were trained on (rrk/manifest.py), so a translation of
a problem is the problem. Problems that picked a checkpoint flatter it a little: that is told, not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rrk.errors import RrkError
from rrk.lineage import Lineage, models, trace, trained_on

_NAMED = 12  # problems that a message names


def history(paths: Iterable[str], names: Iterable[str] = ()) -> Lineage:
    """What these files were made from, and with which models; `names`: more models, such as those that rows name."""
    found = trace(paths)
    for name in names:
        if name:
            found.models |= models(name)
    return found


def seen(problems: Iterable[str], known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Of these base problems, those that models were trained on or chosen by, with the models."""
    wanted = list(dict.fromkeys(problems))
    found = {}
    for name, field in (("trained_on", "problems"), ("chosen_by", "chosen_by")):
        by = trained_on(known, field)
        if hits := {problem: by[problem] for problem in wanted if problem in by}:
            found[name] = hits
    return found


def refuse(found: Mapping[str, Mapping[str, list[str]]], allow: bool = False) -> None:
    """RrkError if a model was trained on problems that are to be measured, unless `allow`."""
    if not allow and (hits := found.get("trained_on")):
        raise RrkError(
            f"{_counted(hits)} trained on by {_models(hits)}: {_names(hits)}; figures on them say nothing of new problems. "
            "Leave them out, or give --allow-seen"
        )


def remarks(found: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """What a report must say of it."""
    said = []
    if hits := found.get("trained_on"):
        said.append(f"--allow-seen: {_counted(hits)} trained on by {_models(hits)}; this says nothing of new problems")
    if hits := found.get("chosen_by"):
        were = "1 problem" if len(hits) == 1 else f"{len(hits)} problems"
        said.append(f"{were} of these picked the checkpoint of {_models(hits)}")
    return said


def _counted(hits: Mapping[str, Any]) -> str:
    return "1 problem was" if len(hits) == 1 else f"{len(hits)} problems were"


def _models(hits: Mapping[str, list[str]]) -> str:
    return ", ".join(dict.fromkeys(model for models in hits.values() for model in models))


def _names(hits: Mapping[str, Any]) -> str:
    names = list(hits)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
