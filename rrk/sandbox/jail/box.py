"""What a box (one candidate's private, limited place to run) offers, apart from how it is jailed.

A language's recipe (`sandboxes/LANG.toml`) is carried out against this interface only: write files, run commands, look at
what came of them. `rrk.sandbox.jail.kernel` provides the real box; nothing here starts a process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

# The private pipe's descriptor inside the box. High, so that scripts that open 3 to 9 for themselves keep them.
PROOF_FD = 200


@dataclass(frozen=True)
class Limits:
    """Limits of one command. CPU seconds decide; wall seconds are only the backstop."""

    cpu_s: float = 5.0
    wall_s: float = 22.0
    memory_mb: int = 1024
    files_mb: int = 64
    nproc: int = 64
    nofile: int = 256
    stack_mb: int = 64
    output_kb: int = 1024


@dataclass(frozen=True)
class RunSpec:
    """One command to run inside a box; `proof` opens a private pipe whose bytes come back in Outcome.proof."""

    argv: Sequence[str]
    limits: Limits = field(default_factory=Limits)
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    proof: bool = False


@dataclass
class Outcome:
    """What one command did. Exactly one of exit_code and signal is set unless the box itself failed (error)."""

    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    cpu: float = 0.0
    wall: float = 0.0
    max_rss: int = 0
    timed_out: str | None = None  # "cpu" or "wall"
    out_of_memory: bool = False
    output_limit: bool = False
    proof: bytes = b""
    overloaded: bool = False  # a limit was hit while the machine was too busy to be fair
    error: str | None = None  # the machinery's failure, never the program's


class Box(Protocol):
    """A fresh private folder plus the means to run commands in it; everything in it dies with it."""

    def write(self, name: str, data: bytes) -> None: ...

    def run(self, spec: RunSpec) -> Outcome: ...
