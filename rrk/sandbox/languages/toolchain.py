"""One language as its file declares it: tools, modes, self tests; made by rrk/sandbox/languages/recipe_file.py."""

from __future__ import annotations

import builtins
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rrk.sandbox.jail.box import Limits
from rrk.sandbox.languages import tools
from rrk.sandbox.languages.tools import Tool

PLACEHOLDER = re.compile(r"@([a-z_]+)@")


@dataclass(frozen=True)
class Step:
    """One command of a recipe, with placeholders still in it."""

    argv: tuple[str, ...]
    limits: Limits
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""


@dataclass(frozen=True)
class End:
    """What is put after the last test: `place` is "append" or a regular expression on the tests (first that matches)."""

    text: str = ""
    place: tuple[str, ...] = ("append",)


@dataclass(frozen=True)
class Mode:
    """How programs of one shape are judged (Go has one for `func main`, another for `func TestX`)."""

    name: str
    when: re.Pattern[str] | None  # what a program of this shape has,
    unless: re.Pattern[str] | None  # and what it has not
    where: str
    needs: tuple[str, ...]  # optional tools, files, and "prepared"; without them the mode is passed over
    file: str
    separator: str
    closer: re.Pattern[str] | None
    inside: re.Pattern[str] | None
    preamble: re.Pattern[str] | None
    imports: re.Pattern[str] | None
    captures: Mapping[str, tuple[str, tuple[re.Pattern[str], ...], str]]
    files: Mapping[str, str]
    rewrites: tuple[tuple[str, re.Pattern[str], str], ...]
    ends: tuple[End, ...]
    controls: tuple[tuple[re.Pattern[str] | None, str], ...]
    compile: tuple[Step, ...]
    run: Step
    rerun: Mapping[str, str] | None
    syntax: re.Pattern[str] | None
    memory: re.Pattern[str] | None
    compile_status: str
    dies: tuple[int, ...]  # exit codes (or minus the signal) with which the control may end; empty: any failure


@dataclass(frozen=True)
class Batch:
    """One command that compiles many programs, each in a folder of its number; its stdout is a tar of `log` and the results."""

    step: Step
    files: Mapping[str, str]
    most: int
    error: re.Pattern[str]  # a line of the log that begins a program's error; group 1 is its number
    alone: re.Pattern[str] | None  # programs that could reach into others are compiled alone
    again: (
        re.Pattern[str] | None
    )  # in the log: the others were not looked at in full, and are compiled again without these


@dataclass(frozen=True)
class Prepare:
    """What is built once a version of the tools, in a box, and kept in cache_folder()."""

    steps: tuple[Step, ...]
    files: Mapping[str, str]
    keep: tuple[str, ...]  # files and folders
    needs: tuple[str, ...]  # optional tools and files without which nothing is prepared


@dataclass(frozen=True)
class SelfTest:
    """A program with the verdict it must get; `rrk doctor` and the test suite run it."""

    name: str
    prompt: str
    completion: str
    tests: str
    status: str
    entry_point: str | None = None


@dataclass(frozen=True)
class Examples:
    """Tests made of what a prompt shows (`>>> call`, the value below): `head`, for each `each` with @call@ and @value@, `tail`.

    A value that `value` does not match is none that the language could compare. `join` stands between the elements of a
    list where the language has no lists but texts. What `drop` matches is left out of a call.
    Tests cannot be made for a prompt in which `fits` is not found.
    """

    head: str
    each: str
    tail: str
    value: re.Pattern[str] | None
    join: str | None = None
    drop: re.Pattern[str] | None = None
    fits: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Library:
    """What some prompts and tests take from beyond the language's own: those that `when` fits cannot be judged without it."""

    name: str
    when: re.Pattern[str]
    files: tuple[str, ...]  # globs; any one of them will do

    @cached_property
    def there(self) -> bool:
        """Looked up once."""
        return any(tools.newest(path) for path in self.files)


