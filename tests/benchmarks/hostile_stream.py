"""The whole hostile corpus among honest programs, in one `rrk execute`. Minutes; not part of `make test`.

    python -m tests.benchmarks.hostile_stream [--honest 1000] [-j 2] [--times 1] [--busy 4] [--options "..."]

Checks every verdict (hostile: an acceptable one; honest: the recorded one), and the host afterwards: nothing of it in any
row, nothing heard on its network, nothing written, no process left, memory as before. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.conftest import SHARED, environment, rrk_command
from tests.languages.known import WORDS

SECRET = "rrk-canary-7d1f0c"


def packed(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def hostile() -> list[dict[str, Any]]:
    rows = []
    for row in packed(SHARED / "adversarial/candidates.jsonl.gz"):
        words = {word for neutral in row["acceptable"] for word in WORDS[neutral]}
        if row["reason"] in ("tampered", "early_exit") and "pass" not in row["acceptable"]:
            words.discard("OK")
        fields = {name: row[name] for name in ("language", "prompt", "completion", "tests")}
        rows.append({"task_id": row["id"], **fields, "expected": sorted(words)})
    return rows


def honest(count: int) -> list[dict[str, Any]]:
    problems = {p["task_id"]: p for p in packed(SHARED / "data/problems/humaneval.jsonl.gz")}
    candidates = packed(SHARED / "data/candidates/codet_humaneval_codegen16b.jsonl.gz")
    random.Random(1).shuffle(candidates)
    rows = []
    for row in candidates[:count]:
        problem = problems[row["task_id"]]
        tests = f"{problem['test']}\n\ncheck({problem['entry_point']})\n"
        rows.append(
            {
                "task_id": row["task_id"],
                "language": "py",
                "prompt": row["prompt"],
                "completion": row["completion"],
                "entry_point": problem["entry_point"],
                "tests": tests,
                "honest": row["passed"],
            }
        )
    return rows


class Listener:
    """Whatever reaches the host's network is heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        sockets = []
        tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", 47613))
        tcp.listen()
        sockets.append(("tcp", tcp))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 47613))
        sockets.append(("udp", udp))
        unix = socket.socket(socket.AF_UNIX)
        unix.bind("\0rrk_canary_abstract")
        unix.listen()
        sockets.append(("abstract socket", unix))
        for name, each in sockets:
            threading.Thread(target=self._listen, args=(name, each), daemon=True).start()

    def _listen(self, name: str, each: socket.socket) -> None:
        while True:
            if name == "udp":
                each.recvfrom(100)
            else:
                each.accept()
            self.heard.append(name)


def processes() -> set[tuple[int, str]]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            found.add((int(path.name), (path / "stat").read_text().rpartition(")")[2].split()[19]))
        except OSError:
            pass
    return found


def watch(pid: int, seen: set[tuple[int, str]], ended: threading.Event) -> None:
    """Note every process that comes to be below `pid`, so that one that has cut itself loose is known again."""
    while not ended.wait(0.1):
        below = [pid]
        for process in below:
            for path in Path(f"/proc/{process}/task").glob("*/children"):
                try:
                    below += map(int, path.read_text().split())
                except OSError:
                    pass
        for process in below:
            try:
                seen.add((process, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]))
            except OSError:
                pass


