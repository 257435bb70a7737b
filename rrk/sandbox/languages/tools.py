"""The programs of this machine that languages need: where they are, and which version.

    tool = find("javac", {"find": ["javac"], "version": ["-version"], "minimum": "11"})     # a table of sandboxes/LANG.toml
    tool.path, tool.version, tool.problem

Asked outside any box: they are the machine's own programs.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Where a tool may be besides PATH; documented in sandboxes/README.md.
PLACES = ("/usr/local/bin", "/usr/bin", "/opt/rrk/bin", "~/.local/share/rrk/bin", "~/.cargo/bin", "~/.local/bin")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin")  # every box shows these, read-only


@dataclass(frozen=True)
class Tool:
    """A program a language needs: path and version on this machine, or path None and the reason."""

    name: str
    path: str | None
    version: str | None
    optional: bool = False
    problem: str | None = None


def newest(path: str) -> str | None:
    """The last of the files that a pattern names, or None."""
    found = sorted(glob.glob(os.path.expanduser(path)))
    return found[-1] if found else None


def find(name: str, spec: Mapping[str, Any]) -> Tool:
    """Look a tool up: PATH, then PLACES; follow `via` (a launcher that knows the real one) and `prefer`."""
    optional = bool(spec.get("optional"))
    path = _which(spec["find"])
    if path is None:
        return Tool(name, None, None, optional, f"no {' or '.join(spec['find'])} on PATH or in {', '.join(PLACES)}")
    if via := spec.get("via"):
        out = _ask([path, *via])
        real = str(spec.get("path", "{out}")).replace("{out}", out.strip().splitlines()[-1] if out.strip() else "")
        if os.access(real, os.X_OK):
            path = real
        elif optional:
            return Tool(name, None, None, optional, f"no {real}")
    for candidate in spec.get("prefer", []):
        better = newest(os.path.join(os.path.dirname(os.path.realpath(path)), candidate))
        if better and os.access(better, os.X_OK):
            path = os.path.normpath(better)
            break
    version = None
    if arguments := spec.get("version"):
        out = _ask([path, *arguments])
        found = re.search(spec.get("pattern", r"(\d+(?:\.\d+)+)"), out)
        version = found[1] if found else None
        if version is None:
            return Tool(
                name,
                None,
                None,
                optional,
                f"{path} {' '.join(arguments)} does not tell its version: {out.strip()[:80]!r}",
            )
        minimum = spec.get("minimum")
        if minimum and _numbers(version) < _numbers(minimum):
            return Tool(name, None, version, optional, f"{path} is version {version}; {minimum} or newer is needed")
    return Tool(name, path, version, optional)


def _which(names: Iterable[str]) -> str | None:
    for name in names:
        if found := shutil.which(name):
            return found
        for place in PLACES:
            path = os.path.join(os.path.expanduser(place), name)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    return None


def _ask(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.decode("utf-8", "replace")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))


def root(path: str) -> str:
    """The folder that holds an installed tool and what it loads beside itself."""
    real = os.path.realpath(path)
    before, found, _ = real.partition("/node_modules/")
    if found:
        return before + "/node_modules"
    parent = os.path.dirname(real)
    return os.path.dirname(parent) if os.path.basename(parent) == "bin" else parent
