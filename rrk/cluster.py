"""`--engine ray`: a stage's own work on every node of a Ray cluster, its rows in the order of the input.

    work = Cluster(make, address="auto", cpus=8)       # make(cores) -> the work of a local run, made once a worker
    stage.run("execute", inputs, io, params=params, work=work)

A node gets one worker with its cores (or, with `gpus`, one for each so many GPUs): an actor that makes the work and keeps it
running over all batches that it is given, so that processes stay warm and a model is loaded once. Batches are of about a second's
work and end with a problem where they can; a few are on their way to each worker and no more, so memory stays flat, here and
there. A batch whose worker or node dies is given to another one; a node that comes later gets a worker, too. A node on which
the work cannot be made (no jail, no memory for the model) is left out, and said so; where none is left its error is raised.

Ray places, moves and restarts; what is decided here is only which batch goes where.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from rrk import __version__, costs, rows
from rrk.actor import Actor, Make
from rrk.errors import RrkError, UsageError

BATCH = 1.0  # seconds of a worker's work that are sent at a time
LARGEST = 512  # items of a batch
AHEAD = 3  # batches on their way to a worker
WINDOW = 16  # batches a worker that were read and not yet written
TRIES = 4  # workers that may die over a batch before it is to blame
LOOK = 1.0  # seconds between looks at which nodes there are
POLL = 0.02  # seconds between looks at a slow input


@dataclass
class _Batch:
    """Consecutive items, and what became of them."""

    items: list[Any]
    outputs: list[list[dict[str, Any]]] | None = None
    error: RrkError | None = None  # after these outputs
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    """An actor, and the batches that it was given."""

    node: str
    name: str
    actor: Any
    starting: Any  # reference; None once it has started
    begun: float
    cores: int
    running: dict[Any, _Batch] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pace: float | None = None  # seconds an item
    used: bool = False  # it has done something


class Cluster:
    """Work for rrk.stage.run. `figures` and `notes` are those of the workers together.

    make: picklable, called in each worker; what it returns is called with items, as stage.run does, and may have `check()`,
    which raises RrkError where the node is not fit for it. cpus: cores of a node to use (None: all). gpus: GPUs a worker (None:
    one, where the cluster has any). ahead: items that a worker should have in hand at least. environment: variables of the
    workers. Raises UsageError without ray, RrkError without a cluster.
    """

    def __init__(
        self,
        make: Make,
        address: str | None = None,
        cpus: int | None = None,
        gpus: float | None = 0,
        ahead: int = 0,
        environment: dict[str, str] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError("--engine ray needs Ray: pip install 'rrk[ray]'") from None
        self._ray: Any = ray
        self._make, self._address = make, address
        self._made: Any = None  # the same, within the cluster
        self._cpus, self._gpus, self._ahead = cpus, gpus, ahead
        self._environment, self._say = environment or {}, say
        self._workers: list[_Worker] = []
        self._again: deque[_Batch] = deque()  # whose worker died
        self._refused: dict[str, RrkError] = {}  # by node
        self._looked = -LOOK
        self._folder = ""  # of a cluster of our own
        self._gone: list[_Worker] = []
        self.retried = 0

    @property
    def figures(self) -> dict[str, Any]:
        total: Counter[str] = Counter()
        other: dict[str, Any] = {}
        for worker in (*self._gone, *self._workers):
            for name, value in worker.figures.items():
                if name == "cost":
                    other[name] = costs.add(other.get(name, {}), value)
                elif isinstance(value, (int, float)) and not isinstance(value, bool):
                    total[name] += value  # type: ignore[assignment]
                else:
                    other[name] = value
        again = {"batches run again": self.retried} if self.retried else {}
        nodes = {worker.node for worker in (*self._gone, *self._workers) if worker.used}
        return {**other, **total, **again, "nodes": len(nodes)}

    @property
    def notes(self) -> list[str]:
        return [f"{worker.name}: {note}" for worker in (*self._gone, *self._workers) for note in worker.notes]

    def __call__(self, items: Any) -> Iterator[list[dict[str, Any]]]:
        # Ray tells of what dies on standard output, where rows go.
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            ours = self._connect()
            try:
                yield from self._stream(items)
                self._finish()
            finally:
                self._end(ours)

    # ---- the stream --------------------------------------------------------------------------------------------------

    def _stream(self, items: Any) -> Iterator[list[dict[str, Any]]]:
        line: deque[_Batch] = deque()
        reader = _Reader(items)
        while True:
            self._look()
            while not reader.ended and len(line) < WINDOW * max(len(self._workers), 1) and self._free():
                if line and not reader.ready():
                    break
                if (batch := reader.read(self._size())) is None:
                    break
                line.append(batch)
                self._again.append(batch)
                self._send()
            self._send()
            if not line:
                if reader.ended:
                    return
                continue
            self._wait(POLL if not reader.ended and self._free() else LOOK)
            while line and line[0].outputs is not None:
                batch = line.popleft()
                yield from batch.outputs or ()
                if batch.error is not None:
                    raise batch.error

    def _free(self) -> bool:
        """Whether a worker could take another batch, or will when it has started."""
        return not self._again and (
            any(self._has_room(worker) for worker in self._workers) or not any(w.running for w in self._workers)
        )

    def _has_room(self, worker: _Worker) -> bool:
        in_hand = sum(len(batch.items) for batch in worker.running.values())
        return worker.starting is None and (len(worker.running) < AHEAD or in_hand < self._ahead)

    def _size(self) -> int:
        """Items of the next batch: what the fastest worker does in BATCH seconds."""
        paces = [worker.pace for worker in self._workers if worker.pace is not None]
        if not paces:
            return max([2 * worker.cores for worker in self._workers], default=2)
        return max(1, min(LARGEST, int(BATCH / max(min(paces), 1e-6))))

    def _send(self) -> None:
        while self._again:
            able = [worker for worker in self._workers if self._has_room(worker)]
            if not able:
                return
            worker = min(able, key=lambda w: sum(len(batch.items) for batch in w.running.values()))
            batch = self._again.popleft()
            worker.running[worker.actor.run.remote(batch.items)] = batch

    def _wait(self, seconds: float) -> None:
        """Until something is done, or so long."""
        waited: dict[Any, _Worker] = {}
        for worker in self._workers:
            waited |= dict.fromkeys(worker.running, worker)
            if worker.starting is not None:
                waited[worker.starting] = worker
        if not waited:
            time.sleep(seconds)
            return
        done, _ = self._ray.wait(list(waited), num_returns=1, timeout=seconds)
        if done:
            # And whatever else is: a reference costs little to look at.
            done, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        lost: dict[_Worker, Exception] = {}
        for reference in done:
            try:
                self._take(waited[reference], reference, self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                lost.setdefault(waited[reference], error)
        for worker, why in lost.items():
            # Last: what it had done before it died counts.
            self._lost(worker, why)

    def _take(self, worker: _Worker, reference: Any, answer: Any) -> None:
        if reference == worker.starting:
            worker.starting = None
            if isinstance(answer, RrkError):
                self._refuse(worker, answer)
            elif answer != __version__:
                self._refuse(worker, RrkError(f"has rrk {answer}, here is {__version__}; install the same everywhere"))
            return
        batch, worker.used = worker.running.pop(reference), True
        batch.outputs, batch.error, worker.figures, worker.notes, seconds = answer
        pace = seconds / len(batch.items)
        worker.pace = pace if worker.pace is None else (worker.pace + pace) / 2

    # ---- the workers -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """A worker on every node that has none, as far as its cores and GPUs go."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["NodeID"] not in self._refused]
        for node in nodes:
            there = sum(worker.node == node["NodeID"] for worker in self._workers)
            cores = int(node["Resources"].get("CPU", 0))
            if self._gpus:
                wanted = int(node["Resources"].get("GPU", 0) / self._gpus)
                cores = cores // max(wanted, 1)
            else:
                wanted = int(cores > 0)
            for _ in range(wanted - there):
                self._workers.append(self._start(node, min(cores, self._cpus or cores)))
        for worker in self._workers:
            if worker.starting is not None and now - worker.begun > 60:
                worker.begun = now
                self._say(f"still waiting for {worker.cores} cores of {worker.name}")
        if not self._workers:
            if self._refused:
                raise next(iter(self._refused.values()))
            lacking = f"{self._gpus:g} GPUs" if self._gpus else "a core"
            raise RrkError(f"no node of the Ray cluster has {lacking} to give")

    def _start(self, node: dict[str, Any], cores: int) -> _Worker:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = (
            self._ray.remote(Actor)
            .options(
                num_cpus=cores,
                num_gpus=self._gpus,
                max_concurrency=256,
                scheduling_strategy=there,
                runtime_env={"env_vars": self._environment} if self._environment else None,
            )
            .remote(self._made, cores, os.getcwd())
        )
        name = node.get("NodeManagerHostname") or node["NodeID"][:8]
        return _Worker(node["NodeID"], name, actor, actor.start.remote(), time.monotonic(), cores)

    def _refuse(self, worker: _Worker, error: RrkError) -> None:
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        told = type(error)(f"node {worker.name}: {error}")
        self._refused[worker.node] = told
        if self._workers:
            self._say(f"{told}; going on without it")

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """A worker has died, or its node: its batches are given to others."""
        self._workers.remove(worker)
        self._gone.append(worker)
        self._ray.kill(worker.actor)
        self._looked = -LOOK
        first = next(iter(worker.running.values()), None)
        if first is None and worker.starting is not None:
            self._refused[worker.node] = RrkError(f"node {worker.name}: the worker died as it started: {_short(error)}")
            return
        if worker.running:
            self._say(f"{worker.name}: a worker died; its {len(worker.running)} batches are run again")
        if first is not None:
            first.deaths += 1
            if first.deaths >= TRIES:
                raise RrkError(f"{TRIES} workers died over {_place(first.items)}; the last: {_short(error)}")
        self.retried += len(worker.running)
        self._again.extendleft(reversed(worker.running.values()))
        worker.running = {}

    def _finish(self) -> None:
        """The last figures, and everything that a worker started has ended."""
        asked = {worker.actor.finish.remote(): worker for worker in self._workers if worker.starting is None}
        for reference, worker in asked.items():
            try:
                worker.figures, worker.notes = self._ray.get(reference, timeout=30)
            except self._ray.exceptions.RayError:
                continue

    # ---- the cluster -------------------------------------------------------------------------------------------------

    def _connect(self) -> bool:
        """Join the cluster; True if it is one of our own, of this machine, that ends with us."""
        common: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
        ours = self._address in (None, "local")
        try:
            if self._ray.is_initialized():
                ours = False
            elif ours:
                # A folder of its own: Ray leaves its logs behind.
                self._folder = tempfile.mkdtemp(prefix="rrk-ray-")
                store = 256 << 20  # bytes: a batch is some hundred kB
                local: dict[str, Any] = {
                    "include_dashboard": False,
                    "object_store_memory": store,
                    "_temp_dir": self._folder,
                }
                self._ray.init("local", num_cpus=self._cpus, **local, **common)
            else:
                self._ray.init(self._address, **common)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = "a local Ray" if ours else f"--ray-address {self._address}"
            raise RrkError(f"{where} does not answer: {_short(error)}") from None
        if self._gpus is None:
            self._gpus = 1 if self._ray.cluster_resources().get("GPU") else 0
        # Once, whatever it holds (problems, options).
        self._made = self._ray.put(self._make)
        return ours

    def _end(self, ours: bool) -> None:
        for worker in self._workers:
            try:
                self._ray.kill(worker.actor)
            except self._ray.exceptions.RayError:
                pass
        self._gone += self._workers
        self._workers = []
        self._made = None
        if ours:
            self._ray.shutdown()
            shutil.rmtree(self._folder, ignore_errors=True)


class _Reader:
    """Items in batches that end where a problem does, if one ends in their second half."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self._next: list[Any] = []
        self.ended = False

    def ready(self) -> bool:
        return bool(self._next) or self._items.ready()

    def read(self, size: int) -> _Batch | None:
        taken: list[Any] = []
        while len(taken) < size and (not taken or self.ready()):
            try:
                item = self._next.pop() if self._next else next(self._items)
            except StopIteration:
                self.ended = True
                break
            if len(taken) > size // 2 and _problem(item) != _problem(taken[-1]):
                self._next.append(item)
                break
            taken.append(item)
        return _Batch(taken) if taken else None


def _problem(item: Any) -> tuple[str, str]:
    return rows.problem_key(item[0] if isinstance(item, list) else item)


def _place(items: list[Any]) -> str:
    ends = []
    for item in (items[0], items[-1]):
        row = item[0] if isinstance(item, list) else item
        where = rows.where(row)
        ends.append(f"{where[0]}:{where[1]}" if where else f"'{rows.task_id(row)}'")
    return " to ".join(dict.fromkeys(ends))


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