def available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--honest", type=int, default=1000)
    parser.add_argument("-j", type=int, default=2)
    parser.add_argument("--times", type=int, default=1, help="run it so often, and compare the verdicts")
    parser.add_argument("--busy", type=int, default=0, help="endless loops that run beside the last time")
    parser.add_argument("--options", default="", help="further options of rrk execute")
    options = parser.parse_args()
    rows = hostile() + honest(options.honest)
    random.Random(2).shuffle(rows)
    listener = Listener()
    canaries = [Path("/tmp/rrk_canary_secret"), Path.home() / "rrk_canary_secret"]
    for path in canaries:
        path.write_text(SECRET)
    wrong = []
    runs: list[list[str]] = []
    try:
        for number in range(options.times):
            with tempfile.TemporaryDirectory() as folder:
                given = Path(folder) / "rows.jsonl"
                given.write_text("".join(json.dumps(row) + "\n" for row in rows))
                memory = available()
                mounts = Path("/proc/self/mounts").read_text()
                temporary = set(os.listdir("/tmp"))
                shm = set(os.listdir("/dev/shm"))
                loops = [
                    subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    for _ in range(options.busy if number == options.times - 1 else 0)
                ]
                began = time.monotonic()
                command = rrk_command("execute", "-j", str(options.j), *options.options.split(), str(given))
                child = subprocess.Popen(
                    command, env=environment(CANARY_SECRET_ENV=SECRET), stdout=subprocess.PIPE, start_new_session=True
                )
                assert child.stdout is not None
                seen: set[tuple[int, str]] = set()
                ended = threading.Event()
                threading.Thread(target=watch, args=(child.pid, seen, ended), daemon=True).start()
                text = child.stdout.read()
                code = child.wait()
                seconds = time.monotonic() - began
                for loop in loops:
                    loop.kill()
                    loop.wait()
                time.sleep(0.5)
                if code:
                    wrong.append(f"exit code {code}")
                ended.set()
                for pid, start in sorted(processes() & seen):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}").exists() else b""
                    wrong.append(f"process left: {pid} (started {start}) {line[:100]!r}")
                if Path("/proc/self/mounts").read_text() != mounts:
                    wrong.append("mounts left")
                for name in sorted(set(os.listdir("/dev/shm")) - shm):
                    wrong.append(f"/dev/shm/{name} left")
                for name in sorted(set(os.listdir("/tmp")) - temporary):
                    if "rrk" in name or "pwn" in name.lower():
                        wrong.append(f"/tmp/{name} left")
                beside = f" beside {len(loops)} endless loops" if loops else ""
                print(
                    f"{len(rows)} rows in {seconds:.0f} s{beside}; free memory {memory} -> {available()} MB", flush=True
                )
            verdicts = [json.loads(line) for line in text.splitlines()]
            if len(verdicts) != len(rows):
                wrong.append(f"{len(verdicts)} rows out of {len(rows)}")
            if SECRET.encode() in text:
                leaks = [
                    v["task_id"] for v in verdicts if SECRET in json.dumps({k: v[k] for k in ("stdout", "stderr")})
                ]
                wrong.append(f"the canary is in the rows of {leaks}")
            counted: collections.Counter[str] = collections.Counter()
            for row, answer in zip(rows, verdicts, strict=False):
                size = len(json.dumps(answer)) - len(json.dumps(row))
                if size > 16_384:
                    wrong.append(f"{row['task_id']}: {size} bytes added")
                said = (
                    f"{answer['status']} ({answer.get('reason')}), {answer['time']:.1f} s: {answer['stderr'][-150:]!r}"
                )
                if "honest" in row:
                    good = answer["passed"] is row["honest"]
                    kind = "honest"
                else:
                    good = answer["status"] in row["expected"]
                    kind = "hostile"
                counted[f"{kind} {'right' if good else 'WRONG'}"] += 1
                if not good:
                    wrong.append(f"{row['task_id']}: {said}, expected {row.get('expected', row.get('honest'))}")
            print(dict(counted), "sandbox", sorted({v["sandbox"] for v in verdicts}), flush=True)
            runs.append([f"{v['passed']} {v['status']}" for v in verdicts])
    finally:
        for path in canaries:
            path.unlink(missing_ok=True)
    for path in (Path.home(), Path("/"), Path("/tmp"), Path("/dev/shm")):
        wrong += [f"written on the host: {found}" for found in path.glob("*pwned*")]
    wrong += [f"heard on the host's {name}" for name in listener.heard]
    for row, answers in zip(rows, zip(*runs, strict=False), strict=False):
        if len(set(answers)) > 1:
            said = f"{row['task_id']} differs between runs: {dict(collections.Counter(answers))}"
            # A fork bomb, a daemon that writes: whether their tests end first is a race of the program with itself.
            racing = {"OK", "Exception"} <= set(row.get("expected", ()))
            if racing or len({answer.split()[0] for answer in answers}) == 1:
                print(said)
            else:
                wrong.append(said)
    print("\n".join(wrong) or "nothing wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
