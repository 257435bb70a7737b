"""Runs the shared hostile programs through workers and says what came of each and of the host: used by test_hostile.py.

    python -m tests.sandbox.corpus FILE [LANGUAGE ...]      # one JSON line a program, then one for the host

Standard library only, so that it also runs by another user's interpreter.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rrk.sandbox.verdict import Job, Verdict
from rrk.sandbox.workers.worker import Worker

WORDS = {
    "OK": "pass",
    "Exception": "fail",
    "Tampered": "fail",
    "MemoryLimit": "fail",
    "OutputLimit": "fail",
    "Timeout": "timeout",
    "SyntaxError": "compile_error",
    "CompileError": "compile_error",
}
REASONS = {"tampered": "Tampered", "early_exit": "Tampered", "oom": "MemoryLimit", "output_limit": "OutputLimit"}
SECRET = "canary-7f3a9c51"


def rows(file: Path, languages: list[str]) -> list[dict]:
    with gzip.open(file, "rt") as lines:
        return [row for row in map(json.loads, lines) if row["language"] in languages]


def wrong(row: dict, status: str) -> bool:
    """Whether a verdict is not one that a sound judge gives."""
    word = WORDS.get(status, status)
    reason = REASONS.get(row.get("reason") or "")
    return word not in row["acceptable"] or bool(reason and word == "fail" and status != reason)


def toolchain(language: str) -> Any:
    from rrk.sandbox.languages import toolchains  # needs more than the standard library

    return toolchains.load(language)


def recipe(language: str, job: Job, box: Any) -> Verdict:
    from rrk.sandbox.languages import recipes

    return recipes.judge(toolchain(language), job, box)


def run(work: list[dict], workers: int = 4, seconds: float = 0.6, mode: str = "split") -> list[Verdict]:
    """The verdicts on these rows, several workers at once (most of the time is spent by sleepers)."""
    mounts = [m for language in {r["language"] for r in work} - {"py"} for m in toolchain(language).mounts()]
    free: SimpleQueue[Worker] = SimpleQueue()
    started = [Worker(mounts=mounts) for _ in range(workers)]
    for worker in started:
        free.put(worker)

    def one(row: dict) -> Verdict:
        worker = free.get()
        try:
            entry = "add" if row["language"] == "py" else None
            job = Job(
                row["language"],
                row["prompt"],
                row["completion"],
                row["tests"],
                entry,
                # Where no timeout is acceptable, a slow or busy machine gets the time to reach another limit.
                timeout=(seconds if entry else 2.0) if "timeout" in row["acceptable"] else 10.0,
            )
            if row["language"] == "py":
                return worker.python(Job(**{**vars(job), "memory_mb": 512}), mode)
            with worker.box() as box:
                return recipe(row["language"], job, box)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(workers) as pool:
        verdicts = list(pool.map(one, work))
    for worker in started:
        assert not worker.dead
        worker.close()
    return verdicts


class Host:
    """What must not change on the host: files, listeners, processes, memory files."""

    def __init__(self) -> None:
        os.environ["CANARY_SECRET_ENV"] = SECRET
        self.secret = Path("/tmp/rrk_canary_secret")
        self.secret.write_text(SECRET)
        self.target = Path("/tmp/rrk_canary_target")
        self.target.write_text("untouched")
        self.shm = {*os.listdir("/dev/shm")}
        self.heard: list[str] = []
        self.sockets = []
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 47613)),
            (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 47613)),
            (socket.AF_UNIX, socket.SOCK_STREAM, "\0rrk_canary_abstract"),
        ):
            sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for _ in range(600):
                try:
                    sock.bind(address)
                    break
                except OSError:
                    time.sleep(0.1)  # another run of this test has it
            if kind == socket.SOCK_STREAM:
                sock.listen()
            threading.Thread(target=self._listen, args=(sock, kind), daemon=True).start()
            self.sockets.append(sock)

    def _listen(self, sock: socket.socket, kind: int) -> None:
        try:
            self.heard.append(repr(sock.accept() if kind == socket.SOCK_STREAM else sock.recv(99)))
        except OSError:
            pass

    def complaints(self, texts: list[str]) -> list[str]:
        found = [f"heard {text}" for text in self.heard]
        if self.target.read_text() != "untouched":
            found.append("the symlink's target was written")
        found += [f"{path} exists" for path in _pwned() if os.path.exists(path)]
        found += [f"a row shows the secret: {text[:200]}" for text in texts if SECRET in text]
        if new := {*os.listdir("/dev/shm")} - self.shm:
            found.append(f"/dev/shm: {new}")
        if left := survivors():
            found.append(f"processes left: {left}")
        for path in (self.secret, self.target):
            path.unlink()
        return found


def _pwned() -> list[str]:
    return [
        f"{folder}/rrk_pwned" for folder in ("/tmp", "/usr", "/var/tmp", "/etc", "/dev", "/root", os.getcwd(), "..")
    ]


def survivors() -> list[str]:
    """Processes of ours that should not be there: any whose parent chain leads here, and any that runs a worker's code."""
    for _ in range(50):
        found = []
        for number in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = Path(f"/proc/{number}/stat").read_text()
            except OSError:
                continue
            parent = stat.rpartition(")")[2].split()[1]
            if parent == str(os.getpid()):
                found.append(stat[:60])
        if not found:
            return []
        time.sleep(0.02)
    return found


def main() -> None:
    file, *languages = sys.argv[1:]
    host = Host()
    work = rows(Path(file), languages or ["py"])
    verdicts = run(work)
    for row, verdict in zip(work, verdicts, strict=True):
        fields = {
            "id": row["id"],
            "status": verdict.status,
            "wrong": wrong(row, verdict.status),
            "sandbox": verdict.sandbox,
        }
        print(json.dumps({**fields, "size": len(json.dumps(verdict.fields()))}))
    print(json.dumps({"host": host.complaints([json.dumps(v.fields()) for v in verdicts])}))


if __name__ == "__main__":
    main()
