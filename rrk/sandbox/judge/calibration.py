"""How much slower this machine is than the one that the limits were chosen on.

    factor()      # 1.0 there and on anything faster; 2.0 on a machine half as fast

The same program must not pass on one machine and time out on another (EvalPlus issue 5: .40 against .23). CPU limits are
therefore multiplied by this. Limits are never cut on a fast machine: a measurement that is off by some per cent may then
cost time but no verdict.
"""

from __future__ import annotations

import time
from functools import cache

NOMINAL = 0.0030  # CPU seconds of _work() on the machine of reference (a core of a busy server, CPython 3.11)
MOST = 8.0


@cache
def factor() -> float:
    """Measured once a process: the best of some short runs, in CPU time of this thread, so that load matters little."""
    return min(max(_measure() / NOMINAL, 1.0), MOST)


def _measure(runs: int = 7) -> float:
    best = float("inf")
    for _ in range(runs):
        began = time.thread_time()
        _work()
        best = min(best, time.thread_time() - began)
    return best


def _work() -> int:
    """What candidates do: small integers, a dictionary, a list, a text."""
    total, seen, text = 0, {}, []
    for i in range(20_000):
        total = (total * 31 + i) % 1_000_003
        seen[total & 1023] = i
        if not i & 15:
            text.append(str(total))
    return total + len(seen) + len("".join(text))
