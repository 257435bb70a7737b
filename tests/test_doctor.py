"""`rrk doctor`: what it says of layers and languages, and its exit code."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest

from rrk.errors import RrkError
from rrk.sandbox.languages import toolchains
from rrk.sandbox.self_test import self_test
from rrk.sandbox.verdict import verdict
from tests.conftest import ROOT
from tests.sandbox.fakeworker import FakeWorker

Layer = namedtuple("Layer", "name active detail remedy")


def knowing(wrong: str = "") -> type[FakeWorker]:
    """A worker that knows Python's self tests by heart, but for one."""
    right = {test.completion: test for test in toolchains.load("py").selftests}

    class Knowing(FakeWorker.fresh()):  # type: ignore[misc]
        def _obey(self, job):
            test = right[job.completion]
            return verdict("OK" if test.name == wrong else test.status)

    return Knowing


def layers(active: bool = True):
    return lambda: [Layer("namespaces", True, "user, pid", ""), Layer("cgroup", active, "memory", "delegate a cgroup")]


def test_python_and_layers_that_work_are_enough():
    report = self_test(["py"], worker=knowing(), probe=layers(active=False))
    assert report.works
    assert [(f.level, f.kind, f.name) for f in report.findings] == [
        ("PASS", "layer", "namespaces"),
        ("CAUTION", "layer", "cgroup"),
        ("PASS", "jail", "worker"),
        ("PASS", "language", "py"),
    ]
    assert report.findings[1].remedy == "delegate a cgroup"
    assert "6 of 6 self tests" in report.findings[3].detail


def test_a_wrong_verdict_on_a_self_test_fails():
    report = self_test(["py"], worker=knowing(wrong="tampering"), probe=layers())
    assert not report.works
    assert report.findings[-1].level == "FAIL"
    assert "'tampering' is OK instead of Tampered" in report.findings[-1].detail


def test_no_jail_fails_with_its_remedy_and_runs_nothing():
    worker = FakeWorker.fresh(may_start=0)
    report = self_test(["py"], worker=worker, probe=layers())
    assert not report.works
    assert report.findings[-1].level == "FAIL"
    assert "podman" in report.findings[-1].remedy
    assert worker.ran == []


def test_a_language_that_is_not_installed_is_a_caution_unless_it_was_asked_for(tmp_path):
    text = (ROOT / "sandboxes" / "lua.toml").read_text().replace('id = "lua"', 'id = "lux"')
    (tmp_path / "lux.toml").write_text(text.replace('["lua5.4", "lua5.3", "lua"]', '["no-such-lua"]'))
    asked = self_test(["lux"], worker=knowing(), probe=layers(), sandboxes=[tmp_path])
    assert not asked.works
    assert asked.findings[-1].level == "FAIL"
    assert "apt-get install" in asked.findings[-1].remedy


def test_a_language_nobody_declared_is_refused():
    with pytest.raises(RrkError, match="no language 'cobol'"):
        self_test(["cobol"], worker=knowing(), probe=layers())


def test_doctor_on_this_machine(rrk):
    done = rrk("doctor", "python", "--json")
    record = json.loads(done.stdout)
    assert record["works"] == (done.returncode == 0)
    (python,) = [f for f in record["findings"] if f["kind"] == "language"]
    assert python["name"] == "py"
    assert {t["status"] for t in python["more"]["selftests"]} >= {"OK", "Exception", "SyntaxError", "Timeout"}
    assert done.returncode == 0, done.stderr.decode()
    plain = rrk("doctor", "py")
    assert plain.stdout.decode().splitlines()[-1].startswith("PASS")
    assert rrk("doctor", "cobol").returncode == 1
