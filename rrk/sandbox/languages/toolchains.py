"""The languages rrk can judge, each one declarative file `sandboxes/LANG.toml` (the format: sandboxes/README.md).

    toolchains = all()                      # every language, by its short code
    cpp = load("c++")                       # by any of its names; RrkError names the file and the key that is wrong
    cpp.missing()                           # [] or what this machine lacks, each with the remedy
    load("foo", folders=["my-sandboxes"])   # a user's own files come first: one file is a language, no code

Nothing here runs a candidate. Tools are looked up once a process, and asked for their version outside any box: they are the
machine's own programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rrk.errors import RrkError
from rrk.rows import language_code
from rrk.sandbox.languages.recipe_file import parse
from rrk.sandbox.languages.toolchain import Toolchain


def folder() -> Path:
    """Where rrk's own language files are: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).resolve().parents[2]
    for place in (package.parent / "sandboxes", package / "_sandboxes"):
        if place.is_dir() and any(place.glob("*.toml")):
            return place
    raise RrkError(f"no language files: looked for sandboxes/*.toml beside {package} and for {package}/_sandboxes")


def all(folders: Sequence[str | Path] = ()) -> dict[str, Toolchain]:
    """Every declared language by its code. Files in `folders` replace rrk's own of the same id."""
    found: dict[str, Toolchain] = {}
    for place in (folder(), *map(Path, folders)):
        if not place.is_dir():
            raise RrkError(f"{place}: no such folder (--sandboxes takes a folder of LANG.toml files)")
        for path in sorted(place.glob("*.toml")):
            toolchain = _parsed(path)
            found[toolchain.id] = toolchain
    return found


def load(language: str, folders: Sequence[str | Path] = ()) -> Toolchain:
    """The toolchain of one language, by code or by any of its names."""
    code = language_code(language)
    for place in (*map(Path, folders), folder()):
        if (path := place / f"{code}.toml").is_file():
            return _parsed(path)
    known = all(folders)
    for toolchain in known.values():
        if code == toolchain.id or code in toolchain.names or language.lower() in toolchain.names:
            return toolchain
    raise RrkError(
        f"no language '{language}': there is {', '.join(sorted(known))}; add one with a file LANG.toml in --sandboxes DIR"
    )


_cache: dict[tuple[Path, int, int], Toolchain] = {}


def _parsed(path: Path) -> Toolchain:
    stat = path.stat()
    key = (path.resolve(), stat.st_mtime_ns, stat.st_size)
    if key not in _cache:
        _cache[key] = parse(path)
    return _cache[key]