@dataclass(frozen=True)
class Toolchain:
    """One language as its file declares it."""

    id: str
    names: tuple[str, ...]
    title: str
    source: Path
    text_digest: str
    judge: str
    untestable: str | None
    tool_specs: Mapping[str, Mapping[str, Any]]
    requires: tuple[str, ...]
    install: Mapping[str, Any]
    modes: tuple[Mode, ...]
    programs: tuple[Mode, ...]  # how whole programs are run that read and print (cases), tests and proof left out
    selftests: tuple[SelfTest, ...]
    prepare: Prepare | None = None
    batch: Batch | None = None
    examples: Examples | None = None
    libraries: tuple[Library, ...] = ()
    shows: tuple[str, ...] = ()  # files and folders that a box shows where they exist (configuration outside /usr)

    @cached_property
    def tools(self) -> dict[str, Tool]:
        """Every declared tool, looked up once."""
        return {name: tools.find(name, spec) for name, spec in self.tool_specs.items()}

    @cached_property
    def version(self) -> str:
        """Versions of all tools in one line: part of the key under which verdicts may be kept."""
        return " ".join(f"{t.name}={t.version or '-'}" for t in self.tools.values() if t.path)

    @cached_property
    def digest(self) -> str:
        """Changes when the file, a tool or its version changes."""
        parts = [self.text_digest, self.version, *(str(t.path) for t in self.tools.values())]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    def missing(self, given: str = "") -> list[str]:
        """What keeps this machine from judging the language, a line each; empty if nothing does.

        `given`: a problem's prompt and tests, and then also what keeps it from judging this problem. A program's own text
        is nothing to go by: it may want what there is not, and that is its fault.
        """
        if self.untestable:
            return [self.untestable]
        lines = [t.problem for t in self.tools.values() if t.problem and not t.optional]
        lines += [f"no {path}" for path in self.requires if not tools.newest(path)]
        return lines + [
            f"the problem wants {x.name}: no {' or '.join(x.files)}"
            for x in self.libraries
            if given and not x.there and x.when.search(given)
        ]

    def lacks(self, given: str = "") -> str:
        """What is missing and how to get it, on one line; empty if nothing is."""
        lines = self.missing(given)
        return "; ".join(filter(None, [*lines, self.remedy()])) if lines else ""

    def remedy(self) -> str:
        """How to get what is missing, as commands."""
        commands = []
        if apt := self.install.get("apt"):
            commands.append("apt-get install " + " ".join(apt))
        if npm := self.install.get("npm"):
            commands.append("npm install -g " + " ".join(npm))
        if note := self.install.get("note"):
            commands.append(str(note))
        return "; ".join(commands)

    def mounts(self) -> list[str]:
        """Folders beyond the system's own that a box must show (read-only) for the tools to work."""
        roots = {tools.root(t.path) for t in self.tools.values() if t.path}
        roots |= {os.path.dirname(tools.newest(p) or p) for p in self.requires}
        roots |= {found for path in self.shows if (found := tools.newest(path))}
        outside = sorted(r for r in roots if not any(r == s or r.startswith(s + "/") for s in tools.SYSTEM))
        return [*outside, str(self.cache_folder())] if self.prepared() else outside

    def cache_folder(self) -> Path:
        """Where prepared artefacts of exactly these tools and this file are kept."""
        return Path.home() / ".cache" / "rrk" / "toolchains" / f"{self.id}-{self.digest}"

    def prepared(self) -> bool:
        """True if there is something to prepare and it is there, whole."""
        return self.prepare is not None and all_there(self.cache_folder(), self.prepare.keep)

    def usable(self, part: Mode | Prepare) -> bool:
        """True if this machine has what a mode or a preparation needs beyond the language's own tools."""
        for need in part.needs:
            if need == "prepared":
                if not self.prepared():
                    return False
            elif need in self.tool_specs:
                if not self.tools[need].path:
                    return False
            elif not tools.newest(need):
                return False
        return True

    def names_of_tools(self) -> dict[str, str]:
        """Placeholder values: @tool@ -> path."""
        paths = {name: tool.path for name, tool in self.tools.items() if tool.path}
        return {**paths, "cache": str(self.cache_folder())}


def all_there(folder: Path, names: Iterable[str]) -> bool:
    """True if the folder holds every one of these files and folders."""
    return builtins.all((folder / name).exists() for name in names)
