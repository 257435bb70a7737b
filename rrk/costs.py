"""What a piece of work used: seconds, memory, a model's tokens. Every stage has it in its summary and beside its file.

    meter = Meter()
    spent = {**meter.read(), "parameters": 494_000_000, "tokens_read": 9_000, "tokens_written": 40_000}
    spent = add(spent, before)             # of a run that went on after a stop
    flops(spent)

`tokens_read` counts a prompt once, however many programs share it; `tokens_written` are drawn tokens; `tokens_trained` went
forwards and backwards. CPU seconds are those of this process and of all it started and waited for, so of sandboxed programs
too. Memory is the largest process's. All of it is measured, but FLOPs: they are the field's estimate from size and tokens.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

_LARGEST = frozenset(["peak_memory", "peak_device_memory", "parameters"])


class Meter:
    """Seconds and memory from now on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu()

    def read(self) -> dict[str, Any]:
        """{"wall_seconds", "cpu_seconds", "peak_memory" (bytes)}."""
        memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        wall, cpu = time.monotonic() - self._wall, _cpu() - self._cpu
        return {"wall_seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "peak_memory": memory * 1024}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def add(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both together: sums, of memory and size the larger; where words differ, both."""
    out = dict(one)
    for name, value in other.items():
        was = out.get(name)
        if was is None:
            out[name] = value
        elif isinstance(value, (int, float)):
            out[name] = max(was, value) if name in _LARGEST else round(was + value, 3)
        elif value is not None and str(value) not in str(was).split(", "):
            out[name] = f"{was}, {value}"
    return out


def flops(cost: Mapping[str, Any]) -> float | None:
    """2 a parameter and token read or written, 6 a token trained on (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; all
    parameters are counted, embeddings too). None where size or tokens are not known."""
    size = cost.get("parameters")
    forward = [cost[name] for name in ("tokens_read", "tokens_written") if cost.get(name) is not None]
    trained = cost.get("tokens_trained")
    if not size or (not forward and trained is None):
        return None
    return float(size) * (2.0 * sum(forward) + 6.0 * (trained or 0))
