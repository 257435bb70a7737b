"""`rrk.json`: what made a trained folder. Written last, so a folder that has one is complete.

manifest.write(folder, command="train-sft", params={...}, inputs=["solutions.jsonl"], seed=0, figures={"loss": 0.4})
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from rrk import __version__
from rrk.errors import RrkError, UsageError

NAME = "rrk.json"
_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")


def write(
    folder: str | Path,
    *,
    command: str,
    params: Mapping[str, Any],
    inputs: Iterable[str] = (),
    seed: int | None = None,
    figures: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
    problems: Iterable[str] = (),
    chosen_by: Iterable[str] = (),
) -> None:
    """Write the manifest by rename; every other file of the folder must be there already. `cost`: see rrk/costs.py.

    `problems`: the base problems that it was trained on; those of all inputs that are trained folders are added, so that every
    manifest names the problems of all rounds before it. `chosen_by`: those that picked the checkpoint.
    """
    inputs = list(inputs)
    before = [found for path in inputs if os.path.isdir(path) and (found := read(path))]
    seen = {name: sorted({*own, *(p for one in before for p in one.get(name, ()))}, key=_natural)
            for name, own in (("problems", problems), ("chosen_by", chosen_by))}  # fmt: skip
    record = {
        "command": command,
        "rrk": __version__,
        "python": platform.python_version(),
        "libraries": versions(_LIBRARIES),
        "params": dict(params),
        "seed": seed,
        "inputs": {str(path): digest(path) for path in inputs},
        "figures": dict(figures or {}),
        **({"cost": dict(cost)} if cost else {}),
        **seen,
    }
    target = Path(folder) / NAME
    part = target.with_suffix(".json.part")
    part.write_bytes(
        orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    )
    os.replace(part, target)


def _natural(name: str) -> list[tuple[int, str]]:
    """HumanEval/2 before HumanEval/10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def read(folder: str | Path) -> dict[str, Any] | None:
    """The manifest, or None where the folder has none (it is not ours, or not complete)."""
    try:
        return orjson.loads((Path(folder) / NAME).read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError as error:
        raise RrkError(f"{folder}/{NAME}: damaged ({error}); train again") from None


def complete(folder: str | Path, params: Mapping[str, Any]) -> bool:
    """True if the folder is finished with these parameters; UsageError if it is finished with others."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise UsageError(f"-o {folder}: is a file; give a folder's name")
    found = read(folder)
    if found is None:
        return False
    wanted = orjson.loads(orjson.dumps(dict(params), option=orjson.OPT_NON_STR_KEYS))
    if found["params"] != wanted:
        changed = sorted(k for k in {*found["params"], *wanted} if found["params"].get(k) != wanted.get(k))
        raise UsageError(
            f"{folder} was made with other parameters ({', '.join(changed)}); choose another -o or remove it"
        )
    return True


def digest(path: str | Path) -> str | None:
    """blake2b of a file; of a folder: of its manifest; None for what cannot be read again (a pipe, a hub name)."""
    path = Path(path)
    if path.is_dir():
        path = path / NAME
    if not path.is_file():
        return None
    state = blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions, without importing anything."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
