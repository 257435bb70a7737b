"""The options that several commands share, said once: names, help texts, environment variables.

def execute(inputs: Inputs = None, output: Output = "-", resume: Resume = False, ...):
    io = options.io(output, resume, limit, shard, quiet, json, force)
"""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk.errors import UsageError

Inputs = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads this at run time
    typer.Argument(
        metavar="[INPUT]...", help="JSONL files; '-' (the default) is standard input; .gz and .zst by suffix."
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where rows go; '-' is standard output; .gz and .zst by suffix.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a killed run of the same command stopped (needs -o).")
]
Force = Annotated[bool, typer.Option("--force", help="Make -o anew where it is complete, or was begun.")]
Limit = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--limit",
        metavar="N",
        help="Only the first N items of the input (problems where a stage works by problem).",
    ),
]
Shard = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--shard", metavar="I/N", help="Only every N-th item, from the I-th: 1/4, 2/4, ... (after --limit)."),
]
Unsorted = Annotated[
    bool,
    typer.Option("--unsorted", help="The rows of a problem do not stand together: read all rows into memory first."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", envvar="RRK_QUIET", help="No progress and no summary on standard error."),
]
Json = Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")]
Seed = Annotated[int, typer.Option("--seed", envvar="RRK_SEED", help="Same seed, same result.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=1, envvar="RRK_JOBS", help="How many at a time.")]
Device = Annotated[
    str,
    typer.Option("--device", envvar="RRK_DEVICE", help="'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1', ..."),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        envvar="RRK_DTYPE",
        help="'auto' (as saved on a GPU; on a CPU bfloat16 if it multiplies that and the model is large, else float32), "
        "'float32', 'bfloat16', 'float16'; 'int8': on a CPU with VNNI, samples in half the time of float32, a little coarser.",
    ),
]
RayAddress = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        envvar="RAY_ADDRESS",
        help="With --engine ray: the cluster, as host:6379 or auto. [default: a local one, for this run]",
    ),
]
NumGpus = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--num-gpus",
        metavar="G",
        min=0,
        help="With --engine ray: GPUs a worker; each loads the model once. [default: 1 where the cluster has any]",
    ),
]
Qlora = Annotated[
    bool,
    typer.Option("--qlora", help="With --lora-r: frozen weights in 4 bits (NF4; extra qlora), the result in float32."),
]
ReportTo = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--report-to",
        metavar="wandb|trackio|tensorboard",
        help="Watch the run there (its package must be installed); may be repeated.",
    ),
]
PushToHub = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--push-to-hub", metavar="OWNER/NAME", help="When done, upload the folder; a new repository is private."
    ),
]
Bf16 = Annotated[
    bool,
    typer.Option(
        "--bf16",
        help="bf16 autocast; weights stay float32. A CPU that only emulates it computes in float32, and says so.",
    ),
]
Folder = Annotated[
    str,
    typer.Option("--output", "-o", metavar="DIR", help="The folder to make; complete when it holds rrk.json."),
]


def io(
    output: str = "-",
    resume: bool = False,
    limit: int | None = None,
    shard: str | None = None,
    quiet: bool = False,
    json: bool = False,
    force: bool = False,
):
    """Those options as rrk.stage.IoOptions (imported late: --help must not pay for orjson)."""
    from rrk.stage import IoOptions

    return IoOptions(output=output, resume=resume, force=force, limit=limit, shard=shard, quiet=quiet, json=json)


def own_threads() -> bool:
    """Whether the user has said how many threads torch may use."""
    import os

    return any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def texts(given: list[str] | None) -> tuple[str, ...]:
    r"""Texts of a repeated option, in which \n, \t and \x41 mean what they mean in Python."""
    return tuple(text.encode().decode("unicode_escape") if "\\" in text else text for text in given or ())


def content(path: str | None) -> str:
    """The text of a file that an option names; empty where none is named."""
    if path is None:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def cluster(
    stage: str,
    make,
    address: str | None,
    quiet: bool,
    cpus: int | None = None,
    gpus: float | None = 0,
    ahead: int = 0,
):
    """The work of `--engine ray`: make(cores) on every node, and what the user must know of it on standard error."""
    import os

    from rrk.cluster import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless the user says so
    # Results depend on some of these; Ray would set the threads by itself.
    passed_on = [name for name in os.environ if name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE")]

    def say(text: str) -> None:
        if not quiet:
            typer.echo(f"rrk {stage}: {text}", err=True)

    environment = {name: os.environ[name] for name in passed_on}
    return Cluster(make, address, cpus, gpus, ahead, environment, say)
