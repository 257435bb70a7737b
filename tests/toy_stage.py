"""Two smallest possible stages, run as a program: what the contract says of every stage is tested on these first.

python -m tests.toy_stage row|problem [--slow] [OPTIONS] [INPUT...]
"""

import sys
import time

import typer

from rrk import cli, options, rows, stage


def toy(
    unit: str,
    inputs: options.Inputs = None,
    output: options.Output = "-",
    resume: options.Resume = False,
    force: options.Force = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    unsorted: options.Unsorted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    jobs: options.Jobs = 1,
    slow: float = 0.0,
    add: int = 0,
):
    """Add a field to each row; `jobs` is how many items it reads ahead."""

    def work(items):
        window = []
        while True:
            while len(window) < jobs and (not window or items.ready()):
                item = next(items, None)
                if item is None:
                    break
                window.append(item)
            if not window:
                return
            item = window.pop(0)
            time.sleep(slow)
            group = item if unit == "problem" else [item]
            yield [{**row, "toy": len(group) + add} for row in group]

    stage.run(
        "toy",
        inputs or [],
        options.io(output, resume, limit, shard, quiet, json, force),
        params={"add": add},
        work=work,
        unit=unit,
        validate=rows.completion,
        unsorted=unsorted,
    )


def main() -> None:
    sys.modules["rrk.commands.toy"] = sys.modules[__name__]
    cli.COMMANDS["toy"] = "a toy"
    cli.main(["toy", *sys.argv[1:]])


if __name__ == "__main__":
    typer  # noqa: B018 - the commands' own import
    main()
