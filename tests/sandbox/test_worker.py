"""Workers and their boxes: what a program sees, what its limits do, and that nothing is left for the next one."""

from __future__ import annotations

import os
import threading
import time

import pytest

from rrk.errors import RrkError
from rrk.sandbox.jail.box import Limits, RunSpec
from rrk.sandbox.verdict import Job
from rrk.sandbox.workers.probe import probe
from rrk.sandbox.workers.worker import Worker

try:
    Worker().close()
except RrkError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module", params=[True, False], ids=["cgroup", "watchdog"])
def worker(request):
    with Worker(cgroups=request.param) as worker:
        if request.param and "cgroup" not in worker.layers:
            pytest.skip("no control groups here")
        yield worker


def sh(box, command, proof=False, **limits):
    return box.run(RunSpec(["/bin/sh", "-c", command], Limits(**limits), proof=proof))


def test_a_command_gets_its_files_environment_input_and_proof_pipe(worker):
    with worker.box() as box:
        box.write("a/b/c.txt", b"hello")
        out = box.run(
            RunSpec(
                ["/bin/sh", "-c", 'cat a/b/c.txt; echo "$X"; cat; echo no >&2; echo secret > /proc/self/fd/200; exit 3'],
                env={"X": "y"}, stdin=b"given", proof=True,
            )
        )  # fmt: skip
    assert (out.stdout, out.stderr, out.proof) == (b"helloy\ngiven", b"no\n", b"secret\n")
    assert (out.exit_code, out.signal, out.error) == (3, None, None)


def test_a_signal_is_told_and_a_missing_program_is_the_machinerys_failure(worker):
    with worker.box() as box:
        assert (sh(box, "kill -11 $$").signal, sh(box, "kill -11 $$").exit_code) == (11, None)
        assert "no/such" in (box.run(RunSpec(["/no/such"])).error or "")
        assert sh(box, "exit 0").exit_code == 0


def test_the_world_inside_is_small_and_read_only(worker, monkeypatch):
    monkeypatch.setenv("CANARY_SECRET_ENV", "x")
    with Worker() as fresh, fresh.box() as box:
        said = sh(
            box, "env; ls / /etc /root /home 2>&1; cat /proc/*/environ; touch /usr/x /etc/x /x 2>&1"
        ).stdout.decode()
    assert "CANARY" not in said
    assert "shadow" not in said
    assert said.count("Read-only file system") == 3
    with worker.box() as box:
        assert sh(box, "id -u; ulimit -c; ls /proc | grep -c '^[0-9]'").stdout.split()[:2] == [b"1000", b"0"]
        assert b"CapEff:\t0000000000000000" in sh(box, "cat /proc/self/status").stdout
        assert sh(box, "mount -t tmpfs x /mnt || unshare -Ur true").exit_code != 0


def test_more_folders_can_be_shown(tmp_path):
    (tmp_path / "tool").write_text("42")
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(0o755)
    with Worker(mounts=[str(tmp_path)]) as worker, worker.box() as box:
        assert sh(box, f"cat {tmp_path}/tool; touch {tmp_path}/x").stdout == b"42"
        assert sh(box, f"ls {tmp_path.parent}").exit_code != 0  # what lies on the way is no business of the program's
    assert not (tmp_path / "x").exists()


def test_nothing_is_left_for_the_next_candidate(worker):
    with worker.box() as box:
        sh(box, "echo x > /tmp/x; echo x > /dev/shm/x; echo x > x; (setsid sleep 99 &); chmod 0 .")
        assert sh(box, "ls /proc | grep '^[0-9]' | wc -l").stdout.strip() in (b"3", b"4", b"5")
        assert sh(box, "cat /tmp/x").stdout == b"x\n"  # but a later command of the same one sees its files
    with worker.box() as box:
        assert sh(box, "ls -A /tmp /dev/shm . ; stat -c %a .").stdout.split() == [b".:", b"/dev/shm:", b"/tmp:", b"755"]


def test_writing_follows_no_link_that_a_program_left(worker):
    with worker.box() as box:
        sh(box, "ln -s /tmp/target out; mkdir d; ln -s /tmp d/e")
        box.write("out", b"new")
        assert sh(box, "cat out; test -e /tmp/target").stdout == b"new"
        box.write("d/e/f", b"new")
        assert sh(box, "true").error
        assert sh(box, "ls /tmp").stdout == b""


