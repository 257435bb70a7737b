"""The judge above its workers: order, sparing work, trying again, fairness. Workers are fake here; the jail has tests of its own."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace

import pytest

from rrk.errors import RrkError
from rrk.sandbox import Job, Judge
from rrk.sandbox.judge import calibration
from rrk.sandbox.judge.cache import Cache
from rrk.sandbox.languages import toolchains
from rrk.sandbox.verdict import Verdict, verdict
from tests.sandbox.fakeworker import FakeWorker


@pytest.fixture
def worker():
    return FakeWorker.fresh()


def job(text: str, **more) -> Job:
    return Job("py", "", text, "assert f() == 1", **more)


def run(worker, texts, jobs=2, **settings) -> tuple[list[Verdict], Judge]:
    with Judge(jobs=jobs, worker=worker, **settings) as judge:
        return list(judge.judge(job(t) if isinstance(t, str) else t for t in texts)), judge


def statuses(verdicts) -> list[str]:
    return [v.status for v in verdicts]


def test_verdicts_come_in_the_order_of_the_jobs_whatever_the_workers_do(worker):
    texts = [f"sleep {0.05 if n % 3 == 0 else 0}; {'OK' if n % 2 else 'Exception'}; ; " + ";" * n for n in range(40)]
    verdicts, _ = run(worker, [t.rstrip("; ") + " " * n for n, t in enumerate(texts)], jobs=4)
    assert statuses(verdicts) == ["OK" if n % 2 else "Exception" for n in range(40)]
    assert len(worker.made) > 1
    assert all(made.dead for made in worker.made), "a worker outlived its judge"


def test_the_same_job_runs_once_also_while_it_is_in_flight(worker):
    verdicts, judge = run(worker, ["sleep 0.1; OK"] * 20 + ["Exception"] + ["sleep 0.1; OK"], jobs=4)
    assert statuses(verdicts) == ["OK"] * 20 + ["Exception", "OK"]
    assert sorted(worker.ran) == ["Exception", "sleep 0.1; OK"]
    assert judge.figures["same"] == 20


def test_the_same_text_against_other_tests_or_limits_is_another_job(worker):
    base = job("limit")
    jobs = [base, replace(base, tests="other"), replace(base, timeout=9.0), replace(base, memory_mb=99), base]
    verdicts, _ = run(worker, jobs)
    assert len(worker.ran) == 4
    assert verdicts[2].stdout.startswith("9.0 ")
    assert " 99 " in verdicts[3].stdout


def test_limits_of_the_judge_stand_in_for_what_jobs_leave_open(worker):
    verdicts, _ = run(worker, [job("limit"), job("limit", timeout=1.0, reference="secret")], timeout=7.0, memory_mb=300)
    assert [v.stdout for v in verdicts] == ["7.0 300 None", "1.0 300 None"], "or a reference reached a worker"


def test_own_limits_grow_on_a_slow_machine_and_explicit_ones_do_not(worker, monkeypatch):
    monkeypatch.setattr(calibration, "factor", lambda: 2.0)
    verdicts, _ = run(worker, [job("limit"), job("limit", timeout=3.0)])
    assert [v.stdout.split()[0] for v in verdicts] == ["6.0", "3.0"]


def test_calibration_is_near_one_or_above_and_bounded():
    assert 1.0 <= calibration.factor() <= calibration.MOST
    assert calibration.factor() == calibration.factor()


def test_a_dead_worker_is_replaced_and_the_job_tried_again(worker):
    verdicts, judge = run(worker, ["die-first 2; OK", "Exception", "OK"], jobs=1)
    assert statuses(verdicts) == ["OK", "Exception", "OK"]
    assert judge.figures["retried"] == 2
    assert len(worker.made) == 3


def test_what_kills_every_worker_is_an_error_of_ours_after_four_tries_and_never_a_label(worker):
    verdicts, _ = run(worker, ["die", "OK", "broken"], jobs=2)
    assert [(v.status, v.passed) for v in verdicts] == [("SandboxError", None), ("OK", True), ("SandboxError", None)]
    assert worker.ran.count("die") == worker.ran.count("broken") == 4
    assert verdicts[0].stderr


def test_a_limit_hit_under_load_counts_only_if_it_is_hit_again_alone(worker):
    texts = ["overloaded once", *(f"sleep 0.0{n}" for n in range(1, 9)), "overloaded always"]
    verdicts, judge = run(worker, texts, jobs=3)
    assert statuses(verdicts) == ["OK"] * 9 + ["Timeout"]
    assert verdicts[-1].passed is False
    assert judge.figures["alone"] == 2
    assert worker.ran.count("overloaded always") == 2


def test_a_lone_rerun_does_not_wait_for_the_end_of_a_slow_input(worker):
    class Slow:
        """Gives one job, and the next only once the first verdict is there."""

        def __init__(self):
            self.given, self.answered = 0, threading.Event()

        def __iter__(self):
            return self

        def __next__(self):
            self.given += 1
            if self.given == 1:
                return job("overloaded once")
            assert self.answered.is_set(), "read on while a verdict was due"
            raise StopIteration

        def ready(self):
            return self.given == 0 or self.answered.is_set()

    source = Slow()
    with Judge(jobs=2, worker=worker) as judge:
        for answer in judge.judge(source):
            assert answer.status == "OK"
            source.answered.set()
    assert source.given == 2


def test_a_timeout_counts_only_if_the_problems_own_solution_had_four_times_its_time(worker, monkeypatch):
    monkeypatch.setattr(calibration, "factor", lambda: 1.0)  # a machine half as fast gives everybody 6 s
    jobs = [
        job("needs 7", reference="needs 2"),  # 8 s are fair
        job("needs 9", reference="needs 2"),  # ... and 9 too long
        job("needs 6", reference="needs 0.5"),  # the language's own 3 s are more than 4 x 0.5
        job("needs 6", reference="Exception"),  # a solution that fails says nothing
        job("needs 6", timeout=5.5, reference="needs 3"),  # the user's word stands
    ]
    jobs = [replace(j, tests=f"tests {n // 2}") for n, j in enumerate(jobs)]
    verdicts, _ = run(worker, jobs)
    assert statuses(verdicts) == ["OK", "Timeout", "Timeout", "Timeout", "Timeout"]
    assert worker.ran.count("needs 2") == 1, "measured once a problem"


def test_repeat_finds_programs_that_do_not_always_pass(worker):
    verdicts, _ = run(worker, ["alternate", "OK", "Exception", "broken"], repeat=3)
    assert [(v.passed, v.reason) for v in verdicts[:3]] == [(None, "flaky"), (True, None), (False, None)]
    assert verdicts[0].status in ("OK", "Exception")
    assert worker.ran.count("OK") == 3
    assert verdicts[3].status == "SandboxError"


def test_verdicts_are_kept_on_disk_and_serve_another_judge(worker, tmp_path):
    texts = ["OK", "Exception", "broken", "alternate"]
    first, _ = run(worker, texts, cache=tmp_path, repeat=2)
    again = FakeWorker.fresh()
    second, judge = run(again, texts, cache=tmp_path, repeat=2)
    assert first[:2] == second[:2]
    assert set(again.ran) == {"broken", "alternate"}, "only verdicts on programs are kept"
    assert judge.figures["cached"] == 2


@pytest.mark.parametrize(
    "change", [{"repeat": 1}, {"level": "none"}, {"timeout": 3.0}, {"memory_mb": 77}], ids=lambda c: next(iter(c))
)
def test_other_rules_are_not_served_from_the_cache(worker, tmp_path, change):
    run(worker, ["OK"], cache=tmp_path, repeat=2)
    again = FakeWorker.fresh()
    run(again, ["OK"], **{"cache": tmp_path, "repeat": 2, **change})
    assert set(again.ran) == {"OK"}


def test_a_changed_sandbox_is_not_served_from_the_cache(worker, tmp_path, monkeypatch):
    run(worker, ["OK"], cache=tmp_path)
    monkeypatch.setattr("rrk.sandbox.judge.judge.rules", lambda: "others")
    again = FakeWorker.fresh()
    run(again, ["OK"], cache=tmp_path)
    assert again.ran == ["OK"]


def test_a_cache_serves_several_processes_at_once_and_says_when_it_is_broken(tmp_path):
    one, two = Cache(tmp_path), Cache(tmp_path)
    answer = verdict("OK", stdout="é\ud800")
    one.put("a", answer)
    one.flush()
    two.put("a", answer)
    two.put("b", verdict("Exception"))
    two.close()
    assert one.get("a") == answer
    assert one.get("b").status == "Exception"
    assert one.get("c") is None
    one.close()
    (tmp_path / "verdicts.sqlite").write_bytes(b"not a data base at all, whatever it says" * 100)
    with pytest.raises(RrkError, match=r"verdicts.sqlite.*remove it"):
        Cache(tmp_path)


def test_missing_tools_and_unknown_languages_are_no_labels(worker, tmp_path):
    source = (toolchains.folder() / "lua.toml").read_text().replace('id = "lua"', 'id = "lux"')
    source = re.sub(r"find = \[.*\]", 'find = ["no-such-tool"]', source)
    (tmp_path / "lux.toml").write_text(source)
    jobs = [Job("lux", "", "x", "y"), Job("cobol", "", "x", "y"), job("OK")]
    verdicts, _ = run(worker, jobs, sandboxes=[tmp_path])
    assert [(v.status, v.passed) for v in verdicts] == [("NoToolchain", None), ("NoToolchain", None), ("OK", True)]
    assert "apt-get install" in verdicts[0].stderr
    assert "no language 'cobol'" in verdicts[1].stderr


def test_no_worker_at_all_is_an_error_of_the_judge(worker):
    worker.may_start = 0
    with pytest.raises(RrkError, match="no further worker"):
        run(worker, ["OK"])


def test_where_no_further_worker_can_be_had_the_others_do_all(worker):
    worker.may_start = 1
    verdicts, _ = run(worker, [f"sleep 0.0{n}; OK" for n in range(1, 9)], jobs=4)
    assert statuses(verdicts) == ["OK"] * 8


def test_a_bug_of_ours_is_raised_and_does_not_hang(worker):
    with pytest.raises(AssertionError, match="a bug of ours"):
        run(worker, ["OK", "bug", "OK "])


def test_at_most_so_many_jobs_run_at_once(worker):
    run(worker, [f"sleep 0.02; OK{' ' * n}" for n in range(30)], jobs=3)
    assert worker.most_busy == 3


def test_sleepers_hold_no_core_and_busy_programs_do(worker):
    began = time.monotonic()
    run(worker, [f"child 1.2; OK{' ' * n}" for n in range(4)], jobs=1)
    assert time.monotonic() - began < 4.0, "four sleepers took turns"
    busy = FakeWorker.fresh()
    run(busy, [f"child burn 0.7; OK{' ' * n}" for n in range(2)], jobs=1)
    assert busy.most_busy == 1


def test_leaving_ends_workers_in_the_middle_of_their_work(worker):
    began = time.monotonic()
    with Judge(jobs=2, worker=worker) as judge:
        stream = judge.judge([job("OK"), job("sleep 60"), job("sleep 61")])
        assert next(stream).passed
        stream.close()
    assert time.monotonic() - began < 5
    assert all(made.dead for made in worker.made)


def test_the_window_is_bounded(worker):
    taken = []

    def source():
        for n in range(1000):
            taken.append(n)
            yield job(f"OK{' ' * n}")

    with Judge(jobs=2, worker=worker, window=50) as judge:
        stream = judge.judge(source())
        for n in range(200):
            next(stream)
            assert len(taken) <= n + 1 + 50


def test_languages_that_compile_in_batches_take_along_what_waits(worker, monkeypatch):
    seen = []

    def batch(toolchain, jobs, new_box):
        seen.append(len(jobs))
        return [verdict("OK") for _ in jobs]

    monkeypatch.setattr("rrk.sandbox.languages.batches.judge_batch", batch)
    monkeypatch.setattr("rrk.sandbox.languages.recipes.judge", lambda *_: verdict("OK"))
    monkeypatch.setattr("rrk.sandbox.languages.toolchains.Toolchain.missing", lambda *_: [])
    jobs = [Job("ts", "", f"x{n}", "y") for n in range(60)] + [job("OK")]
    verdicts, _ = run(worker, jobs, jobs=2)
    assert statuses(verdicts) == ["OK"] * 61
    assert max(seen) > 10, "no batch"
    assert max(seen) <= 31, "one worker took all, the other had nothing to do"


def test_evidence_is_gathered_without_the_jobs_own_tests(worker):
    pairs = [(job("OK"), ("a1", "b0")), (job("Exception"), ("c1",))]
    with Judge(jobs=1, worker=worker) as judge:
        answers = list(judge.evidence(pairs, each_s=0.5))
    assert [a.evidence for a in answers] == [{"passed": "10", "outputs": ["", ""]}, {"passed": "1", "outputs": [""]}]
