"""The import rules (DESIGN section 4): imports run one way, without circles; the sandbox's rooms have walls; domain modules
stay silent; modules say what they are for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "rrk").rglob("*.py"))

# What each layer may import of rrk. A module's layer is the longest key that its dotted name starts with.
SHARED = {"rrk", "rrk.errors", "rrk.jsonl", "rrk.rows", "rrk.seeds", "rrk.manifest", "rrk.outputs"}
# What the sandbox's rooms say to each other: commands, limits, outcomes; jobs and verdicts.
WORDS = {"rrk.sandbox.jail.box", "rrk.sandbox.verdict"}
ALLOWED: dict[str, set[str]] = {
    "rrk": set(),
    "rrk.__main__": {"rrk.cli"},
    "rrk.errors": set(),
    "rrk.costs": set(),
    "rrk.lineage": {*SHARED, "rrk.costs", "rrk.sinks"},
    "rrk.outputs": {"rrk.errors"},
    "rrk.model_names": {"rrk.errors"},
    "rrk.jsonl": {"rrk.errors", "rrk.outputs"},
    "rrk.seeds": {"rrk.errors"},
    "rrk.rows": {"rrk.errors", "rrk.jsonl"},
    "rrk.manifest": {"rrk.errors", "rrk.jsonl", "rrk"},
    "rrk.progress": {"rrk.errors"},
    "rrk.stopping": {"rrk.errors"},
    "rrk.sinks": {"rrk.errors", "rrk.jsonl", "rrk.outputs", "rrk"},
    "rrk.items": {"rrk.errors", "rrk.jsonl", "rrk.rows"},
    "rrk.stage": {
        *("rrk.errors", "rrk.jsonl", "rrk.rows", "rrk.items", "rrk.progress", "rrk.sinks", "rrk.outputs", "rrk.costs"),
        "rrk.terminal",
    },
    "rrk.options": {"rrk.errors", "rrk.stage", "rrk.cluster"},
    "rrk.actor": {"rrk.errors", "rrk"},
    "rrk.cluster": {"rrk.errors", "rrk.rows", "rrk.costs", "rrk.actor", "rrk"},
    "rrk.terminal": {"rrk.errors"},
    "rrk.cli": {"rrk.errors", "rrk.outputs", "rrk.machine", "rrk.completion", "rrk"},
    "rrk.machine": set(),
    "rrk.eval_output": {"rrk.errors", "rrk.outputs", "rrk.terminal", "rrk.evaluation", "rrk"},
    "rrk.completion": {"rrk.errors"},
    "rrk.cases": {"rrk.errors", "rrk.jsonl", "rrk.rows"},
    "rrk.case_benchmarks": SHARED,
    "rrk.evalplus_tests": SHARED,
    "rrk.benchmarks": {*SHARED, "rrk.cases", "rrk.case_benchmarks", "rrk.evalplus_tests"},
    "rrk.comments": set(),
    "rrk.function_style": set(),
    "rrk.extract": {"rrk.jsonl", "rrk.rows"},
    "rrk.formats": {*SHARED, "rrk.formats"},
    "rrk.mining": {*SHARED, "rrk.comments"},
    "rrk.interop": {*SHARED, "rrk.formats"},
    "rrk.evaluation": {*SHARED, "rrk.costs", "rrk.lineage", "rrk.evaluation"},
    "rrk.sandbox": {"rrk.errors", "rrk.rows", "rrk.jsonl", "rrk.cases", "rrk.sandbox"},
    "rrk.sandbox.inside": {"rrk.sandbox.inside"},
    "rrk.sandbox.jail": {"rrk.sandbox.jail", "rrk.sandbox.inside"},
    "rrk.sandbox.verdict": {"rrk.cases"},
    "rrk.sandbox.verdict_rules": {"rrk.sandbox.verdict"},
    "rrk.sandbox.languages": {"rrk.errors", "rrk.rows", *WORDS, "rrk.sandbox.languages"},
    "rrk.sandbox.workers": {
        "rrk.errors",
        *WORDS,
        "rrk.sandbox.inside.wire",
        "rrk.sandbox.languages",
        "rrk.sandbox.verdict_rules",
        "rrk.sandbox.workers",
    },
    "rrk.sandbox.judge": {
        "rrk.errors",
        "rrk.cases",
        *WORDS,
        "rrk.sandbox.inside.counting",
        "rrk.sandbox.inside.prepare",  # which modules are pure
        "rrk.sandbox.inside.wire",
        "rrk.sandbox.languages",
        "rrk.sandbox.verdict_rules",
        "rrk.sandbox.workers",
        "rrk.sandbox.judge",
    },
    "rrk.generation": {*SHARED, "rrk.extract", "rrk.generation"},
    "rrk.reranking": {*SHARED, "rrk.comments", "rrk.extract", "rrk.reranking", "rrk.generation"},
    "rrk.ppo": {*SHARED, "rrk.ppo", "rrk.generation", "rrk.reranking"},
}
TORCH = {"torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers"}


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def layer(name: str) -> str:
    keys = [key for key in [*ALLOWED, "rrk.commands"] if name == key or name.startswith(key + ".")]
    return max(keys, key=len)


def imports(tree: ast.AST, top_level_only: bool = False) -> set[str]:
    found = set()
    for node in ast.iter_child_nodes(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from rrk import jsonl` imports rrk.jsonl, `from rrk import __version__` rrk alone.
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in NAMES else node.module)
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail("relative imports hide where a module stands")
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_run_one_way(path):
    name = dotted(path)
    own = {module for module in imports(ast.parse(path.read_text())) if module == "rrk" or module.startswith("rrk.")}
    if layer(name) == "rrk.commands":
        assert not {m for m in own if m.startswith("rrk.commands")} - {"rrk.commands"}, "a command imports no command"
        return
    allowed = ALLOWED[layer(name)]
    wrong = {m for m in own if not any(m == a or (a != "rrk" and m.startswith(a + ".")) for a in allowed)}
    assert not wrong, f"{name} may import {sorted(allowed)}"


def test_no_module_imports_itself_by_way_of_others():
    """A circle hides which of two modules stands on the other; imports for types and inside functions count too."""
    graph = {dotted(path): imports(ast.parse(path.read_text())) & NAMES for path in MODULES}
    # Peel off what imports nothing that is left: what cannot be peeled stands in a circle, or on one.
    while free := {name for name, others in graph.items() if not others & set(graph) - {name}}:
        graph = {name: others & set(graph) - free for name, others in graph.items() if name not in free}
    imported = set().union(*graph.values())
    assert not {name: others for name, others in graph.items() if name in imported}


@pytest.mark.parametrize("room", ["inside", "jail"])
def test_what_runs_in_the_jail_is_the_standard_library_and_itself(room):
    """Whatever else were loaded there, a candidate could look at, change, and turn to use."""
    for path in (ROOT / "rrk" / "sandbox" / room).glob("*.py"):
        outside = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} - {"rrk"}
        assert outside <= sys.stdlib_module_names, path


def test_nothing_of_the_judge_is_loaded_in_the_jails_processes():
    """The packages on the way count as well: none of them brings the judge, verdicts or languages along."""
    program = (
        "import sys; import rrk.sandbox.jail.main; print(*[n for n in sys.modules if n.partition('.')[0] == 'rrk'])"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rooms = ("rrk.sandbox.inside", "rrk.sandbox.jail")
    assert {n for n in said.split() if not n.startswith(rooms)} == {"rrk", "rrk.sandbox"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_domain_modules_are_silent_and_heavy_libraries_stay_where_they_belong(path):
    name = dotted(path)
    home = layer(name)
    tree = ast.parse(path.read_text())
    heavy = {module.split(".")[0] for module in imports(tree)} & TORCH
    if home not in ("rrk.generation", "rrk.reranking", "rrk.ppo", "rrk.commands", "rrk.benchmarks"):
        assert not heavy
    if home == "rrk.benchmarks":
        assert heavy <= {"datasets"}
    if home in (
        "rrk.commands",
        "rrk.cli",
        "rrk.options",
        "rrk.progress",
        "rrk.sinks",
        "rrk.stage",
        "rrk.terminal",
        "rrk.eval_output",
        "rrk.__main__",
    ):
        return
    assert not {module.split(".")[0] for module in imports(tree)} & {"typer", "rich", "click"}
    if name.startswith(("rrk.sandbox.inside", "rrk.sandbox.jail")) or home == "rrk":  # they speak through descriptors
        return
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "print" not in calls
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not attributes & {"sys.argv", "os.environ", "os.getenv"}


@pytest.mark.parametrize("path", [p for p in MODULES if "commands" in p.parts], ids=dotted)
def test_commands_import_only_typer_and_the_standard_library_at_the_top(path):
    top = imports(ast.parse(path.read_text()), top_level_only=True)
    own = {m for m in top if m.startswith("rrk")}
    assert own <= {"rrk.options", "rrk.errors", "rrk"}
    assert not {m.split(".")[0] for m in top} & {
        *TORCH,
        "numpy",
        "orjson",
        "rich",
        "zstandard",
        "matplotlib",
    }


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_opens_with_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no module docstring"
