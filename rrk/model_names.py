"""A model's name on the command line: a folder here, or a name on the hub?

    model_names.check("runs/rerankr")     # UsageError: no such folder; did you mean runs/reranker?

Whatever is no folder goes to the hub, which is asked again and again before it gives up: a mistyped path must not get there.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from rrk.errors import UsageError

REACH_S = 5.0  # for a connection to the hub
# What a folder that can be given as a model holds one of.
_SIGNS = ("config.json", "adapter_config.json", "rrk.json")


def check(name: str, option: str = "-m") -> None:
    """UsageError where `name` is meant as a path and there is nothing; silent where it exists, or may be a hub name.

    Meant as a path: it begins with . or / or ~, ends in /, has more than one / (a hub name is OWNER/NAME), stands in a
    folder that exists, or differs by little from a model's folder that does.
    """
    path = Path(name)
    if path.exists():
        return
    near = _near(path)
    hub = name.count("/") <= 1 and not path.is_absolute()
    inside = "/" in name and (name.count("/") > 1 or name.endswith("/") or path.parent.is_dir())
    if not (inside or near or name.startswith((".", "/", "~"))):
        if hub and (why := _out_of_reach(name)):
            raise UsageError(f"{option} {name}: no such folder here, and the hub cannot be reached ({why})")
        return
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if not near and not path.parent.is_dir():
        hint = f" (nor a folder {path.parent})"
    raise UsageError(f"{option} {name}: no such folder{hint}")


def _out_of_reach(name: str) -> str:
    """Why the hub cannot be asked for a model that its cache does not hold; empty where it can, or is not to be."""
    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except ImportError:
        return ""  # told by whatever needs it
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    known = [try_to_load_from_cache(name, sign) for sign in _SIGNS]
    if constants.HF_HUB_OFFLINE or getproxies() or any(isinstance(file, str) for file in known):
        return ""
    at = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((at.hostname or "", at.port or 443), timeout=REACH_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _near(path: Path) -> list[str]:
    """Models in the same folder whose names are nearly this one, as the user would type them."""
    try:
        others = {entry.name: entry.path for entry in os.scandir(path.parent) if entry.is_dir() or entry.is_file()}
    except OSError:
        return []
    close = difflib.get_close_matches(path.name, others, n=2, cutoff=0.75)
    typed = [str(path.parent / name) for name in close]
    return [name for name in typed if any((Path(name) / sign).is_file() for sign in _SIGNS) or Path(name).is_file()]
