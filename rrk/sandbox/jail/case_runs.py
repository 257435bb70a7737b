"""Process 1 running one program on many inputs: a child a case, each outcome told as soon as it is there.

serve(server, header, blob)     # for the request {"op": "cases", ...} of rrk/sandbox/judge/case_judge.py

The program is a command in the box that is open (compiled before), or Python text that a fork of this process runs. Each case
has a child of its own, so nothing of one run is left for the next but files of the box. What a case expects is not told here.
"""

from __future__ import annotations

import os
import resource
import select
import signal
from dataclasses import replace
from typing import Any

from rrk.sandbox.inside import whole_program, wire
from rrk.sandbox.jail import kernel
from rrk.sandbox.jail.box import Limits
from rrk.sandbox.jail.fork_server import ForkServer

LATE = 3  # cases that may run out of time before the others get a tenth of it
KEPT_STDERR = 4096
RESULT_FD = 3


def serve(server: ForkServer, header: dict[str, Any], blob: bytes) -> None:
    """Run the cases in order until all have run or the supervisor has seen enough; {"end": how many} comes last."""
    view = memoryview(blob)
    at = header["program"]
    program = bytes(view[:at])
    limits = Limits(**header["limits"])
    waiting = select.poll()
    waiting.register(server.control, select.POLLIN)
    late = header["late"]
    number = 0
    for size, cpu_s, output_kb in header["cases"]:
        if waiting.poll(0) and _stopped(server, header["seq"]):
            break
        cpu_s = cpu_s if late < LATE else cpu_s / 10
        own = replace(limits, cpu_s=cpu_s, wall_s=cpu_s * limits.wall_s / limits.cpu_s, output_kb=output_kb)
        seen, streams = _one(server, header, own, program, view[at : at + size])
        at += size
        number += 1
        late += bool(seen["timed_out"])
        seen["sizes"] = [len(stream) for stream in streams]
        wire.send(server.control, seen, b"".join(streams))
        if seen["stopped"]:
            break
    wire.send(server.control, {"end": number})


def _stopped(server: ForkServer, seq: int) -> bool:
    header, _, _ = wire.receive(server.control)
    return bool(header["op"] == "stop" and header["seq"] == seq)


def _one(
    server: ForkServer, header: dict[str, Any], limits: Limits, program: bytes, stdin: memoryview
) -> tuple[dict[str, Any], list[bytes]]:
    """One case: what was seen of it; its standard output, the head of its standard error, and what the child said of itself."""
    if header["argv"] is None:
        server.open(limits.files_mb)
    out, err, inp, result = (server.output() for _ in range(4))
    try:
        while stdin:
            stdin = stdin[os.write(inp, stdin) :]
        os.lseek(inp, 0, os.SEEK_SET)
        pid = server.fork()
        if pid == 0:
            try:
                server.child(limits, inp, out, err)
                server.core.free(0)
                for number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                if header["argv"] is None:
                    _python(header, limits, program, result)
                else:
                    _command(server, header, result)
            finally:
                os._exit(127)
        seen = server.watch(pid, limits, (out, err), header["seq"])
        most = limits.output_kb << 10
        streams = [os.pread(out, most, 0), os.pread(err, KEPT_STDERR, 0), os.pread(result, most, 0)]
        return seen, streams
    finally:
        for fd in (out, err, inp, result):
            os.close(fd)


def _python(header: dict[str, Any], limits: Limits, program: bytes, result: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as the interpreter has it
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kernel.limit([(resource.RLIMIT_DATA, limits.memory_mb << 20)])
    os.dup2(result, RESULT_FD)
    os.closerange(RESULT_FD + 1, 1 << 16)
    text = program.decode("utf-8", "surrogatepass")
    path = kernel.WORK + "/main.py"
    if header["entry"] is None:
        whole_program.whole(text, header["prelude"], path, RESULT_FD)
    args = os.pread(0, os.fstat(0).st_size, 0)
    whole_program.called(text, header["prelude"], path, header["entry"], RESULT_FD, args)


def _command(server: ForkServer, header: dict[str, Any], result: int) -> None:
    try:
        os.set_inheritable(result, False)
        kernel.close_all_but([result])
        os.execvpe(header["argv"][0], header["argv"], server.environment(header["env"]))
    except BaseException as error:
        os.write(result, b"!" + f"{header['argv'][0]}: {error}".encode()[:4000])
