"""`rrk compare`: every way of choosing that a file's fields allow, on the same candidates."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from rrk import options
from rrk.errors import UsageError


def compare(
    inputs: options.Inputs = None,
    plot: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this at run time
        typer.Option(metavar="FILE", help="Draw the table: .svg, .png or .pdf."),
    ] = None,
    ties: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="Also each method by execution with its equal scores ordered by this one; '' for none.",
        ),
    ] = "ngram",
    resamples: Annotated[int, typer.Option(min=100, metavar="N", help="Of the bootstrap.")] = 2_000,
    seed: options.Seed = 0,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="On problems that a model was trained on, too; rrk eval --help.")
    ] = False,
    format: Annotated[
        str, typer.Option("--format", metavar="table|markdown|latex|csv", help="Of the table.")
    ] = "table",
    limit: options.Limit = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Try every way of choosing that the rows allow, and say which to use.

    Needs `passed` (rrk execute). A method joins in where all rows have its fields: logprob, tokens, evidence, score (as
    `reward`). `fused` is cross-fitted by problem and needs scikit-learn. Figures: how often the best-ranked candidate
    passes, with 95 % intervals over base problems; the difference to the best method is paired. Rows may stand in any order.

    \b
    Examples:
      rrk compare verdicts.jsonl
      rrk compare scored.jsonl --plot compare.svg
      rrk compare evidence.jsonl --json | jq -r .advice
    """
    import os
    import sys

    from rrk import jsonl, terminal
    from rrk.evaluation import compare as comparing
    from rrk.evaluation import contamination, formats, plots
    from rrk.items import Unsorted
    from rrk.reranking import choices

    given = list(inputs or [jsonl.STDIN])
    if jsonl.STDIN in given and sys.stdin.isatty():
        raise UsageError("no input: give a file, or pipe rows in (see rrk compare --help)")
    if format not in formats.FORMATS:
        raise UsageError(f"--format {format}: choose one of {', '.join(formats.FORMATS)}")
    if plot:
        plots.check(plot)
    groups: Any = Unsorted(given, "problem", limit, validate=choices.validate)
    problems = choices.judged(list(groups))
    if groups.error is not None:
        raise groups.error
    if not problems:
        raise UsageError("no judged candidates: every row has passed: null")

    def say(text: str) -> None:
        if not quiet:
            print(f"rrk compare: {text}", file=sys.stderr, flush=True)

    generators = dict.fromkeys(str(row["model"]) for problem in problems for row in problem if row.get("model"))
    seen = contamination.seen(choices.clusters(problems), contamination.history(given, generators).models)
    contamination.refuse(seen, allow_seen)
    for remark in contamination.remarks(seen):
        say(remark)
    values = choices.values(problems, ties or None, seed, say)
    found = comparing.compare(
        values, choices.languages(problems), choices.clusters(problems), repeats=resamples, seed=seed
    )
    count = sum(map(len, problems))
    advice = comparing.advice(found)
    if json:
        record = {"problems": len(problems), "candidates": count, "methods": found, "advice": advice}
        print(jsonl.dumps(record).decode(), end="")
    else:
        _, header, lines = comparing.table(found)
        interval = f"95 % interval: {resamples} resamples of base problems, seed {seed}"
        title = f"{len(problems)} problems, {count} judged candidates; [{interval}]"
        if format == "table":
            terminal.table(header, lines, title)
            terminal.line(advice, "bold")
        else:
            print(formats.written((title, header, lines), format), end="", flush=True)
            say(advice)
    if plot:
        plots.methods(
            found, f"{', '.join(map(os.path.basename, given))}: {len(problems)} problems, {count} candidates", plot
        )
