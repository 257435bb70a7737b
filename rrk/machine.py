"""What this machine has beside the sandbox: the packages of each extra, room on the disk.

for finding in machine.look(): ...        # (level, name, detail, remedy), level PASS or CAUTION
machine.install_line(names)              # one command for all extras that are missing
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# The extras of pyproject.toml that commands need, and what is imported of each.
EXTRAS = {
    "train": ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "tokenizers", "safetensors"),
    "plot": ("matplotlib",),
    "hub": ("datasets",),
    "gguf": ("gguf",),
    "qlora": ("bitsandbytes",),
    "ray": ("ray",),
}
_FOR = {
    "train": "sample, rerank -m, train-*",
    "plot": "--plot",
    "hub": "problems without --file",
    "gguf": "-m FILE.gguf",
    "qlora": "train-* --qlora",
    "ray": "--engine ray",
}
ROOM = 5 << 30  # bytes: a model of half a billion parameters, its training's states and a round's rows


def look() -> Iterator[tuple[str, str, str, str]]:
    """A finding an extra, one on the disk."""
    missing = []
    for extra, modules in EXTRAS.items():
        found = {module: _version(module) for module in modules}
        lacks = [name for name, version in found.items() if version is None]
        if lacks:
            missing.append(extra)
            yield "CAUTION", extra, f"{_FOR[extra]}: lacks {', '.join(lacks)}", install_line([extra])
        else:
            shown = ", ".join(f"{name} {version}" for name, version in list(found.items())[:3])
            yield "PASS", extra, f"{_FOR[extra]}: {shown}", ""
    if len(missing) > 1:
        yield "CAUTION", "extras", f"{len(missing)} are not installed; all at once:", install_line(missing)
    yield _disk()


def install_line(extras: list[str]) -> str:
    """The command that installs them, in a checkout or from a package."""
    names = ",".join(extras)
    root = Path(__file__).parent.parent
    if (root / "pyproject.toml").exists() and (root / "constraints.txt").exists():
        return f"pip install -c constraints.txt -e '.[{names}]'"
    return f"pip install 'rrk[{names}]'"


def _version(module: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return None


def _disk() -> tuple[str, str, str, str]:
    free = shutil.disk_usage(os.getcwd()).free
    text = f"{free / 1e9:.1f} GB free here"
    return (
        ("PASS", "disk", text, "")
        if free >= ROOM
        else ("CAUTION", "disk", text, "training keeps checkpoints: make room")
    )
