"""`-o FILE`, wherever it stands: what is no regular file is written into, a link is followed, a file appears whole."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import threading

import pytest

from rrk import jsonl, outputs
from rrk.errors import RrkError, UsageError
from tests.conftest import environment, rrk_command

ROWS = [
    {"task_id": f"t/{i // 3}", "prompt": "def f():\n", "completion": f"    return {i}\n", "passed": i % 3 == 0}
    for i in range(12)
]


def read_all(path, found: list) -> threading.Thread:
    def read():
        with open(path, "rb") as stream:
            found.append(stream.read())

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["pipe", "pipe.gz"])
def test_a_whole_file_goes_straight_into_a_fifo(tmp_path, name):
    # Renaming over it would leave its reader waiting, and a file where a FIFO was.
    os.mkfifo(tmp_path / name)
    found: list[bytes] = []
    reader = read_all(tmp_path / name, found)
    jsonl.write(tmp_path / name, ROWS)
    reader.join(20)
    data = gzip.decompress(found[0]) if name.endswith("gz") else found[0]
    assert [json.loads(line) for line in data.splitlines()] == ROWS
    assert (tmp_path / name).is_fifo()
    assert os.listdir(tmp_path) == [name]


def test_a_link_stays_and_its_target_is_replaced_whole(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "target").write_text("old")
    (tmp_path / "link").symlink_to("there/target")
    (tmp_path / "dangling").symlink_to("there/new")
    for name in ("link", "dangling"):
        with outputs.whole(tmp_path / name) as stream:
            stream.write(b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "new"
    with contextlib.suppress(RuntimeError), outputs.whole(tmp_path / "link") as stream:
        stream.write(b"half")
        raise RuntimeError
    assert (tmp_path / "link").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "target"]


def test_a_descriptor_named_by_a_path_goes_on_where_it_stands(tmp_path):
    # `>> log` with -o /dev/stdout must append: opening the file anew would start at its beginning.
    with open(tmp_path / "log", "ab") as log:
        log.write(b"before\n")
        log.flush()
        with outputs.whole(f"/dev/fd/{log.fileno()}") as stream:
            stream.write(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before\nafter\n"
    assert os.listdir(tmp_path) == ["log"]


def test_a_folder_and_a_missing_folder_are_usage_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "file"):
        with pytest.raises(UsageError, match="-o"), outputs.whole(path):
            pass


def test_a_failed_write_leaves_nothing_behind_and_names_the_file(tmp_path):
    full = r"report\.json: No space left on device; make room"
    with pytest.raises(RrkError, match=full), outputs.whole(tmp_path / "report.json"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


WRITERS = {
    "problems": ["problems", "problems.jsonl", "-o", "out"],
    "convert": ["convert", "--to", "trl", "rows.jsonl", "-o", "out"],
    "eval": ["eval", "rows.jsonl", "-o", "out"],
    "html": ["eval", "rows.jsonl", "--html", "out"],
    "train-fusion": ["train-fusion", "rows.jsonl", "-o", "out"],
}


def small_disk(tmp_path, command: list[str]) -> subprocess.CompletedProcess:
    """The command where no file may hold more than a kilobyte; as on a full disk, but for the error's number."""
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command]
    return subprocess.run(limited, cwd=tmp_path, env=environment(), capture_output=True, text=True)


@pytest.fixture
def files(tmp_path):
    many = [{**row, "completion_id": i, "odd": "x" * 200} for i, row in enumerate(ROWS * 4)]
    many = [{**row, "task_id": f"t/{i // 6}"} for i, row in enumerate(many)]
    problem = {"prompt": "def f():\n", "tests": "assert f() == 1\n" * 100, "language": "py"}
    jsonl.write(tmp_path / "rows.jsonl", many)
    jsonl.write(tmp_path / "problems.jsonl", [{"task_id": f"t/{i}", **problem} for i in range(9)])
    return tmp_path


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_of_every_writer(files, name):
    done = small_disk(files, rrk_command(*WRITERS[name]))
    assert done.returncode == 1, done.stderr
    assert "make room" in done.stderr.splitlines()[-1]
    assert "internal error" not in done.stderr
    assert not (files / "out").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_an_existing_folder_of_that_name_is_refused_by_every_writer(files, name):
    (files / "out").mkdir()
    done = subprocess.run(rrk_command(*WRITERS[name]), cwd=files, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "is a folder" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", [["show", "rows.jsonl"], ["eval", "rows.jsonl"], ["problems", "problems.jsonl"]])
def test_a_full_standard_output_is_one_line(files, command):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(rrk_command(*command), cwd=files, env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()
    assert "No space left on device; make room" in said[-1]
    assert "internal error" not in done.stderr.decode()


def test_a_disk_that_is_full_still_at_the_second_resume_is_one_line(files):
    begin = [*rrk_command("rerank", "rows.jsonl", "--method", "majority", "-o", "out")]
    assert "make room" in small_disk(files, begin).stderr
    # Not even the journal's header fits now.
    limited = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *begin, "--resume"]
    done = subprocess.run(limited, cwd=files, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "make room" in done.stderr
    done = subprocess.run([*begin, "--resume"], cwd=files, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((files / "out").read_bytes().splitlines()) == 48
