"""What became of a Python candidate, as a verdict: from what process 1 saw of it, and from what its tests found.

    classified(seen, found, "split", worker.layers)    # seen: limits, status, output; found: {"end": ..., ...}

The order of the rules is fixed, so that two limits that are hit together always give the same verdict.
"""

from __future__ import annotations

import json
import os
from typing import Any

from rrk.sandbox.verdict import (
    EXCEPTION,
    MEMORY_LIMIT,
    OK,
    OUTPUT_LIMIT,
    SANDBOX_ERROR,
    SYNTAX_ERROR,
    TAMPERED,
    TIMEOUT,
    Verdict,
    clip,
    verdict,
)


def classified(seen: dict[str, Any], found: dict[str, Any], integrity: str | None, layers: str) -> Verdict:
    """The verdict that follows from what was seen of the process and what the tests found. The order is fixed."""
    if "error" in seen:
        return verdict(SANDBOX_ERROR, stderr=seen["error"], reason="worker", sandbox=layers)
    status = seen["status"]
    code = None
    if status is not None and not seen["stopped"]:
        code = os.waitstatus_to_exitcode(status)
    end, text = found["end"], str(found.get("text") or "")
    name, reason = EXCEPTION, None
    if hit := limit_hit(seen):
        name, reason = hit
    elif end == "ok":
        name, code = OK, 0
    elif end == "tampered":
        name, reason = TAMPERED, text if text in ("forged", "equality") else "control"
    elif end == "syntax":
        name, reason, code = SYNTAX_ERROR, "syntax", 1
    elif end == "untested":
        name, reason, text = SANDBOX_ERROR, "tests", "the tests ended without having used the program"
    elif end == "endless":
        name, reason = TIMEOUT, "tests"
    elif end == "error":
        name, reason = SANDBOX_ERROR, "tests"
    elif end in ("exit", "load", "fail") and (end == "exit" or found.get("type") == "SystemExit"):
        left = found.get("code")
        if left:
            name, reason, code = EXCEPTION, "exit", left if isinstance(left, int) else 1
        else:
            name, reason, code = TAMPERED, "early_exit", 0
    elif end in ("load", "fail"):
        code = 1
        if found.get("type") == "MemoryError":
            name, reason = MEMORY_LIMIT, "memory"
        else:
            reason = "assertion" if found.get("type") == "AssertionError" else "exception"
    elif status is None or seen["stopped"]:
        name, reason = TAMPERED, "forged"  # it closed the socket that its tests talk to it by, and lives
    elif code == 0:
        name, reason = TAMPERED, "early_exit"
    elif code is not None and code < 0:
        reason = f"signal_{-code}"
    else:
        reason = "exit"
    stdout, stderr = ends(seen)
    if text and end != "tampered":
        stderr = (stderr + "\n" if stderr and not stderr.endswith("\n") else stderr) + text + "\n"
    elif text:
        stderr = stderr or text
    return verdict(
        name,
        exit_code=code,
        stdout=stdout,
        stderr=clip(stderr.encode("utf-8", "replace")),
        time=seen["cpu"],
        time_wall=seen["wall"],
        max_rss=seen["max_rss"],
        sandbox=layers,
        reason=reason,
        integrity=integrity if name == OK else None,
        overloaded=bool(seen["overloaded"]),
    )


def limit_hit(seen: dict[str, Any]) -> tuple[str, str] | None:
    """(status, reason) of the limit that a process ran into; of two that were hit together always the same one."""
    if seen["memory"]:
        return MEMORY_LIMIT, "memory"
    if seen["timed_out"]:
        return TIMEOUT, seen["timed_out"]
    return (OUTPUT_LIMIT, "output") if seen["flooded"] else None


def loaded(answer: tuple[bytes, bytes] | None) -> dict[str, Any]:
    """What a program's first answer means."""
    if answer is None:
        return {"end": "gone"}
    letter, text = answer
    if letter == b"l":
        return {"end": "ok"}
    if letter == b"s":
        return {"end": "syntax", "text": text[:2000].decode("utf-8", "replace")}
    return {"end": "load", **_exception(text)} if letter == b"x" else {"end": "tampered", "text": "forged"}


def _exception(text: bytes) -> dict[str, Any]:
    try:
        told = json.loads(text)
        return {"type": str(told["type"])[:80], "code": told.get("code")}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {"type": "Exception", "code": None}


def said_of_tests(answer: tuple[bytes, bytes] | None, secret: str) -> dict[str, Any]:
    """What the answer to tests that ran in the candidate's process means."""
    if answer is None:
        return {"end": "gone"}
    letter, text = answer
    if letter == b"d":
        said, _, live = text.decode("utf-8", "replace").partition(" ")
        if said != secret:
            return {"end": "tampered", "text": "forged"}
        return {"end": "tampered", "text": f"control: {live[:80]}"} if live else {"end": "ok"}
    if letter == b"t":
        return {"end": "tampered", "text": "equality"}
    if letter == b"e":
        return {"end": "fail", **_exception(text)}
    if letter == b"y":
        return {"end": "fail", "type": "SyntaxError", "text": "the tests: " + text[:500].decode("utf-8", "replace")}
    return {"end": "tampered", "text": "forged"}


def ends(seen: dict[str, Any]) -> tuple[str, str]:
    texts = []
    for data, size in zip(seen["streams"], seen["output"], strict=True):
        if size > 2048:
            tail = data[1024:].lstrip(b"\0")
            data = data[:1024] + b"\n... %d bytes left out ...\n" % (size - 2048) + tail
        texts.append(data.decode("utf-8", "replace"))
    return texts[0], texts[1]
