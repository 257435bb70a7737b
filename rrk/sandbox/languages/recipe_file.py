"""Reads sandboxes/LANG.toml (the format: sandboxes/README.md) and says where it is wrong.

toolchain = parse("sandboxes/go.toml")      # RrkError names the file and the key
"""

from __future__ import annotations

import builtins
import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox.jail.box import Limits
from rrk.sandbox.languages.toolchain import (
    PLACEHOLDER,
    Batch,
    End,
    Examples,
    Library,
    Mode,
    Prepare,
    SelfTest,
    Step,
    Toolchain,
)

# Keys that a [[mode]] may replace; each takes the place of the file's own table as a whole.
PARTS = ("program", "capture", "files", "rewrite", "end", "control", "compile", "run", "classify", "rerun")
WHEN = ("when", "unless", "where")
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
KEYS |= {"prepare", "batch", "stdin", "examples", "library"}
# What a program that reads and prints has no use for: there is nothing to prove, its output is compared elsewhere.
NO_PROOF: dict[str, Any] = {"files": {}, "rewrite": [], "end": [], "control": [], "rerun": {}}


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
        programs: list[Mode] = []
        if judge == "recipe" and not (table.get("untestable") and "run" not in table):
            plain = {key: value for key, value in table.items() if key in PARTS}
            named = {extra.get("name"): extra for extra in table.get("mode", [])}
            for number, extra in enumerate(table.get("mode", [])):
                if unknown := set(extra) - {*PARTS, *WHEN, "name", "needs", "like"}:
                    raise self.bad(f"mode[{number}].{min(unknown)}", "no such key")
                if "like" in extra and "like" in named.get(extra["like"], {"like": ""}):
                    raise self.bad(f"mode[{number}].like", "must name a mode of this file that is like no other")
                model = named[extra["like"]] if "like" in extra else {}
                shared = {key: value for key, value in model.items() if key in (*PARTS, *WHEN)}
                needs = [*model.get("needs", []), *self.get(extra, "needs", list, [], f"mode[{number}].")]
                modes.append(self.mode({**plain, **shared, **extra, "needs": needs}, table, f"mode[{number}]."))
            if "run" in table:
                modes.append(self.mode(plain, table, ""))
            if not modes:
                raise self.bad("run", "is missing")
            bare = {**plain, **NO_PROOF}
            for number, extra in enumerate(_listed(table.get("stdin", [{}] if "run" in table else []))):
                if unknown := set(extra) - {*PARTS, "name", "when", "needs"}:
                    raise self.bad(f"stdin[{number}].{min(unknown)}", "no such key")
                programs.append(self.mode({**bare, **extra, "where": "program"}, table, f"stdin[{number}]."))
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
            libraries=tuple(self.library(t, f"library[{i}].") for i, t in enumerate(_listed(table.get("library", [])))),
            shows=tuple(self.get(self.get(table, "requires", dict, {}), "shows", list, [], "requires.")),
            install=self.get(table, "install", dict, {}),
            modes=tuple(modes),
            programs=tuple(programs),
            selftests=tuple(self.selftest(t, f"selftest[{i}].") for i, t in enumerate(table.get("selftest", []))),
            prepare=self.prepare(table["prepare"], table.get("files", {})) if "prepare" in table else None,
            batch=self.batch(table["batch"]) if "batch" in table else None,
            examples=self.examples(self.get(table, "examples", dict)) if "examples" in table else None,
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
            if where not in ("tests", "program", "whole"):
                raise self.bad(key + "where", "must be tests, program or whole")
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
            unless=self.pattern(table["unless"], at + "unless") if "unless" in table else None,
            where=table.get("where", "tests"),
            needs=tuple(self.get(table, "needs", list, [], at)),
            file=self.get(program, "file", str, at=at + "program."),
            separator=program.get("separator", "\n"),
            **{
                name: self.pattern(program[name], f"{at}program.{name}") if name in program else None
                for name in ("closer", "inside", "preamble", "imports")
            },
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

    def prepare(self, table: dict[str, Any], shared: dict[str, str]) -> Prepare:
        """`shared`: the file's own [files], which `files` may name instead of giving texts."""
        base = Limits(120, 482, 4096, 1024, 128, 256, 64, 1024)
        steps = tuple(self.step(s, base, f"prepare.step[{i}]") for i, s in enumerate(_listed(table.get("step", []))))
        files = table.get("files", {})
        if isinstance(files, list):
            if unknown := set(files) - set(shared):
                raise self.bad("prepare.files", f"there is no {min(unknown)} in [files]")
            files = {name: shared[name] for name in files}
        elif not isinstance(files, dict):
            raise self.bad("prepare.files", f"must be a table of texts or a list of names in [files], not {files!r}")
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

    def examples(self, table: dict[str, Any]) -> Examples:
        if unknown := set(table) - {"drop", "each", "fits", "head", "join", "tail", "value"}:
            raise self.bad(
                f"examples.{min(unknown)}", "no such key; there is drop, each, fits, head, join, tail, value"
            )
        head, each, tail = (self.get(table, key, str, at="examples.") for key in ("head", "each", "tail"))
        for name in ("@call@", "@value@"):
            if name not in each:
                raise self.bad("examples.each", f"has no {name}")
        value = self.pattern(table["value"], "examples.value") if "value" in table else None
        join = self.get(table, "join", str, at="examples.") if "join" in table else None
        drop = self.pattern(table["drop"], "examples.drop") if "drop" in table else None
        fits = self.pattern(table["fits"], "examples.fits") if "fits" in table else None
        return Examples(head, each, tail, value, join, drop, fits)

    def library(self, table: dict[str, Any], at: str) -> Library:
        if unknown := set(table) - {"name", "when", "files"}:
            raise self.bad(at + min(unknown), "no such key; there is files, name, when")
        name = self.get(table, "name", str, at=at)
        return Library(name, self.pattern(table.get("when"), at + "when"), self.words(table.get("files"), at + "files"))

    def selftest(self, table: dict[str, Any], at: str) -> SelfTest:
        values = {
            k: self.get(table, k, str, d, at)
            for k, d in (("name", None), ("prompt", ""), ("completion", None), ("tests", ""), ("status", None))
        }
        return SelfTest(**values, entry_point=table.get("entry_point"))

    def check_placeholders(self, toolchain: Toolchain) -> None:
        """A misspelt @placeholder@ in a command is found when the file is read, not when a program is judged."""
        for mode in (*toolchain.modes, *toolchain.programs):
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
