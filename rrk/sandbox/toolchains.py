"""The languages rrk can judge, each one declarative file `sandboxes/LANG.toml` (the format: sandboxes/README.md).

    toolchains = all()                      # every language, by its short code
    cpp = load("c++")                       # by any of its names; RrkError names the file and the key that is wrong
    cpp.missing()                           # [] or what this machine lacks, each with the remedy
    load("foo", folders=["my-sandboxes"])   # a user's own files come first: one file is a language, no code

Nothing here runs a candidate. Tools are looked up once a process, and asked for their version outside any box: they are the
machine's own programs.
"""

from __future__ import annotations

import builtins
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.rows import language_code
from rrk.sandbox.box import Limits

# Where a tool may be besides PATH; documented in sandboxes/README.md.
PLACES = ("/usr/local/bin", "/usr/bin", "/opt/rrk/bin", "~/.local/share/rrk/bin", "~/.cargo/bin", "~/.local/bin")
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin")  # every box shows these, read-only

# Keys that a [[mode]] may replace; each takes the place of the file's own table as a whole.
PARTS = ("program", "capture", "files", "rewrite", "end", "control", "compile", "run", "classify", "rerun")
KEYS = {
    *PARTS,
    "id",
    "names",
    "title",
    "judge",
    "untestable",
    "tools",
    "requires",
    "install",
    "limits",
    "mode",
    "selftest",
}
KEYS |= {"prepare", "batch"}
PLACEHOLDER = re.compile(r"@([a-z_]+)@")


@dataclass(frozen=True)
class Tool:
    """A program a language needs: path and version on this machine, or path None and the reason."""

    name: str
    path: str | None
    version: str | None
    optional: bool = False
    problem: str | None = None


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
    when: re.Pattern[str] | None
    where: str
    needs: tuple[str, ...]  # optional tools, files, and "prepared"; without them the mode is passed over
    file: str
    separator: str
    closer: re.Pattern[str] | None
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
    selftests: tuple[SelfTest, ...]
    prepare: Prepare | None = None
    batch: Batch | None = None
    shows: tuple[str, ...] = ()  # files and folders that a box shows where they exist (configuration outside /usr)

    @cached_property
    def tools(self) -> dict[str, Tool]:
        """Every declared tool, looked up once."""
        return {name: _find(name, spec) for name, spec in self.tool_specs.items()}

    @cached_property
    def version(self) -> str:
        """Versions of all tools in one line: part of the key under which verdicts may be kept."""
        return " ".join(f"{t.name}={t.version or '-'}" for t in self.tools.values() if t.path)

    @cached_property
    def digest(self) -> str:
        """Changes when the file, a tool or its version changes."""
        parts = [self.text_digest, self.version, *(str(t.path) for t in self.tools.values())]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    def missing(self) -> list[str]:
        """What keeps this machine from judging the language, a line each; empty if nothing does."""
        if self.untestable:
            return [self.untestable]
        lines = [t.problem for t in self.tools.values() if t.problem and not t.optional]
        return lines + [f"no {path}" for path in self.requires if not _glob(path)]

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
        roots = {_root(t.path) for t in self.tools.values() if t.path}
        roots |= {os.path.dirname(_glob(p) or p) for p in self.requires}
        roots |= {found for path in self.shows if (found := _glob(path))}
        outside = sorted(r for r in roots if not any(r == s or r.startswith(s + "/") for s in SYSTEM))
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
            elif not _glob(need):
                return False
        return True

    def names_of_tools(self) -> dict[str, str]:
        """Placeholder values: @tool@ -> path."""
        paths = {name: tool.path for name, tool in self.tools.items() if tool.path}
        return {**paths, "cache": str(self.cache_folder())}


def all_there(folder: Path, names: Iterable[str]) -> bool:
    """True if the folder holds every one of these files and folders."""
    return builtins.all((folder / name).exists() for name in names)


def folder() -> Path:
    """Where rrk's own language files are: beside the package in a checkout, inside it once installed."""
    package = Path(__file__).resolve().parent.parent
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


def parse(path: str | Path) -> Toolchain:
    """Read one file; anything wrong is an RrkError that names the file and the key."""
    path = Path(path)
    data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RrkError(f"{path}: not valid TOML: {error}") from None
    return _Reader(path).toolchain(table, hashlib.blake2b(data, digest_size=8).hexdigest())


