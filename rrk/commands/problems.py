"""`rrk problems`: a benchmark in, Problem rows out."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk import options
from rrk.errors import UsageError


def problems(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="humaneval, mbpp, humaneval+, mbpp+, multipl-e, humanevalpack; or a local file in one of these schemas.",
        ),
    ],
    language: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            "--language", "-l", metavar="L", help="multipl-e, humanevalpack: which one; files: only this one."
        ),
    ] = None,
    dataset: Annotated[
        str, typer.Option(metavar="humaneval|mbpp", help="evalplus, multipl-e: which of their two benchmarks.")
    ] = "humaneval",
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="S", help="mbpp: train, validation, test, prompt. [default: test; files: all]"),
    ] = None,
    file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="PATH", help="Read this file (JSONL, also .gz and .zst) instead of asking the hub."),
    ] = None,
    output: options.Output = "-",
    limit: options.Limit = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Turn a benchmark into Problem rows: task_id, language, prompt, tests, stop_tokens, canonical_solution where known.

    Benchmarks come from the hub through `datasets` (openai_humaneval, mbpp, evalplus, nuprl/MultiPL-E,
    bigcode/humanevalpack), or from a local file, whose schema is recognised by its fields. MBPP's prompt is a docstring of
    the task's text and its first assert. EvalPlus' tests run the reference solution beside the candidate on all inputs.

    \b
    Examples:
      rrk problems humaneval -o humaneval.jsonl
      rrk problems multipl-e --language cpp > problems.jsonl
      rrk problems mbpp --split train --file mbpp.jsonl -o train.jsonl
      rrk problems HumanEvalPlus.jsonl.gz | rrk sample -m MODEL -n 1 --temperature 0
    """
    import itertools
    import sys

    from rrk import benchmarks, jsonl

    source = source.lower() if source.lower() in (*benchmarks.SOURCES, "evalplus") else source
    if source == "evalplus":
        source = f"{dataset}+"
    path = file or (source if benchmarks.is_file(source) else None)
    if path is None and source not in benchmarks.SOURCES:
        raise UsageError(f"no benchmark '{source}'; there are {', '.join(benchmarks.SOURCES)}, or a local file")
    raw = jsonl.read([path]) if path else benchmarks.hub(source, language, dataset, split)
    made = itertools.islice(benchmarks.problems(raw, language, split if path else None), limit)
    count = 0
    if output == "-":
        for row in made:
            sys.stdout.buffer.write(jsonl.dumps(row))
            count += 1
        sys.stdout.buffer.flush()
    else:
        count = jsonl.write(output, made)
    if json:
        print(jsonl.dumps({"stage": "problems", "rows": count}).decode(), end="", file=sys.stderr)
    elif not quiet:
        print(f"rrk problems: {count} problems", file=sys.stderr)
