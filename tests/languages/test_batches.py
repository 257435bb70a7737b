"""Batches and prepared artefacts change the cost of a verdict, never the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rrk.errors import RrkError
from rrk.sandbox.languages import batches, recipes, toolchains
from rrk.sandbox.verdict import Job
from tests.languages.plainbox import PlainBox

BATCHED = [code for code, toolchain in toolchains.all().items() if toolchain.batch]


def usable(code):
    toolchain = toolchains.load(code)
    if lacking := toolchain.missing():
        pytest.skip(f"{code}: {'; '.join(lacking)}")
    return toolchain


def jobs_of(toolchain):
    timeout = {"Timeout": 1.0}
    return [
        (Job(toolchain.id, t.prompt, t.completion, t.tests, timeout=timeout.get(t.status)), t.status)
        for t in toolchain.selftests
    ]


def counted(factory):
    """A box factory that counts the boxes it made."""

    class Counted(factory):
        made = 0

        def __init__(self):
            type(self).made += 1
            super().__init__()

    return Counted


def test_typescript_and_java_have_batches():
    assert set(BATCHED) >= {"ts", "java"}


@pytest.mark.parametrize("code", BATCHED)
def test_a_batch_gives_every_program_its_own_verdict(code):
    toolchain = usable(code)
    work = jobs_of(toolchain)
    boxes = counted(PlainBox)
    verdicts = batches.judge_batch(toolchain, [job for job, _ in work], boxes)
    assert [v.status for v in verdicts] == [status for _, status in work]
    rejected = sum(v.status == "CompileError" for v in verdicts)
    # One box compiles (tsc a second time, without the syntax error), and one runs each program that compiled.
    assert boxes.made <= 2 + len(work) - rejected
    for verdict in verdicts:
        if verdict.status == "CompileError":
            assert "error" in verdict.stderr


@pytest.mark.parametrize("code", BATCHED)
def test_a_batch_that_breaks_is_judged_one_by_one(code):
    toolchain = usable(code)
    step = replace(toolchain.batch.step, argv=("/bin/sh", "-c", "kill -9 $$"))
    broken = replace(toolchain, batch=replace(toolchain.batch, step=step))
    work = jobs_of(toolchain)[:2]
    verdicts = batches.judge_batch(broken, [job for job, _ in work], PlainBox)
    assert [v.status for v in verdicts] == [status for _, status in work]


def test_a_program_cannot_change_its_neighbours_types():
    toolchain = usable("ts")
    tests = "declare var require: any;\nconst assert = require('node:assert');\nassert.deepEqual(add(1, 2), 3);\n"
    prompt = "function add(a: number, b: number): number {\n"
    hostile = Job(
        "ts", prompt, "  return a + b;\n}\ndeclare global { interface Number { magic: string } }\nexport {};\n", tests
    )
    relying = Job("ts", prompt, "  (1).magic; return a + b;\n}\n", tests)
    honest = Job("ts", prompt, "  return a + b;\n}\n", tests)
    verdicts = batches.judge_batch(toolchain, [hostile, relying, honest], PlainBox)
    assert [v.status for v in verdicts[1:]] == ["CompileError", "OK"]


def test_java_classes_of_one_name_do_not_meet():
    toolchain = usable("java")
    prompt = "import java.util.*;\nclass Problem {\n    static class Helper { static long twice(long x) { return FACTOR * x; } }\n    public static long twice(long x) {\n"
    tests = "    }\n    public static void main(String[] args) {\n    assert(twice(2l) == (4l));\n    }\n}\n"
    jobs = [
        Job("java", prompt.replace("FACTOR", str(factor)), "        return Helper.twice(x);\n", tests)
        for factor in (2, 3, 2)
    ]
    verdicts = batches.judge_batch(toolchain, jobs, PlainBox)
    assert [v.status for v in verdicts] == ["OK", "Exception", "OK"]


def test_what_is_not_a_tar_of_plain_files_is_not_read():
    from rrk.sandbox.jail.box import Outcome

    assert batches._members(Outcome(exit_code=0, stdout=b"no tar at all")) == {}
    assert batches._members(Outcome(exit_code=0, error="x", stdout=b"")) == {}


def test_the_precompiled_header_is_built_once_and_changes_no_verdict(tmp_path, monkeypatch):
    toolchain = usable("cpp")
    if not toolchain.tools["mold"].path:
        pytest.skip("no mold")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not toolchain.prepared()
    work = jobs_of(toolchain)
    assert recipes.assemble(toolchain, work[0][0]).mode.name == ""
    with PlainBox() as box:
        folder = batches.prepare(toolchain, box)
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert str(folder) in toolchain.mounts()
    assert recipes.assemble(toolchain, work[0][0]).mode.name == "precompiled"
    boxes = counted(PlainBox)
    with boxes() as box:
        assert batches.prepare(toolchain, box) == folder
        assert not list(box.folder.iterdir()), "nothing is built twice"
    for job, status in work:
        with PlainBox() as box:
            assert recipes.judge(toolchain, job, box).status == status


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("#include<assert.h>\n#include<bits/stdc++.h>\nint f() {\n", True),
        ("// said\n#include <vector>\n\n#include <bits/stdc++.h>\n", True),
        ("#define NDEBUG\n#include <bits/stdc++.h>\n", False),
        ("#include <vector>\nint y1;\n", False),
        ("int x;\n#include <bits/stdc++.h>\n", False),
    ],
)
def test_the_precompiled_header_serves_only_programs_that_begin_with_it(text, mode):
    patterns = {m.name: m.when for m in toolchains.load("cpp").modes}
    assert bool(patterns["precompiled"].search(text)) is mode


def test_a_preparation_that_fails_says_so(tmp_path, monkeypatch):
    toolchain = usable("cpp")
    monkeypatch.setenv("HOME", str(tmp_path))
    broken = replace(toolchain, prepare=replace(toolchain.prepare, files={"pch.h": "#error no\n"}))
    with PlainBox() as box, pytest.raises(RrkError, match=r"cpp\.toml: preparing C\+\+17 failed"):
        batches.prepare(broken, box)