class _Reader:
    """Turns the parsed TOML into dataclasses and says where it is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def bad(self, key: str, what: str) -> RrkError:
        return RrkError(f"{self.path}: {key}: {what}")

    def get(self, table: Mapping[str, Any], key: str, kind: type, default: Any = None, at: str = "") -> Any:
        value = table.get(key, default)
        if value is None:
            raise self.bad(at + key, "is missing")
        if not isinstance(value, kind):
            raise self.bad(at + key, f"must be {kind.__name__}, not {value!r}")
        return value

    def pattern(self, text: Any, key: str) -> re.Pattern[str]:
        try:
            return re.compile(text, re.MULTILINE)
        except (re.error, TypeError) as error:
            raise self.bad(key, f"not a regular expression: {error}") from None

    def words(self, value: Any, key: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not value or not builtins.all(isinstance(v, str) for v in value):
            raise self.bad(key, f"must be a list of texts, not {value!r}")
        return tuple(value)

    def limits(self, table: Mapping[str, Any], base: Limits, key: str) -> Limits:
        table = dict(table)
        factor = table.pop("wall_factor", None)
        for name, value in table.items():
            if name not in Limits.__dataclass_fields__:
                raise self.bad(f"{key}.{name}", f"no such limit; there is {', '.join(Limits.__dataclass_fields__)}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.bad(f"{key}.{name}", f"must be a number, not {value!r}")
        limits = replace(base, **table)
        if "cpu_s" in table and "wall_s" not in table:
            limits = replace(limits, wall_s=limits.cpu_s * (factor or 4) + 2)
        return limits

    def step(self, table: Any, base: Limits, key: str) -> Step:
        if not isinstance(table, dict):
            raise self.bad(key, "must be a table with argv")
        unknown = set(table) - {"argv", "env", "stdin", "limits", "status"}
        if unknown:
            raise self.bad(f"{key}.{min(unknown)}", "no such key")
        argv = self.words(table.get("argv"), f"{key}.argv")
        env = self.get(table, "env", dict, {}, f"{key}.")
        return Step(argv, self.limits(table.get("limits", {}), base, f"{key}.limits"), env, table.get("stdin", ""))

    def toolchain(self, table: dict[str, Any], digest: str) -> Toolchain:
        if unknown := set(table) - KEYS:
            raise self.bad(min(unknown), f"no such key; there is {', '.join(sorted(KEYS))}")
        code = self.get(table, "id", str)
        judge = table.get("judge", "recipe")
        if judge not in ("recipe", "python"):
            raise self.bad("judge", f"must be recipe or python, not {judge!r}")
        tools = self.get(table, "tools", dict, {})
        for name, spec in tools.items():
            self.words(spec.get("find"), f"tools.{name}.find")
            if "pattern" in spec:
                self.pattern(spec["pattern"], f"tools.{name}.pattern")
        modes: list[Mode] = []
        if judge == "recipe" and not (table.get("untestable") and "run" not in table):
            plain = {key: value for key, value in table.items() if key in PARTS}
            named = {extra.get("name"): extra for extra in table.get("mode", [])}
            for number, extra in enumerate(table.get("mode", [])):
                if unknown := set(extra) - {*PARTS, "name", "when", "where", "needs", "like"}:
                    raise self.bad(f"mode[{number}].{min(unknown)}", "no such key")
                if "like" in extra and "like" in named.get(extra["like"], {"like": ""}):
                    raise self.bad(f"mode[{number}].like", "must name a mode of this file that is like no other")
                model = named[extra["like"]] if "like" in extra else {}
                shared = {key: value for key, value in model.items() if key in PARTS}
                modes.append(self.mode({**plain, **shared, **extra}, table, f"mode[{number}]."))
            if "run" in table:
                modes.append(self.mode(plain, table, ""))
            if not modes:
                raise self.bad("run", "is missing")
        toolchain = Toolchain(
            id=code,
            names=tuple(n.lower() for n in table.get("names", [])),
            title=table.get("title", code),
            source=self.path,
            text_digest=digest,
            judge=judge,
            untestable=table.get("untestable"),
            tool_specs=tools,
            requires=tuple(self.get(self.get(table, "requires", dict, {}), "files", list, [], "requires.")),
            shows=tuple(self.get(self.get(table, "requires", dict, {}), "shows", list, [], "requires.")),
            install=self.get(table, "install", dict, {}),
            modes=tuple(modes),
            selftests=tuple(self.selftest(t, f"selftest[{i}].") for i, t in enumerate(table.get("selftest", []))),
            prepare=self.prepare(table["prepare"]) if "prepare" in table else None,
            batch=self.batch(table["batch"]) if "batch" in table else None,
        )
        self.check_placeholders(toolchain)
        return toolchain

    def mode(self, table: dict[str, Any], top: dict[str, Any], at: str) -> Mode:
        limits = self.get(top, "limits", dict, {})
        compile_limits = self.limits(
            limits.get("compile", {}), Limits(20, 82, 2048, 256, 128, 256, 64, 256), "limits.compile"
        )
        run_limits = self.limits(limits.get("run", {}), Limits(), "limits.run")
        program = self.get(table, "program", dict, at=at)
        captures = {}
        for name, spec in self.get(table, "capture", dict, {}, at).items():
            key = f"{at}capture.{name}"
            patterns = tuple(
                self.pattern(p, f"{key}.patterns") for p in self.words(spec.get("patterns"), f"{key}.patterns")
            )
            captures[name] = (spec.get("where", "all"), patterns, self.get(spec, "default", str, "", f"{key}."))
        rewrites = []
        for i, rewrite in enumerate(table.get("rewrite", [])):
            key = f"{at}rewrite[{i}]."
            where = rewrite.get("where", "tests")
            if where not in ("tests", "program"):
                raise self.bad(key + "where", "must be tests or program")
            rewrites.append(
                (where, self.pattern(rewrite.get("pattern"), key + "pattern"), self.get(rewrite, "with", str, at=key))
            )
        ends = []
        for i, spec in enumerate(_listed(table.get("end", []))):
            places = spec.get("place", ["append"])
            for place in self.words(places, f"{at}end[{i}].place"):
                self.pattern(place, f"{at}end[{i}].place")
            ends.append(End(self.get(spec, "text", str, at=f"{at}end[{i}]."), tuple(places)))
        controls = []
        for i, spec in enumerate(_listed(table.get("control", []))):
            when = self.pattern(spec["when"], f"{at}control[{i}].when") if "when" in spec else None
            controls.append((when, self.get(spec, "text", str, at=f"{at}control[{i}].")))
        classify = self.get(table, "classify", dict, {}, at)
        said = {k: self.pattern(classify[k], f"{at}classify.{k}") for k in ("syntax", "memory") if k in classify}
        steps = tuple(
            self.step(spec, compile_limits, f"{at}compile[{i}]")
            for i, spec in enumerate(_listed(table.get("compile", [])))
        )
        if table.get("where", "tests") not in ("tests", "program", "all"):
            raise self.bad(at + "where", "must be tests, program or all")
        return Mode(
            name=table.get("name", ""),
            when=self.pattern(table["when"], at + "when") if "when" in table else None,
            where=table.get("where", "tests"),
            needs=tuple(self.get(table, "needs", list, [], at)),
            file=self.get(program, "file", str, at=at + "program."),
            separator=program.get("separator", "\n"),
            closer=self.pattern(program["closer"], at + "program.closer") if "closer" in program else None,
            captures=captures,
            files=self.get(table, "files", dict, {}, at),
            rewrites=tuple(rewrites),
            ends=tuple(ends),
            controls=tuple(controls),
            compile=steps,
            run=self.step(self.get(table, "run", dict, at=at), run_limits, at + "run"),
            rerun=table.get("rerun", {}).get("env"),
            syntax=said.get("syntax"),
            memory=said.get("memory"),
            compile_status=classify.get("compile", "CompileError"),
            dies=tuple(self.get(classify, "dies", list, [], f"{at}classify.")),
        )

    def prepare(self, table: dict[str, Any]) -> Prepare:
        base = Limits(120, 482, 4096, 1024, 128, 256, 64, 1024)
        steps = tuple(self.step(s, base, f"prepare.step[{i}]") for i, s in enumerate(_listed(table.get("step", []))))
        files = self.get(table, "files", dict, {}, "prepare.")
        needs = tuple(self.get(table, "needs", list, [], "prepare."))
        return Prepare(steps, files, self.words(table.get("keep"), "prepare.keep"), needs)

    def batch(self, table: dict[str, Any]) -> Batch:
        base = Limits(120, 482, 4096, 512, 512, 256, 64, 65536)
        step = self.step({k: table[k] for k in ("argv", "env", "limits") if k in table}, base, "batch")
        error = self.pattern(table.get("error"), "batch.error")
        if error.groups < 1:
            raise self.bad("batch.error", "needs a group that is the program's number")
        alone = self.pattern(table["alone"], "batch.alone") if "alone" in table else None
        again = self.pattern(table["again"], "batch.again") if "again" in table else None
        files = self.get(table, "files", dict, {}, "batch.")
        return Batch(step, files, self.get(table, "max", int, at="batch."), error, alone, again)

    def selftest(self, table: dict[str, Any], at: str) -> SelfTest:
        values = {
            k: self.get(table, k, str, d, at)
            for k, d in (("name", None), ("prompt", ""), ("completion", None), ("tests", ""), ("status", None))
        }
        return SelfTest(**values, entry_point=table.get("entry_point"))

    def check_placeholders(self, toolchain: Toolchain) -> None:
        """A misspelt @placeholder@ in a command is found when the file is read, not when a program is judged."""
        for mode in toolchain.modes:
            known = {
                "ended",
                "survived",
                "nonce",
                "fd",
                "file",
                "memory_mb",
                "cache",
                *toolchain.tool_specs,
                *mode.captures,
            }
            for step in (*mode.compile, mode.run):
                for word in (*step.argv, *step.env.values()):
                    for name in PLACEHOLDER.findall(word):
                        if name not in known:
                            raise self.bad(
                                "argv", f"@{name}@ is no placeholder here; there is {', '.join(sorted(known))}"
                            )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _glob(path: str) -> str | None:
    found = sorted(glob.glob(os.path.expanduser(path)))
    return found[-1] if found else None


def _find(name: str, spec: Mapping[str, Any]) -> Tool:
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
        better = _glob(os.path.join(os.path.dirname(os.path.realpath(path)), candidate))
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


def _root(path: str) -> str:
    """The folder that holds an installed tool and what it loads beside itself."""
    real = os.path.realpath(path)
    before, found, _ = real.partition("/node_modules/")
    if found:
        return before + "/node_modules"
    parent = os.path.dirname(real)
    return os.path.dirname(parent) if os.path.basename(parent) == "bin" else parent
