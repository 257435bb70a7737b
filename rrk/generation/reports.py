"""Where a training is watched: TensorBoard, Weights & Biases, Trackio.

check(["tensorboard"])                                   # UsageError: no such place, or its package is missing
Config(..., **arguments(names, out))                     # the Trainer's own callbacks do the work ...
Trainer(..., callbacks=callbacks(names, out))            # ... but for TensorBoard, whose files go into the model's folder
Curves(names, out, config).add(step, {"loss": 1.0})      # a trainer of our own: PPO's
with session(names): trainer.train()

Nothing here changes what is trained: a run may be resumed with other places, or none.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from rrk.errors import UsageError

PLACES = ("wandb", "trackio", "tensorboard")
PROJECT = "rrk"  # of wandb (WANDB_PROJECT wins) and trackio


def check(names: Sequence[str]) -> None:
    """UsageError for a place that nobody knows, or whose package is not installed."""
    for name in names:
        if name not in PLACES:
            raise UsageError(f"--report-to {name}: give {', '.join(PLACES)}")
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--report-to {name}: pip install {name}")


def arguments(names: Sequence[str], out: Path | None) -> dict[str, Any]:
    """Of TrainingArguments: which of its callbacks report, and what the run is called (its folder)."""
    others = [name for name in names if name != "tensorboard"]
    if not others or out is None:
        return {"report_to": "none"}
    from transformers import TrainingArguments

    # Trackio's runs stay here: a Space of the hub is made only by its own variable.
    wanted = {"run_name": out.name, "project": PROJECT, "trackio_static_space_id": False}
    known = TrainingArguments.__dataclass_fields__
    return {"report_to": others, **{name: value for name, value in wanted.items() if name in known}}


def callbacks(names: Sequence[str], out: Path) -> list[Any]:
    """TensorBoard's curves in out/tensorboard; what a run wrote after the checkpoint that it goes on from is dropped."""
    if "tensorboard" not in names:
        return []
    from transformers.integrations import TensorBoardCallback

    class Board(TensorBoardCallback):
        def on_train_begin(self, args, state, control, **more):
            if state.is_world_process_zero:
                self.tb_writer = _board(out, state.global_step + 1)
            super().on_train_begin(args, state, control, **more)

    return [Board()]


def _board(out: Path, at: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out / "tensorboard"), purge_step=at)


class Curves:
    """One run at all of these places, begun by the first figures that it is told. config: what to show beside them."""

    def __init__(self, names: Sequence[str], out: Path, config: Mapping[str, Any]) -> None:
        self._names, self._out, self._config = names, out, dict(config)
        self._places: list[Callable[[dict[str, float], int], object]] | None = None

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Steps rise; what an earlier process told of this step and later ones, TensorBoard forgets."""
        if self._places is None:
            self._places = [self._begun(name, step) for name in self._names]
        for told in self._places:
            told(figures, step)

    def _begun(self, name: str, at: int) -> Callable[[dict[str, float], int], object]:
        if name == "tensorboard":
            board = _board(self._out, at)

            def told(figures: dict[str, float], step: int) -> None:
                for key, value in figures.items():
                    board.add_scalar(key, value, step)
                board.flush()

            return told
        if name == "wandb":
            import wandb

            project = wandb.setup().settings.project or PROJECT
            run: Any = wandb.init(project=project, name=self._out.name, config=self._config)
        else:
            import trackio

            run = trackio.init(PROJECT, name=self._out.name, config=self._config, embed=False)
        return lambda figures, step: run.log(figures, step=step)


@contextmanager
def session(names: Sequence[str]) -> Iterator[None]:
    """Around a training: what the places say of themselves goes to standard error, and they have ended afterwards."""
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            if "wandb" in names:
                import wandb

                wandb.finish()  # its callback leaves that to the end of the process
            if "trackio" in names:
                import trackio

                with suppress(RuntimeError):  # its callback has ended it
                    trackio.finish()
