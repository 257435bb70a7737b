"""Checkpoints that are whole or absent: written to a temporary folder, flushed, renamed, then the old one removed.

save(out, update, state)      ->  out/state-000007/state.pt
load(out)                     ->  the newest whole state, or None
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from rrk.errors import RrkError


def save(out: Path, update: int, state: dict[str, Any]) -> Path:
    """Write the state after `update` updates. If that fails (disk full) the last checkpoint is left whole."""
    target, temporary = out / f"state-{update:06d}", out / f".state-{update:06d}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with open(temporary / "state.pt", "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise RrkError(
            f"cannot save {target} ({error}); the last checkpoint is whole, --resume goes on there"
        ) from error
    for old in _states(out):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def load(out: Path) -> dict[str, Any] | None:
    """The newest state in the folder. It is a pickle that we wrote: only for folders of one's own."""
    states = _states(out)
    return torch.load(states[-1] / "state.pt", map_location="cpu", weights_only=False) if states else None


def forget(out: Path) -> None:
    """Remove the states: the run is complete."""
    for old in [*_states(out), *out.glob(".*.part")]:
        shutil.rmtree(old, ignore_errors=True)


def random_state() -> dict[str, Any]:
    """Every generator that a library might draw from (rrk's own draws are seeded by purpose and need none)."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put them back."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _states(out: Path) -> list[Path]:
    return sorted(out.glob("state-[0-9]*"))
