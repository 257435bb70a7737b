"""Workers that have a language's tools: each toolchain is looked up once and prepared once, whichever thread asks first.

provisioner = Provisioner("auto", sandboxes=["my-languages"])
toolchain = provisioner.toolchain("go")              # Toolchain, or the RrkError that says why there is none
provisioner.prepare(slot, toolchain)                 # slot.worker is alive and shows the language's folders
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rrk.errors import RrkError
from rrk.sandbox.inside.wire import Gone
from rrk.sandbox.languages import batches, toolchains
from rrk.sandbox.languages.toolchain import Toolchain
from rrk.sandbox.workers.pool import Slot
from rrk.sandbox.workers.worker import Worker

LOST = (OSError, EOFError, Gone)  # what a worker that ends in the middle of its work raises


class Provisioner:
    """For the pool's threads. `notes`: lines that a user should see, such as a preparation that failed."""

    def __init__(
        self,
        level: str = "auto",
        sandboxes: Sequence[str | Path] = (),
        packages: Sequence[str] = (),
        new_worker: Callable[..., Any] | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._level, self._sandboxes, self._packages = level, tuple(sandboxes), tuple(packages)
        self._new_worker = new_worker or Worker
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}  # languages being looked up or prepared
        self._toolchains: dict[str, Toolchain | RrkError] = {}
        self._prepared: set[str] = set()
        self._mounts: frozenset[str] = frozenset()

    def toolchain(self, language: str) -> Toolchain | RrkError:
        """The language's toolchain with its tools looked up, or the error that says why there is none."""
        with self._alone(language):
            if language not in self._toolchains:
                try:
                    found: Toolchain | RrkError = toolchains.load(language, self._sandboxes)
                    getattr(found, "digest", None)  # looks the tools up: here, in one thread
                except RrkError as error:
                    found = error
                self._toolchains[language] = found
            return self._toolchains[language]

    def prepare(self, slot: Slot, toolchain: Toolchain) -> None:
        """A worker that has the language's tools, and what the language wants prepared."""
        with self._alone(f"prepare {toolchain.id}"):
            if toolchain.id not in self._prepared:
                self._prepared.add(toolchain.id)
                if toolchain.prepare is not None and not toolchain.prepared() and toolchain.usable(toolchain.prepare):
                    self.worker(slot, toolchain)
                    try:
                        with slot.worker.box() as box:
                            batches.prepare(toolchain, box)
                    except RrkError as error:
                        self.notes.append(str(error))
                    except LOST as error:
                        self.notes.append(f"{toolchain.source.name}: preparing {toolchain.title} failed: {error}")
                        slot.drop()
        self.worker(slot, toolchain)

    def worker(self, slot: Slot, toolchain: Toolchain | None = None) -> None:
        """See that the slot has a live worker that shows the toolchain's folders (None: a worker for Python)."""
        mounts = frozenset(toolchain.mounts() if toolchain else ())
        if slot.worker is not None and (slot.worker.dead or not mounts <= slot.mounts):
            slot.drop()
        if slot.worker is None:
            with self._lock:
                self._mounts |= mounts
                slot.mounts = self._mounts
            slot.worker = self._new_worker(level=self._level, mounts=sorted(slot.mounts), packages=self._packages)

    def _alone(self, what: str) -> threading.Lock:
        with self._lock:
            return self._busy.setdefault(what, threading.Lock())
