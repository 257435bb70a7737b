"""A finished folder on the hub.

check("me/reranker")                       # UsageError before hours of training: no login, no name
push("runs/reranker", "me/reranker", note)

A repository that is new is made private. What a run leaves beside its model (checkpoints, curves, logs of PPO) stays here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rrk.errors import RrkError, UsageError
from rrk.generation import processes

LEFT_OUT = ["checkpoints/*", "*/checkpoints/*", "tensorboard/*", "*.part", "*.journal", ".*", "rrk_run.json"]


def check(repository: str | None) -> None:
    """UsageError where a push cannot work."""
    if repository is None:
        return
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {repository}: {str(error).splitlines()[0]}") from None
    if get_token() is None:
        raise UsageError("--push-to-hub: log in first (hf auth login), or set HF_TOKEN")


def push(folder: str | Path, repository: str | None, note: Callable[[str], None]) -> None:
    """Upload the folder in one commit and tell where. RrkError: the folder is whole, and the same command pushes again."""
    if repository is None or not processes.first():
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=str(folder),
            ignore_patterns=LEFT_OUT,
            commit_message="Trained by rrk (see rrk.json)",
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RrkError(
            f"{folder} is complete, but could not be pushed to {repository}: {reason}; the same command tries again"
        ) from None
    note(f"pushed to {made}")
