"""The processes of one run under `accelerate launch`: the first one speaks and writes, all of them train.

quiet = quiet or not processes.first()
rows, passes = processes.split(batch_size=32, micro_batch=None)
if processes.any_of(should_stop()): ...        # the same answer in all of them, in step
"""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rrk.errors import UsageError


def state() -> PartialState:
    """accelerate's view of them; joins the others the first time. As in runs.settings: the CPU where there is no GPU."""
    return PartialState(cpu=not torch.cuda.is_available())


def first() -> bool:
    """True in a run of one process, and in the first of several."""
    return state().is_main_process


def count() -> int:
    """How many processes the launcher started."""
    return state().num_processes


def any_of(flag: bool) -> bool:
    """True in every process if it is true in one: a signal reaches them between different steps."""
    if count() == 1:
        return flag
    return any(gather_object([flag]))


def split(batch_size: int, micro_batch: int | None) -> tuple[int, int]:
    """(examples of a pass, passes of a step) in each process, so that a step is `batch_size` however many there are.

    Raises UsageError where the numbers do not divide.
    """
    own, rest = divmod(batch_size, count())
    if rest or not own:
        raise UsageError(f"--batch-size {batch_size} cannot be shared among {count()} processes")
    micro = micro_batch or own
    if own % micro:
        each = f" ({own} in each of {count()} processes)" if count() > 1 else ""
        raise UsageError(f"--batch-size {batch_size}{each} is not a multiple of --micro-batch {micro_batch}")
    return micro, own // micro