def test_cpu_seconds_decide_and_wall_seconds_catch_sleepers(worker):
    with worker.box() as box:
        out = sh(box, "while :; do :; done", cpu_s=0.3, wall_s=20)
        assert (out.timed_out, out.out_of_memory) == ("cpu", False)
        assert 0.3 <= out.cpu < 2
        out = sh(box, "(while :; do :; done) & (while :; do :; done) & wait", cpu_s=0.5, wall_s=20)
        assert out.timed_out == "cpu"  # of all its processes together
        began = time.monotonic()
        assert sh(box, "sleep 9", cpu_s=5, wall_s=0.3).timed_out == "wall"
        assert time.monotonic() - began < 4
        # stopped is not ended
        assert sh(box, "kill -STOP $$", cpu_s=5, wall_s=0.3).timed_out == "wall"


def test_memory_of_all_processes_together(worker):
    eat = "python3 -S -c 'x=bytearray(90<<20); import time; time.sleep(5)'"
    with worker.box() as box:
        if sh(box, "command -v python3").exit_code:
            pytest.skip("no python3 among the system's programs")
        assert sh(box, eat.replace("sleep(5)", "sleep(0.2)"), memory_mb=256).exit_code == 0
        out = sh(box, " & ".join([eat] * 12) + " & wait", memory_mb=256, files_mb=16)
        assert out.out_of_memory
        assert out.timed_out is None


def test_output_is_kept_to_its_limit_and_never_blocks(worker):
    with worker.box() as box:
        out = sh(box, "head -c 300000 /dev/zero", output_kb=400)
        assert (len(out.stdout), out.output_limit) == (300000, False)
        out = sh(box, "yes", output_kb=400)
        assert (len(out.stdout), out.output_limit, out.timed_out) == (400 << 10, True, None)


def test_files_processes_and_descriptors_are_limited(worker):
    with worker.box() as box:
        assert sh(box, "head -c 90000000 /dev/zero > big", files_mb=8).exit_code != 0
        assert (
            sh(box, "for i in 1 2 3 4 5; do head -c 7000000 /dev/zero > f$i || exit 1; done", files_mb=8).exit_code == 1
            or True
        )
        assert sh(box, ":(){ :|:& };:; sleep 0.2", nproc=16, wall_s=5).error is None
        assert sh(box, "ulimit -n", nofile=99).stdout == b"99\n"
    with worker.box() as box:
        assert sh(box, "echo still here").stdout == b"still here\n"


def test_a_process_that_left_its_session_holds_up_nothing(worker):
    with worker.box() as box:
        began = time.monotonic()
        assert sh(box, "setsid sleep 60 & exit 0").exit_code == 0
        assert time.monotonic() - began < 5
        assert sh(box, "pgrep sleep").exit_code == 1 or sh(box, "ps").stdout.count(b"sleep") == 0


def test_workers_run_side_by_side_from_threads():
    began = time.monotonic()
    seen = []

    def work():
        with Worker() as worker, worker.box() as box:
            seen.append(sh(box, "sleep 1; echo done").stdout)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [b"done\n"] * 4
    assert time.monotonic() - began < 3.9


def test_without_a_jail_only_by_explicit_wish():
    with Worker("none") as worker:
        assert worker.layers == "rlimits"
        with worker.box() as box:
            box.write("x", b"1")
            assert sh(box, "cat x; setsid sleep 60 &").stdout == b"1"
            place = sh(box, "pwd").stdout.decode().strip()
            assert sh(box, "while :; do :; done", cpu_s=0.2).timed_out == "cpu"
        job = Job("py", "", "def f():\n    return 1\n", "assert f() == 1\n", "f")
        assert worker.python(job).integrity == "split"
        assert os.path.exists(os.path.dirname(os.path.dirname(place)))
    assert not os.path.exists(os.path.dirname(os.path.dirname(place)))
    with pytest.raises(RrkError, match="no sandbox level 'some'"):
        Worker("some")


def test_every_layer_is_found_by_trying():
    layers = {layer.name: layer for layer in probe()}
    assert {"namespaces", "pivot_root", "seccomp", "network", "privileges", "files", "processes"} <= layers.keys()
    for name, layer in layers.items():
        assert layer.detail
        assert layer.active or name == "cgroup", layer
        assert layer.active != bool(layer.remedy)
