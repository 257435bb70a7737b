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
            help="humaneval, mbpp, humaneval+, mbpp+, multipl-e, humanevalpack, livecodebench, apps, codecontests, taco, acecode, "
            "bigcodebench; or a local file in one of these schemas.",
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
    style: Annotated[
        str,
        typer.Option(metavar="docstring|function", help="mbpp: function writes prompts as HumanEval does, for a body."),
    ] = "docstring",
    file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="PATH", help="Read this file (JSONL, also .gz and .zst) instead of asking the hub."),
    ] = None,
    output: options.Output = "-",
    resume: options.Resume = False,
    force: options.Force = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Turn a benchmark into Problem rows: task_id, language, prompt, tests, stop_tokens, canonical_solution where known.

    Benchmarks come from the hub through `datasets` (openai_humaneval, mbpp, evalplus, nuprl/MultiPL-E,
    bigcode/humanevalpack, livecodebench/code_generation_lite, codeparrot/apps, deepmind/code_contests, BAAI/TACO,
    TIGER-Lab/AceCode-87K, bigcode/bigcodebench), or from a local file, whose schema is recognised by its fields. MBPP's prompt is a docstring of
    the task's text and its first assert; with --style function it is a signature whose docstring has the text and two
    examples, and the completion a body, as in HumanEval (train a reranker on the form that it will rank). EvalPlus' tests run the reference solution beside the candidate on all inputs.

    LiveCodeBench, APPS, CodeContests and TACO have `cases` instead of tests: inputs with the outputs that a program has to
    print (in any language), or arguments with values; `compare` names the benchmark's own way of comparing. A problem without a
    test that could be run is left out, and counted. BigCodeBench's tests need packages: rrk execute --packages.

    \b
    Examples:
      rrk problems humaneval -o humaneval.jsonl
      rrk problems multipl-e --language cpp > problems.jsonl
      rrk problems mbpp --split train --file mbpp.jsonl -o train.jsonl
      rrk problems mbpp --split train --style function -o bodies.jsonl
      rrk problems livecodebench --file test6.jsonl | tee lcb.jsonl | rrk sample -m MODEL -n 10 | rrk execute -p lcb.jsonl
      rrk problems HumanEvalPlus.jsonl.gz | rrk sample -m MODEL -n 1 --temperature 0
    """
    import sys

    from rrk import benchmarks, jsonl, stage
    from rrk.function_style import function_style

    source = source.lower() if source.lower() in (*benchmarks.SOURCES, "evalplus") else source
    if source == "evalplus":
        source = f"{dataset}+"
    path = file or (source if benchmarks.is_file(source) else None)
    if path is None and source not in benchmarks.SOURCES:
        raise UsageError(f"no benchmark '{source}'; there are {', '.join(benchmarks.SOURCES)}, or a local file")
    raw = jsonl.read([path]) if path else benchmarks.hub(source, language, dataset, split)
    if style not in ("docstring", "function"):
        raise UsageError("--style is docstring or function")
    untestable: list[str] = []
    bodiless = 0

    class Work:
        """The rows as they are."""

        @property
        def figures(self):
            return {"left_out": left} if (left := bodiless + len(untestable)) else {}

        def __call__(self, items):
            for row in items:
                yield [row]
            if quiet:
                return
            if bodiless:
                note = f"{bodiless} left out: no function whose body could be asked for"
                print(f"rrk problems: {note}", file=sys.stderr)
            if untestable:
                print(f"rrk problems: {len(untestable)} left out, as {untestable[0]}", file=sys.stderr)

    def bodies(rows):
        nonlocal bodiless
        for row in rows:
            made = function_style(row)
            bodiless += made is None
            if made is not None:
                yield made

    every = benchmarks.problems(raw, language, split if path else None, untestable)
    stage.run(
        "problems",
        [path] if path else [],
        options.io(output, resume, limit, shard, quiet, json, force),
        params={
            "source": source if path is None else None,
            "language": language,
            "dataset": dataset,
            "split": split,
            "style": style,
        },
        work=Work(),
        made=map(_testable, bodies(every) if style == "function" else every),
    )


def _testable(row):
    """The row, or RowError where its tests would let every program pass."""
    from rrk import rows
    from rrk.errors import RowError
    from rrk.sandbox.judge import suites, suites_text

    if "cases" in row:
        return row  # read already, with an error of its own where there is none
    problem = rows.problem(row)
    if problem.language == "py":
        why = suites.look(problem.tests, problem.entry_point).vain
    else:
        why = suites_text.vain(problem.language, problem.tests)
    if why:
        raise RowError(f"problem '{problem.task_id}': {why}; a pass would say nothing", rows.where(row))
    return row
