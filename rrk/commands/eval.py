"""`rrk eval`: how good are the samples, and how good is the ranking?"""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from rrk import options
from rrk.errors import RrkError, UsageError


def eval_(
    inputs: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Argument(
            metavar="[INPUT]...",
            help="Executed (and scored) candidates, in any order; several files count as one. With --rounds: a round each.",
        ),
    ] = None,
    k: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--k", "-k", metavar="1,2,4", help="For pass@k. [default: powers of two up to n]"),
    ] = None,
    by: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--by", metavar="FIELD", help="A report for each value of this field, as in --by model."),
    ] = None,
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Rows or a report of another system: compare on the same problems, in pairs."
        ),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit 1 if significantly (p < .05) worse than --against: by ranked pass@1, or pass@1 without scores.",
        ),
    ] = False,
    rounds: Annotated[
        bool, typer.Option("--rounds", help="INPUTs are reports (or rows), FILE or NAME=FILE: print them as a ledger.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost", help="INPUTs are reports (or rows), FILE or NAME=FILE: quality against cost, a row each."
        ),
    ] = False,
    axis: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="flops|tokens|cpu_seconds|wall_seconds",
            help="--cost: of an answer. [default: the first that is known]",
        ),
    ] = None,
    overlap: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="CORPUS", help="INPUTs are problems: which of them share n-grams with this training corpus?"
        ),
    ] = None,
    ngram: Annotated[int, typer.Option(metavar="N", min=1, help="--overlap: words of an n-gram.")] = 13,
    suspect: Annotated[
        bool, typer.Option("--suspect", help="Which problems' tests let wrong programs pass? Runs programs; needs -p.")
    ] = False,
    problems: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--problems", "-p", metavar="FILE", help="--suspect: the problems with their tests."),
    ] = None,
    jobs: options.Jobs = 1,
    ppo_log: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--ppo-log", metavar="FILE", help="A log.jsonl of train-ppo: score against probe, by update."),
    ] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--model", "-m", metavar="DIR", help="Had a part in it, where neither rows nor records say so."),
    ] = None,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Measure on problems that a model was trained on; the report says so.")
    ] = False,
    plot: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FILE", help="Draw the best-of-k curve (or the PPO run): .svg, .png or .pdf."),
    ] = None,
    html: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FILE", help="A page of its own: figures, curve, and what the ranking fell for."),
    ] = None,
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", "-o", metavar="FILE", help="Write the report as JSON."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON object instead of tables.")
    ] = False,
    format: Annotated[
        str,
        typer.Option("--format", metavar="table|markdown|latex|csv", help="Of the tables; all else goes to stderr."),
    ] = "table",
    interval: Annotated[
        str, typer.Option(metavar="percentile|bca", help="Shown in tables and plots; JSON has both.")
    ] = "percentile",
    resamples: Annotated[int, typer.Option(min=100, metavar="N", help="Of the bootstrap.")] = 10_000,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Pass@k, ranked pass@1, best of k, oracle and the report card of the score, with 95 % intervals.

    Figures are means over problems and then over languages; intervals are bootstrapped over base problems (a problem in
    eight languages is one). Rows of temperature 0 beside others are the greedy run. Rows that could not be judged enter no
    figure. Without scores only the samples are measured.

    A report on problems that the generator, the reranker or what they were trained from was trained on is refused (exit 1),
    in another language too. rrk.json of a trained folder names them; which models had a part is told by the rows' `model` and
    by the records that stages leave beside -o FILE.

    --overlap: all texts of the corpus' rows against the problems' prompts and solutions, by 13 words in lower case and without
    punctuation (Brown et al. 2020, arXiv 2005.14165, appendix C); a line a problem.

    --suspect: passing Python programs that disagree on fresh inputs, made from the tests' own arguments and run in the sandbox.
    Where the problem has a reference solution, what differs from it is wrong; else the minority is.

    --cost: an answer is the best-ranked of n candidates and costs all n and the ranking; without scores it is one sample.
    Executing the hidden tests costs an answer nothing. FLOPs are 2 x parameters x tokens (6 x for training). Scored files are
    also shown at fewer candidates (-k), and compared at the cost of the other where they cost more.

    \b
    Examples:
      rrk eval scored.jsonl --plot curve.svg --html report.html -o report.json
      rrk eval scored.jsonl --against before.jsonl --fail-if-worse
      rrk eval verdicts.jsonl --by model -k 1,10
      rrk eval --rounds runs/0/report.json runs/1/report.json
      rrk eval --cost 13B+reranker=a.json 33B=b.json --plot cost.svg
      rrk eval --cost --by model verdicts.jsonl
      rrk eval --overlap solutions.jsonl problems.jsonl
      rrk eval --suspect -p problems.jsonl verdicts.jsonl -o suspects.json
      rrk eval --ppo-log runs/policy/log.jsonl --plot over.svg
    """
    import os
    import sys

    from rrk import jsonl
    from rrk.eval_output import Out, check_readable, write
    from rrk.evaluation import against as paired
    from rrk.evaluation import ledger, plots, tables
    from rrk.evaluation import report as reports

    given = list(inputs or [])
    if fail_if_worse and not against:
        raise UsageError("--fail-if-worse needs --against FILE")
    if axis and not cost:
        raise UsageError("--axis belongs to --cost")
    chosen = {"--rounds": rounds, "--cost": cost, "--overlap": overlap, "--suspect": suspect, "--ppo-log": ppo_log}
    modes = [name for name, on in chosen.items() if on]
    modes += ["--by"] if by and not cost else []
    if len(modes) > 1:
        raise UsageError(f"{' and '.join(modes)} do not go together")
    if modes and (against or html):
        raise UsageError(f"{modes[0]} does not go with {'--against' if against else '--html'}")
    if interval not in ("percentile", "bca"):
        raise UsageError(f"--interval {interval}: choose percentile or bca")
    out = Out(format)
    shown: Any = tables.with_bca if interval == "bca" else lambda found: found
    if plot:
        plots.check(plot)
    if ppo_log:
        if given:
            raise UsageError("--ppo-log takes no INPUT")
        _ppo(out, ppo_log, plot, output, json)
        return
    if not given and sys.stdin.isatty():
        raise UsageError("no input: give a file, or pipe rows in (see rrk eval --help)")
    ks = reports.parse_ks(k)
    fair: dict[str, Any] = {"allow_seen": allow_seen, "models": model or []}
    settings: dict[str, Any] = {"ks": ks, "repeats": resamples, "seed": seed, **fair}
    if rounds:
        if not given:
            raise UsageError("--rounds needs files: reports that rrk eval -o wrote, or rows")
        pairs = ledger.named(given)
        check_readable([path for _, path in pairs])
        entries = ledger.read(given, **settings)
        changes = ledger.steps(entries, repeats=resamples, seed=seed)
        write(ledger.ledger(entries, changes), output, json)
        entries = [(name, shown(found)) for name, found in entries]
        if not json:
            out.show([tables.ledger(entries, changes)])
            out.say(f"{name}: {said}" for name, found in entries for said in tables.remarks(found))
        if plot:
            plots.best_of_k(entries, plot)
        return
    given = given or [jsonl.STDIN]
    if overlap:
        if plot:
            raise UsageError("--overlap draws nothing: leave out --plot")
        check_readable([*given, *overlap])
        _overlap(out, given, overlap, ngram, output, json)
        return
    if suspect:
        if plot or not problems:
            raise UsageError("--suspect draws nothing: leave out --plot" if plot else "--suspect needs -p PROBLEMS")
        check_readable([*given, *problems])
        _suspect(out, given, problems, jobs, seed, output, json)
        return
    if cost:
        check_readable([path for _, path in ledger.named(given)])
        entries = list(ledger.groups(given, by, **settings).items()) if by else ledger.read(given, **settings)
        _cost(out, shown(entries), axis, plot, output, json, resamples, seed)
        return
    check_readable([*given, *([against] if against else [])])
    if by:
        named = ledger.groups(given, by, **settings)
        write({reports.KEY: reports.VERSION, "by": by, "groups": named}, output, json)
        named = shown(named)
        if not json:
            out.show([tables.systems(named, by)])
            out.say(f"{name}: {said}" for name, found in named.items() for said in tables.remarks(found))
        if plot:
            plots.best_of_k(list(named.items()), plot, ", ".join(given))
        return
    samples = reports.Samples(keep=bool(html))
    if len(given) == 1 and not html and ledger.is_report(given[0]):
        found = ledger.load(given[0])
    else:
        for row in jsonl.read(given):
            samples.add(row)
        found = ledger.build(samples, given, **settings)
    if against:
        other = ledger.load(against, **settings)
        found["against"] = {
            "file": os.path.basename(against),
            **paired.compare(found, other, repeats=resamples, seed=seed),
        }
    write(found, output, json)
    found = shown(found)
    if not json:
        out.report(found)
    if plot:
        plots.best_of_k([("", found)], plot, ", ".join(given))
    if html:
        from rrk.evaluation import webpage

        note = webpage.write(html, found, samples, " ".join(given))
        if note and not quiet:
            print(f"rrk eval: {note}", file=sys.stderr)
    if fail_if_worse:
        metric, outcome = paired.verdict(found["against"])
        if outcome == "worse":
            c = found["against"][metric]
            was = f"{tables.number(c['ours'])} against {tables.number(c['theirs'])}, p {tables.p_value(c['p'])}"
            raise RrkError(f"{metric.replace('_', ' ')} is significantly worse than {against}: {was}")


def _cost(
    out: Any,
    entries: list[tuple[str, Any]],
    axis: str | None,
    plot: str | None,
    output: str | None,
    json: bool,
    repeats: int,
    seed: int,
) -> None:
    """Quality against cost; every system after the first is compared with it in pairs, and where one is dearer and can do
    with fewer candidates, at the other's cost."""
    from rrk.eval_output import write
    from rrk.evaluation import cost, plots, tables
    from rrk.evaluation import report as reports

    if axis and axis not in cost.AXES:
        raise UsageError(f"--axis {axis}: choose one of {', '.join(cost.AXES)}")
    entries = [(name, found) for name, found in entries if found["problems"]]
    if not entries:
        raise UsageError("no judged candidates: every row has passed: null")
    by = cost.axis(entries, axis)
    against = []
    first = entries[0][1]
    for name, found in entries[1:]:
        cut = cost.at_its_cost(first, found, by)
        for ks in [(None, None), *([cut] if cut else [])]:
            against.append({"name": name, **cost.against(first, found, by, repeats=repeats, seed=seed, ks=ks)})
    keys = ("problems", "samples", "n", "random", "ranked_pass@1", "oracle", "cost")
    systems = [{"name": name, **{k: found[k] for k in keys if k in found}} for name, found in entries]
    write({reports.KEY: reports.VERSION, "axis": by, "systems": systems, "against": against}, output, json)
    if not json:
        out.show([tables.quality_and_cost(entries)])
        for pair in against:
            out.line(tables.quality_against_cost(entries[0][0], pair["name"], pair))
        said = [(name, text) for name, found in entries for text in cost.remarks(found)]
        for text in dict.fromkeys(text for _, text in said):
            names = [name for name, own in said if own == text]
            out.say([text if len(names) == len(entries) else f"{', '.join(names)}: {text}"])
    if plot:
        plots.quality_and_cost(entries, by, plot)


