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
    `reward`). `fused` is cross-fitted by problem. Figures: how often the best-ranked candidate passes, with 95 % intervals over base
    problems; the difference to the best method is paired. Rows may stand in any order.

    NAME=FILE is one more line: what that file's rows choose by their `score`, or one sample where they have none, be it of another
    model; a ranking of these same candidates may lack the problems whose programs have one verdict (rrk rerank --undecided). Rows of several
    languages have a column each; the figure is the mean over languages.

    \b
    Examples:
      rrk compare verdicts.jsonl
      rrk compare verdicts.jsonl judge=judged.jsonl 'reranker 1'=scored.jsonl 1.5B=large.jsonl
      rrk compare scored.jsonl --plot compare.svg
      rrk compare evidence.jsonl --json | jq -r .advice
    """
    import os
    import sys

    from rrk import jsonl, terminal
    from rrk.evaluation import compare as comparing
    from rrk.evaluation import contamination, formats, ledger, plots, tables
    from rrk.items import Unsorted
    from rrk.reranking import choices

    pairs = [ledger.split(spec) for spec in inputs or [jsonl.STDIN]]
    others = {name: path for name, path in pairs if name}
    given = [path for name, path in pairs if not name]
    if not given:
        raise UsageError("give the candidates to choose from as well, without a name; NAME=FILE is one more line")
    if len(others) + len(given) < len(pairs):
        raise UsageError("two of NAME=FILE have the same name")
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

    chosen: dict[str, list[Any]] = {}
    read = list(problems)
    for name, path in others.items():
        named: Any = Unsorted([path], "problem", validate=choices.validate)
        theirs = list(named)
        if named.error is not None:
            raise named.error
        read += theirs
        chosen[name] = choices.named(problems, theirs)
    kept = [i for i in range(len(problems)) if all(own[i] is not None for own in chosen.values())]
    if len(kept) < len(problems):
        say(
            f"{len(problems) - len(kept)} of {len(problems)} problems are left out: not all of {', '.join(others)} have them"
        )
    if not kept:
        raise UsageError(f"no problem of {', '.join(given)} is in all of {', '.join(others.values())}")
    problems = [problems[i] for i in kept]

    generators = dict.fromkeys(str(row["model"]) for problem in read for row in problem if row.get("model"))
    lineage = contamination.history([*given, *others.values()], generators)
    seen = contamination.seen(choices.clusters(problems), lineage.models)
    contamination.refuse(seen, allow_seen)
    for remark in contamination.remarks(seen):
        say(remark)
    if any("until" in row for problem in problems for row in problem):
        say(f"{tables.UNTIL}: random and oracle are not those of n samples; what a method chooses is what a user gets")
    values = choices.values(problems, ties or None, seed, say)
    if taken := values.keys() & chosen.keys():
        raise UsageError(f"{min(taken)}=FILE: a method is called so; give another name")
    values |= {name: [own[i] for i in kept] for name, own in chosen.items()}
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
