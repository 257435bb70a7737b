"""`rrk` without its start: a process that has imported torch, transformers and TRL forks a child for each command.

    warm = Warm(folder, root, environment)
    subprocess.run(warm.command("rrk", "sample", "p.jsonl", "-m", "model"))         # as `python -m rrk sample ...`
    warm.close()

Four seconds of imports are most of what a command on a tiny model costs. The command that is given stands for its child: same
streams, folder, environment, signals and exit code. Only libraries are imported ahead, nothing of rrk's. What a library reads
while it is imported (HF_HUB_OFFLINE, but not OMP_NUM_THREADS) is the server's, and so is the seed of hashes: where runs must give
the same bytes, or say nothing of a library's, one of them is to be a `python -m rrk` of its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LIBRARIES = (
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.trainer",
    "accelerate",
    "peft",
    "datasets",
    "trl.trainer.sft_trainer",
    "trl.trainer.reward_trainer",
)


class Warm:
    """The server, started when a command is first wanted and gone with this process."""

    def __init__(self, folder: Path, root: Path, env: dict[str, str]) -> None:
        self.address, self.root, self.env = (
            folder / "warm",
            root,
            {**env, "JE_ARROW_MALLOC_CONF": "background_thread:false"},
        )
        self.server: subprocess.Popen | None = None

    def command(self, module: str, *args: str) -> list[str]:
        """What to start instead of `python -m MODULE ARG...`."""
        if self.server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            serve = [sys.executable, "-m", "tests.warm", str(self.address)]
            self.server = subprocess.Popen(serve, cwd=self.root, env=self.env, **pipes)
            assert self.server.stdout.readline() == b"ready\n"
        return [sys.executable, "-S", "-E", __file__, str(self.address), module, *map(str, args)]

    def close(self) -> None:
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait(10)
            self.server.stdout.close()


def ask(address: str, module: str, args: list[str]) -> None:
    """The client: hand over what this process was given, pass signals on, end as the command ends."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    for number in SIGNALS:
        signal.signal(number, lambda number, _: server.send(bytes([number])))
    told = json.dumps([module, args, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(told).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(told)
    code = int.from_bytes(server.recv(4), "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def serve(address: str) -> tuple[str, list[str]]:
    """Fork for every request until standard input closes. Returns in a child alone: the module and arguments that it is to run."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a process of several threads cannot be forked"
    gc.freeze()  # what is imported stays as it is
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            os._exit(0)
        client, _ = listener.accept()
        if os.fork() == 0:
            break
        client.close()
        while True:  # those that attended to commands that have ended
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    break
            except ChildProcessError:
                break
    listener.close()
    size, fds, _, _ = socket.recv_fds(client, 4, 3)
    told = b""
    while len(told) < int.from_bytes(size, "big"):
        told += client.recv(1 << 20)
    if child := os.fork():
        for fd in fds:
            os.close(fd)
        attend(client, child)
    client.close()
    module, args, folder, env = json.loads(told)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin, sys.stdout = open(0), open(1, "w")
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = folder
    if threads := env.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))
    return module, args


def attend(client: socket.socket, child: int) -> NoReturn:
    """Pass the client's signals to the child, the child's end to the client; a client that is killed takes the child along."""
    ended = os.pidfd_open(child)
    while ended not in select.select([client, ended], [], [])[0]:
        sent = client.recv(1)
        os.kill(child, sent[0] if sent else signal.SIGKILL)
        if not sent:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        client.send(code.to_bytes(4, "big", signed=True))
    except OSError:
        pass
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        ask(sys.argv[1], sys.argv[2], sys.argv[3:])
    import runpy

    module, args = serve(sys.argv[1])
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
