"""What an interpreter finds out when it does something for the first time is found out once, before anything is forked.

    warm_up()       # in the process that candidates are forked from, after its modules are loaded

Types get their version numbers and the cache of methods its entries, functions of other libraries are bound, instructions of the
standard library's functions are specialised: each is a write, which costs every fork a page of its own if the first to do it is
the program. What is run here is ours alone; it leaves no object behind.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_INPUT = b"4\n3 1 2 2\nabc de\n1.5 2\nx\n7 8\n"
# What programs do that read and print, in the ways that are usual.
_PROGRAM = """
import sys, math, heapq, bisect, itertools, functools
from collections import Counter, defaultdict, deque
n = int(input())
xs = list(map(int, input().split()))
words = [w.strip() for w in input().split()]
a, b = (float(x) for x in sys.stdin.readline().split())
line = sys.stdin.readline().rstrip("\\n")
rest = sys.stdin.read().split()
data = iter(rest)
total = int(next(data)) + int(next(data))
print(n)
print(*xs)
print(sum(xs), max(xs), min(xs), abs(-1), len(xs), sep=" ", end="\\n")
print(" ".join(map(str, sorted(xs))))
print(f"{a:.2f} {b} {n:d} {line!r}", "%d %s" % (n, line), "{}".format(n), round(a, 1))
sys.stdout.write("yes\\n")
counts, groups, queue = Counter(xs), defaultdict(list), deque(xs)
for i, x in enumerate(xs):
    groups[x].append(i)
    queue.append(x)
    queue.popleft()
for x, y in zip(xs, xs[1:]):
    total += x * y % 1000000007
seen, table = set(), {}
for x in reversed(xs):
    if x not in seen:
        seen.add(x)
    table[x] = table.get(x, 0) + 1
heap = []
heapq.heappush(heap, (1, 2))
heapq.heappop(heap)
bisect.bisect_left(xs, 2), math.gcd(4, 6), math.sqrt(2.0)
grid = [[0] * n for _ in range(n)]
grid[0][1] = max(grid[0][0], grid[1][0]) + 1
xs.sort(key=lambda x: -x)
xs.reverse(), xs.pop(), xs.insert(0, 1), xs.extend([1]), xs.index(1), xs.count(1)
"abc".upper().lower().replace("a", "b").startswith("b"), "1".isdigit(), "a,b".split(","), "abc".find("c"), ord("a"), chr(97)
all(x > 0 for x in xs), any(x > 9 for x in xs), divmod(7, 2), pow(2, 5, 7), list(itertools.permutations([1, 2]))
counts.most_common(1), counts.items(), table.values(), table.keys(), sorted(table.items(), key=lambda pair: pair[1])
@functools.lru_cache(None)
def fib(k):
    return k if k < 2 else fib(k - 1) + fib(k - 2)
def solve():
    try:
        return int("x")
    except ValueError:
        return fib(5)
class Node:
    def __init__(self, value):
        self.value, self.next = value, None
print(solve(), Node(3).value, True, None, [1, "a"], (1, 2), {1: 2})
sys.stdout.flush()
"""


def warm_up() -> None:
    """Run an ordinary program on pipes of our own, with the streams that a program has."""
    before = sys.stdin, sys.stdout
    reading, writing = os.pipe(), os.pipe()
    os.write(reading[1], _INPUT)
    os.close(reading[1])
    try:
        with (
            open(reading[0], encoding="utf-8", errors="surrogateescape") as sys.stdin,
            open(writing[1], "w", encoding="utf-8") as sys.stdout,
        ):
            space: dict[str, Any] = {"__name__": "warmth"}
            exec(compile(_PROGRAM, "<warmth>", "exec", dont_inherit=True), space)
    finally:
        sys.stdin, sys.stdout = before
        os.close(writing[0])
