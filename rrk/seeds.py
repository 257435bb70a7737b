"""Random streams that depend on what they are for, never on when or where they are drawn.

    seeds.derive(seed, task_id, completion_id)

gives the same 64-bit number whatever the batch, shard, number of jobs or resume, so a run can be cut anywhere.
"""

from __future__ import annotations

from hashlib import blake2b


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed (fits a signed 64-bit integer) for this purpose; distinct parts give independent streams."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
