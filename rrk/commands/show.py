"""`rrk show`: look at programs, verdicts and scores; at problems and pairs; at reports, logs and what made a folder."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from rrk import options
from rrk.errors import UsageError


def show(
    inputs: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Argument(
            metavar="[INPUT]...",
            help="Candidates, verdicts, scores, pairs or problems, in any order; a report, a log.jsonl, a folder with rrk.json.",
        ),
    ] = None,
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--task", "-t", metavar="ID", help="This problem's programs (HumanEval/3 finds HumanEval_3_...)."),
    ] = None,
    top: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--top", "-k", min=1, metavar="K", help="The K best-scored a problem (the first K without scores)."
        ),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only programs that failed.")] = False,
    passed: Annotated[bool, typer.Option("--passed", help="Only programs that passed.")] = False,
    status: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="STATUS", help="Only programs with this status, as in Timeout."),
    ] = None,
    language: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--language", "-l", metavar="L", help="Only this language."),
    ] = None,
    id: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--id", metavar="N", help="Only the candidate with this completion_id."),
    ] = None,
    contrast: Annotated[
        bool,
        typer.Option(
            "--contrast", help="Where the best-scored program is wrong: a diff from it to the nearest that passes."
        ),
    ] = False,
    output_too: Annotated[bool, typer.Option("--output", help="Also what the program printed and its errors.")] = False,
    color: Annotated[str, typer.Option("--color", metavar="WHEN", help="auto, always or never.")] = "auto",
    limit: options.Limit = None,
) -> None:
    """Look at programs, verdicts and scores.

    Without a filter: a line a problem. With one: the programs, best-scored first, highlighted on a terminal (by $PAGER; cat:
    by none) and plain down a pipe. Control characters in programs and their output are spelt out, never sent to the terminal.

    \b
    Examples:
      rrk show scored.jsonl
      rrk show scored.jsonl --task HumanEval/3 --top 3
      rrk show scored.jsonl --failed --top 1 --color always | less -R
      rrk show scored.jsonl --contrast
      rrk show pairs.jsonl --task HumanEval/3
      rrk show report.json
      rrk show runs/reranker
    """
    import sys

    from rrk import rows, terminal
    from rrk.evaluation import browse

    given = list(inputs or [])
    if color not in ("auto", "always", "never"):
        raise UsageError(f"--color {color}: give auto, always or never")
    if failed and passed:
        raise UsageError("--failed and --passed do not go together; leave both out to see all")
    if not given and sys.stdin.isatty():
        raise UsageError("no input: give a file, or pipe rows in (see rrk show --help)")
    wanted = browse.Filter(passed=True if passed else False if failed else None, status=status, id=id)
    code = rows.language_code(language) if language else None
    listed = bool(task or top or wanted.any() or contrast)
    with terminal.pager(color) as color:
        _show(given, wanted, code, task, top, listed, contrast, output_too, color, limit)


def _show(
    given: list[str],
    wanted: Any,
    code: str | None,
    task: str | None,
    top: int | None,
    listed: bool,
    contrast: bool,
    output_too: bool,
    color: str,
    limit: int | None,
) -> None:
    """Everything that goes to standard output."""
    import os
    import sys

    from rrk import jsonl, manifest, terminal
    from rrk.evaluation import browse

    folders = [path for path in given if os.path.isdir(path)]
    for folder in folders:
        record = manifest.read(folder)
        if record is None:
            raise UsageError(f"{folder}: no {manifest.NAME} in this folder: not made by rrk, or not finished")
        terminal.line(folder, "bold", color)
        for name, value in browse.flat(record):
            terminal.line(f"  {name}: {value}")
    files = [path for path in given if path not in folders]
    for path in files:
        if path != jsonl.STDIN and not os.path.exists(path):
            raise UsageError(f"{path}: no such file")
    told = [path for path in files if path != jsonl.STDIN and os.path.isfile(path) and _record(path, color)]
    files = [path for path in files if path not in told]
    if (folders or told) and not files:
        return
    problems = browse.gather(jsonl.read(files or [jsonl.STDIN]), code, task, wanted if listed else None, top)
    if task and not problems.groups:
        raise UsageError(f"no problem '{task}' in the input{browse.near(task, problems.names)}")
    chosen = list(problems.groups.items())[:limit]
    pairs = problems.pairs
    if not listed:
        if pairs:
            counts = [browse.pair_counts(group) for _, group in chosen]
            lines = [[name, lang, *map(str, c)] for ((lang, name), _), c in zip(chosen, counts, strict=True)]
            terminal.table(["problem", "language", "pairs", *browse.KINDS], lines, words=(0, 1))
        elif problems.problems:
            lines = [[name, lang, *browse.about_problem(group.kept[0])] for (lang, name), group in chosen]
            terminal.table(["problem", "language", "entry point", "tests", "solution"], lines, words=(0, 1, 2))
        else:
            lines = [[name, lang, *browse.overview(group)] for (lang, name), group in chosen]
            terminal.table(["problem", "language", "passed", "best-scored", "statuses"], lines, words=(0, 1, 3, 4))
        print(f"rrk show: {browse.totals([group for _, group in chosen])}", file=sys.stderr)
        return
    shown = 0
    for (lang, name), group in chosen:
        if pairs:
            for pair in group.kept:
                _pair(name, lang, pair, color)
                shown += 1
            continue
        if problems.problems:
            _problem(group.kept[0], lang, color)
            shown += 1
            continue
        if contrast:
            shown += _contrast(name, lang, group, color)
            continue
        ranked = browse.ranked(group.kept)[:top]
        if not ranked:
            continue
        prompt = browse.common_prompt(ranked)
        if prompt:
            terminal.line(f"=== {name} ({lang})", "bold cyan", color)
            terminal.code(prompt, lang, color)
        for row in ranked:
            _program(name, lang, row, group.size, color, output_too, prompt)
            shown += 1
    if not shown:
        print("rrk show: nothing fits these filters", file=sys.stderr)


def _program(
    name: str, lang: str, row: dict[str, Any], of: int, color: str, output_too: bool, prompt: str | None
) -> None:
    from rrk import rows, terminal
    from rrk.evaluation import browse

    style = {True: "bold green", False: "bold red"}.get(row.get("passed"), "bold yellow")  # type: ignore[arg-type]
    terminal.line()
    terminal.line(terminal.one_line(f"--- {browse.headline(name, row, of)}"), style, color)
    # Programs with a prompt of their own are shown whole; the others continue the one above.
    whole = prompt is None and isinstance(row.get("prompt"), str)
    terminal.code(rows.program(row) if whole else rows.completion(row), lang, color)
    if output_too:
        for field in ("stdout", "stderr"):
            if text := str(row.get(field) or "").strip("\n"):
                terminal.line(f"... {field}:", "bold", color)
                terminal.line(text)


def _pair(name: str, lang: str, pair: dict[str, Any], color: str) -> None:
    from rrk import terminal
    from rrk.evaluation import browse

    chosen, rejected = (browse.message(pair[side]) for side in ("chosen", "rejected"))
    terminal.line(terminal.one_line(f"=== {browse.pair_headline(name, pair)}"), "bold cyan", color)
    titles = (browse.side(pair, "chosen"), browse.side(pair, "rejected"))
    if terminal.side_by_side(chosen, rejected, lang, titles):
        return
    terminal.line(f"--- {terminal.one_line(titles[0])}", "bold green", color)
    terminal.code(chosen, lang, color)
    terminal.line(f"--- {terminal.one_line(titles[1])}", "bold red", color)
    terminal.code(rejected, lang, color)
    terminal.line()


def _record(path: str, color: str) -> bool:
    """A report of rrk eval, a log of train-ppo or another JSON object; False where the file holds rows."""
    from rrk import eval_output, terminal
    from rrk.evaluation import browse, ppo_log, report

    kind, found = browse.peek(path)
    if kind == "rows":
        return False
    terminal.line(path, "bold", color)
    if kind == "log":
        log = ppo_log.read(path)
        eval_output.Out("table").show([ppo_log.table(log)])
        for remark in ppo_log.remarks(log):
            terminal.line(f"note: {remark}", "yellow", color)
    elif kind == "report" and report.KEY in found and "problems" in found:
        eval_output.Out("table").report(found)
    else:
        for name, value in browse.flat(found):
            terminal.line(f"  {name}: {value}")
    return True


def _problem(problem: dict[str, Any], lang: str, color: str) -> None:
    from rrk import rows, terminal

    terminal.line(f"=== {rows.task_id(problem)} ({lang})", "bold cyan", color)
    terminal.code(str(problem.get("prompt") or ""), lang, color)
    for field in ("canonical_solution", "tests"):
        if text := str(problem.get(field) or "").strip("\n"):
            terminal.line(f"... {field}:", "bold", color)
            terminal.code(text, lang, color)
    if cases := problem.get("cases"):
        terminal.line(f"... {len(cases)} cases", "bold", color)


def _contrast(name: str, lang: str, group: Any, color: str) -> bool:
    """The best-scored program, which is wrong, and what it would take to the nearest that passes; False: nothing to show."""
    from rrk import terminal
    from rrk.evaluation import browse

    found = browse.contrast(group.kept)
    if found is None:
        return False
    wrong, right, lines = found
    terminal.line(terminal.one_line(f"=== {name} ({lang})"), "bold cyan", color)
    terminal.line(terminal.one_line(f"--- {browse.headline(name, wrong, group.size)}"), "bold red", color)
    terminal.line(terminal.one_line(f"+++ {browse.headline(name, right, group.size)}"), "bold green", color)
    terminal.code("\n".join(lines), "diff", color)
    terminal.line()
    return True