def _suspect(
    out: Any, given: list[str], problems: list[str], jobs: int, seed: int, output: str | None, json: bool
) -> None:
    from rrk import jsonl, rows
    from rrk.eval_output import write
    from rrk.evaluation import suspect, tables
    from rrk.sandbox import Job, Judge
    from rrk.sandbox.candidates import Problems

    known = Problems(problems)
    asked: dict[str, suspect.Asked] = {}
    for row in jsonl.read(given):
        task = rows.task_id(row)
        if rows.need(row, "passed", (bool, type(None)), "rrk execute writes it") is True:
            problem = known.problem(row)
            if task not in asked:
                asked[task] = suspect.Asked.of(problem, seed)
            asked[task].programs[rows.program(row, problem.prompt)] = None
    examined = {task: one for task, one in asked.items() if one.inputs}
    runs = [(one, text) for one in examined.values() for text in one.texts()]
    with Judge(jobs=jobs) as judge:
        pairs = ((Job("py", "", text, "", suspect.NAME, full=True), one.questions()) for one, text in runs)
        for (one, _), found in zip(runs, judge.evidence(pairs, each_s=0.1), strict=True):
            one.outputs.append((found.evidence or {}).get("outputs") or [None] * len(one.inputs))
    lines = [{"task_id": task, **one.found()} for task, one in examined.items()]
    lines.sort(key=lambda line: (-line["outvoted"], -line["differ"]))
    left = len(asked) - len(examined)
    write({"suspect": lines, "not_examined": left, "seed": seed}, output, json)
    if not json:
        out.show([tables.suspect(lines)])
        hit = sum(bool(line["differ"]) for line in lines)
        out.line(f"{hit} of {len(lines)} problems have passing programs that disagree on inputs which the tests lack")
        if left:
            out.say([f"{left} problems were not examined: not Python, or their tests call nothing with literals"])


def _overlap(out: Any, given: list[str], corpus: list[str], n: int, output: str | None, json: bool) -> None:
    from rrk import jsonl
    from rrk.eval_output import write
    from rrk.evaluation import overlap, tables

    index = overlap.Index(n)
    for row in jsonl.read(given):
        index.add(row)
    for row in jsonl.read(corpus):
        index.look(row)
    lines = index.lines()
    write({"overlap": lines, "n": n, "rows": index.rows, "source": "arXiv 2005.14165, appendix C"}, output, json)
    if not json:
        out.show([tables.overlap(lines)])
        hit = sum(bool(line["rows"]) for line in lines)
        out.line(
            f"{hit} of {len(lines)} problems share an n-gram of {n} words with the {index.rows} rows of {', '.join(corpus)}"
        )


def _ppo(out: Any, path: str, plot: str | None, output: str | None, json: bool) -> None:
    from rrk.eval_output import check_readable, write
    from rrk.evaluation import plots, ppo_log

    check_readable([path])
    log = ppo_log.read(path)
    said = ppo_log.remarks(log)
    write({"ppo_log": log, "remarks": said}, output, json)
    if not json:
        out.show([ppo_log.table(log)])
        out.say(said)
    if plot:
        plots.ppo(log, plot, path)
