"""Works for the tests of rrk.cluster: picklable, and quick."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from rrk.errors import RowError, RrkError


class Doubler:
    """Adds `doubled` to each row, with the process that did it; slow, if told so, and mortal."""

    def __init__(
        self, cores: int, slow: float = 0.0, refuse: str = "", poison: int | None = None, last: str = ""
    ) -> None:
        """`refuse`: a node that is not fit; `poison`: a row that kills; `last`: a file that row 299 waits for."""
        self.figures: Counter[str] = Counter()
        self.notes = [f"{cores} cores"]
        self._slow, self._refuse, self._poison, self._last = slow, refuse, poison, last

    def check(self) -> None:
        if self._refuse:
            import ray

            if ray.get_runtime_context().get_node_id() == self._refuse or self._refuse == "all":
                raise RrkError("cannot jail here")

    def __call__(self, items: Any):
        for item in items:
            if item.get("bad"):
                raise RowError("a bad row", ("in.jsonl", item["n"]))
            if item["n"] == self._poison:
                os._exit(1)
            time.sleep(self._slow)
            while item["n"] == 299 and self._last and not os.path.exists(self._last):
                time.sleep(0.05)
            self.figures["done"] += 1
            yield [{**item, "doubled": 2 * item["n"], "pid": os.getpid()}]
