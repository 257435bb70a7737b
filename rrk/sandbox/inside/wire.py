"""How the supervisor and its workers talk: a JSON header, a blob and descriptors over a stream socket.

    send(sock, {"op": "run", "argv": [...]}, blob, fds=[5]);  header, blob, fds = receive(sock)

Only trusted ends talk this way. What a candidate says goes through rrk/sandbox/inside/codec.py.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_HEAD = struct.Struct("<II")
_MOST = 1 << 31


class Gone(Exception):
    """The other end has closed."""


def send(sock: socket.socket, header: dict[str, Any], blob: bytes = b"", fds: Sequence[int] = ()) -> None:
    text = json.dumps(header).encode()
    data = _HEAD.pack(len(text), len(blob)) + text
    if len(blob) < 1 << 16:
        data, blob = data + blob, b""
    try:
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            data = data[sock.sendmsg([data], rights) :]
        sock.sendall(data)
        if blob:
            sock.sendall(blob)
    except OSError as error:
        raise Gone(str(error)) from None


def receive(sock: socket.socket) -> tuple[dict[str, Any], bytes, list[int]]:
    """The next message; raises Gone at the end of the stream."""
    fds = array.array("i")
    try:
        head, rights, _, _ = sock.recvmsg(_HEAD.size, socket.CMSG_SPACE(4 * fds.itemsize))
    except OSError as error:
        raise Gone(str(error)) from None
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if len(head) < _HEAD.size:
        head += exactly(sock, _HEAD.size - len(head)) if head else _gone()
    text, blob = _HEAD.unpack(head)
    data = exactly(sock, text + blob)
    return json.loads(data[:text]), data[text:], list(fds)


def _gone() -> bytes:
    raise Gone("closed")


def exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes of the stream, or Gone."""
    if size > _MOST:
        raise Gone(f"a message of {size} bytes")
    parts = []
    while size:
        try:
            part = sock.recv(min(size, 1 << 20))
        except OSError as error:
            raise Gone(str(error)) from None
        if not part:
            raise Gone("closed")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
