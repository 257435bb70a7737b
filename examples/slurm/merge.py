"""Shards 1/n, 2/n, ... of one stage become the file that a run without --shard writes, byte for byte.

    python merge.py out.1-of-3.jsonl out.2-of-3.jsonl out.3-of-3.jsonl > out.jsonl                     # execute
    python merge.py --by candidates.jsonl pairs.1-of-3.jsonl pairs.2-of-3.jsonl ... > pairs.jsonl      # sample, rerank, mine

--shard i/n takes every n-th item from the i-th. Without --by an item is a row. With --by FILE it is a problem of FILE, which
is what the sharded stage read: a problem may have any number of rows, or none. All shards are needed, in their order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import zip_longest

from rrk import jsonl, rows
from rrk.errors import RrkError


def by_row(paths: list[str]) -> Iterator[bytes]:
    ended = None
    for lines in zip_longest(*(jsonl.Lines([path]) for path in paths)):
        for path, line in zip(paths, lines, strict=True):
            if line is None:
                ended = ended or path
            elif ended is not None:
                raise RrkError(f"{ended} ends before {path}: not complete, or the shards are in another order")
            else:
                yield line[2]


def by_problem(paths: list[str], source: str) -> Iterator[bytes]:
    shards = [jsonl.Lines([path]) for path in paths]
    heads = [next(shard, None) for shard in shards]
    problems = dict.fromkeys(rows.problem_key(row) for row in jsonl.read([source]))
    for number, key in enumerate(problems):
        at = number % len(paths)
        while (head := heads[at]) is not None and rows.problem_key(jsonl.parse(head[2], *head[:2])) == key:
            yield head[2]
            heads[at] = next(shards[at], None)
    for head in heads:
        if head is not None:
            raise RrkError(f"{head[0]}:{head[1]}: not where {source} has this problem; give all shards, in their order")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", metavar="FILE")
    parser.add_argument("shards", nargs="+")
    given = parser.parse_args()
    try:
        for line in by_problem(given.shards, given.by) if given.by else by_row(given.shards):
            sys.stdout.buffer.write(line.rstrip(b"\n") + b"\n")
    except RrkError as error:
        sys.exit(f"merge.py: {error}")


if __name__ == "__main__":
    main()
