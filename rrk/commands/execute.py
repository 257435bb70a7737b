"""`rrk execute`: candidates in, the same rows with verdicts out."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated, Any, Optional

import typer

from rrk import options
from rrk.errors import RrkError, Unjudged, UsageError

# An earlier verdict's words that this one may not have, and that must not stay beside it.
EARLIER = ("reason", "integrity", "tests_passed", "tests_total", "pass_share", "failed_case")


def execute(
    inputs: options.Inputs = None,
    problems: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this at run time
        typer.Option(
            "--problems",
            "-p",
            metavar="FILE",
            help="Problem rows (rrk problems), joined on task_id and language; may be given several times.",
        ),
    ] = None,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--jobs", "-j", metavar="N", min=1, envvar="RRK_JOBS", help="Cores to use. [default: all]"),
    ] = None,
    timeout: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--timeout",
            metavar="S",
            min=0.01,
            help="CPU seconds a program may take. [default: its language's (3 to 15), more on a slow machine or for a slow problem]",
        ),
    ] = None,
    memory: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--memory", metavar="MB", min=16, help="Memory a program may take. [default: its language's]"),
    ] = None,
    sandbox: Annotated[
        str,
        typer.Option(
            "--sandbox", metavar="auto|none|podman|docker", help="The jail; rlimits only (unsafe); or in a container."
        ),
    ] = "auto",
    repeat: Annotated[
        int,
        typer.Option("--repeat", metavar="K", min=1, help="Run each K times; 'passed' is null where they disagree."),
    ] = 1,
    all_tests: Annotated[
        bool,
        typer.Option("--all-tests", help="Go on after a test that failed: adds 'pass_share', the share that held."),
    ] = False,
    extract: Annotated[
        bool,
        typer.Option("--extract", help="Take the program out of chat answers first (as rrk convert --code does)."),
    ] = False,
    cache: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--cache", metavar="DIR", help="Keep verdicts in DIR and take them from there (off by default)."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="No cache, whatever --config says.")] = False,
    evidence: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--evidence",
            metavar="FILE",
            help="Run these generated tests instead, and add 'evidence'. Hidden tests are not even loaded.",
        ),
    ] = None,
    examples: Annotated[
        bool,
        typer.Option("--examples", help="Run the examples that prompts show, before --evidence if given."),
    ] = False,
    public_cases: Annotated[
        bool,
        typer.Option("--public-cases", help="Run the cases that problems show instead, and add 'evidence' of them."),
    ] = False,
    each_timeout: Annotated[
        float,
        typer.Option(
            "--each-timeout",
            metavar="S",
            min=0.01,
            help="CPU seconds a generated test may take; a tenth once 3 ran out on a program, a hundredth once 20 did.",
        ),
    ] = 1.0,
    sandboxes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--sandboxes", metavar="DIR", help="A folder of further languages (LANG.toml)."),
    ] = None,
    packages: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--packages",
            metavar="DIR",
            help="Python packages (a site-packages folder) that programs and tests may import. [default: the standard library]",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="local|ray", help="This machine; or every node of a Ray cluster (-j: cores of each)."
        ),
    ] = "local",
    ray_address: options.RayAddress = None,
    output: options.Output = "-",
    resume: options.Resume = False,
    force: options.Force = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Run candidates against their problems' tests, in a sandbox.

    Adds passed (true, false, or null where it could not be judged), status, exit_code, stdout, stderr, time (CPU seconds),
    time_wall, max_rss and sandbox (the layers that were active). Takes rrk's candidates, EvalPlus and human-eval samples, and
    rows that carry tests of their own (then without -p).

    A problem with `cases` instead of tests is judged by outputs: {"input", "output"} for whole programs in every language, or
    {"args", "expected"} for Python functions; adds tests_passed, tests_total and failed_case, the first that did not hold. With
    --all-tests the rest is run too and pass_share added, for Python's asserts as well (rrk mine --margin share).

    --extract puts the program that a chat answer holds in the place of 'completion'; 'extracted' says how it was found and
    how much was cut. An answer without a program becomes an empty program, which fails; the summary counts them.

    --evidence takes rows {task_id, tests: ["assert f(1) == 2", ...]}, {task_id, samples: [...]} (what a model wrote when
    asked for tests, as CodeT's) or {task_id, inputs: ["(1, 2)", ...]}, for `rrk rerank --method codet|mbr-exec|b4`.

    --examples takes the examples out of the prompt itself (Python: `>>> f(1)`, `f(1) == 2`; as MultiPL-E writes them in 18 more
    languages, the file of each in sandboxes/ says how; there they are one test, and compiling is one where there are none), first
    of all tests, for `rrk rerank --method examples` and the methods above.

    --public-cases makes such evidence of the cases with `public: true`, which a problem's text shows: which of them a program
    got right, and what it printed; also for --method examples. Hidden cases are not even kept.

    --engine ray runs the same on all nodes of a cluster (extra `ray`), batches of a problem together, and gives the rows of a
    local run. Each node uses its own jail, and the field `sandbox` says which; one that cannot jail is left out. What ran on a
    worker or node that dies is run again on another.

    \b
    Examples:
      rrk execute -p problems.jsonl candidates.jsonl > verdicts.jsonl
      rrk sample problems.jsonl -m MODEL -n 20 | rrk execute -p problems.jsonl -j 16 | rrk mine > pairs.jsonl
      rrk execute -p problems.jsonl --evidence generated_tests.jsonl candidates.jsonl -o evidence.jsonl
      rrk execute -p problems.jsonl --examples candidates.jsonl | rrk rerank --method examples --ties logprob-mean --top 1
      rrk execute -p problems.jsonl candidates.jsonl --engine ray --ray-address auto -o verdicts.jsonl --resume
      rrk execute -p problems.jsonl --cache ~/.cache/rrk/verdicts --repeat 3 -o verdicts.jsonl --resume candidates.jsonl
    """
    from rrk import manifest, stage
    from rrk.sandbox.candidates import Evidence, Problems
    from rrk.sandbox.container import ENGINES, Container

    if sandbox not in ("auto", "none", *ENGINES):
        raise UsageError(f"--sandbox {sandbox}: give auto, none, {' or '.join(ENGINES)}")
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine}: give local or ray")
    if engine == "ray" and sandbox in ENGINES:
        raise UsageError(f"--engine ray uses the nodes' own jails: leave out --sandbox {sandbox}")
    asked = "--evidence" if evidence else "--examples" if examples else "--public-cases" if public_cases else None
    if asked and repeat > 1:
        raise UsageError(f"--repeat and {asked} do not go together")
    if public_cases and asked != "--public-cases":
        raise UsageError(f"{asked} and --public-cases: one at a time, for a row has one 'evidence'")
    for path in (*(problems or ()), *(evidence or ()), *(packages or ())):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file")
    if packages and sandbox in ENGINES:
        raise UsageError(f"--packages: in {sandbox}, install them into the image (sandboxes/Containerfile)")
    cores = jobs or len(os.sched_getaffinity(0))
    known = Problems(problems or [], hidden=not asked, public=public_cases)
    generated = (
        Evidence(evidence or (), known, shown=examples, sandboxes=sandboxes or ()) if evidence or examples else None
    )

    def validate(row) -> None:
        (generated or known).job(row)

    if sandbox in ENGINES:
        flags = {
            "--jobs": cores,
            "--timeout": timeout,
            "--memory": memory,
            "--repeat": repeat,
            "--all-tests": all_tests or None,
            "--public-cases": public_cases or None,
            "--examples": examples or None,
            "--each-timeout": each_timeout if generated else None,
        }
        work: Any = Container(sandbox, flags, problems or [], evidence or [], sandboxes or [])
        if extract:
            work = _Extracted(work, known)
    else:
        settings = {
            "level": sandbox,
            "repeat": repeat,
            "cache": None if no_cache else cache,
            "sandboxes": sandboxes or [],
            "packages": [os.path.realpath(path) for path in packages or ()],
            "timeout": timeout,
            "memory_mb": memory,
            "all_tests": all_tests,
            "outcomes": public_cases,
        }
        make = partial(_work, known, generated, each_timeout, settings, extract)
        work = options.cluster("execute", make, ray_address, quiet, jobs) if engine == "ray" else make(cores)
    summary = stage.run(
        "execute",
        inputs or [],
        options.io(output, resume, limit, shard, quiet, json, force),
        params={
            "problems": [manifest.digest(path) for path in problems or ()],
            "evidence": [manifest.digest(path) for path in evidence or ()],
            "each_timeout": each_timeout if generated else None,
            **({"examples": True} if examples else {}),
            "timeout": timeout,
            "memory": memory,
            "sandbox": sandbox,
            "repeat": repeat,
            "all_tests": all_tests,
            **({"public_cases": True} if public_cases else {}),
            "extract": extract,
            "sandboxes": sandboxes,
            "packages": packages,
        },
        work=work,
        validate=validate,
        judges=not asked,
        also=evidence or (),
    )
    if not quiet:
        for note in getattr(work, "notes", ()):
            typer.echo(f"rrk execute: note: {note}", err=True)
    if lacking := getattr(work, "figures", {}).get("without evidence"):
        raise Unjudged(f"no evidence could be gathered from {lacking} of {summary.rows} rows; see 'evidence.error'")


def _work(known, generated, each_s: float, settings: dict, extract: bool, cores: int):
    """What judges rows on so many cores, here or on a node of a cluster."""
    work = _Work(known, generated, each_s, {"jobs": cores, **settings})
    return _Extracted(work, known) if extract else work


class _Work:
    """Rows through the judge; `figures` goes into the summary line."""

    def __init__(self, known, generated, each_s: float, settings: dict) -> None:
        self._known, self._generated, self._each_s, self._settings = known, generated, each_s, settings
        self.figures: dict[str, int] = {}
        self.notes: list[str] = []

    def check(self) -> None:
        """RrkError where this machine cannot judge, as it is."""
        from rrk.sandbox.judge.judge import Judge
        from rrk.sandbox.verdict import Job

        with Judge(**{**self._settings, "jobs": 1, "repeat": 1, "cache": None, "outcomes": False}) as judge:
            [found] = judge.judge([Job("py", "", "a = 1\n", "assert a == 1\n", full=True)])
        if found.passed is not True:
            raise RrkError(found.stderr or found.status)

    def __call__(self, items):
        from collections import deque

        from rrk.sandbox.judge.judge import Judge

        taken: deque = deque()
        known, generated = self._known, self._generated

        class Jobs:
            """The judge's view of the rows; remembers which are on their way."""

            ready = items.ready

            def __iter__(self):
                return self

            def __next__(self):
                row = next(items)
                taken.append(row)
                return (generated or known).job(row)

        with Judge(**self._settings) as judge:
            stream = judge.judge(Jobs()) if generated is None else judge.evidence(Jobs(), self._each_s)
            lacking = 0
            for verdict in stream:
                row = taken.popleft()
                if generated is None and not self._settings["outcomes"]:
                    fields = verdict.fields()
                    yield [{k: v for k, v in row.items() if k in fields or k not in EARLIER} | fields]
                else:
                    found = (generated or known).found(row, verdict)
                    lacking += "error" in found
                    yield [{**row, "evidence": found}]
            self.figures = {name: count for name, count in judge.figures.items() if count}
            if lacking:
                self.figures["without evidence"] = lacking
            self.notes = judge.notes


class _Extracted:
    """Another work, with the programs of chat answers in the place of the answers."""

    def __init__(self, work, known) -> None:
        from rrk.extract import Programs
        from rrk.interop import FOUND_OUT

        self._work = work
        self._programs = Programs(lambda row: known.problem(row).entry_point, FOUND_OUT)

    def check(self) -> None:
        self._work.check()

    @property
    def figures(self) -> dict:
        without = {"answers without a program": self._programs.without} if self._programs.without else {}
        return {**getattr(self._work, "figures", {}), **without}

    @property
    def notes(self):
        return getattr(self._work, "notes", ())

    def __call__(self, items):
        programs = self._programs

        class Rows:
            ready = items.ready

            def __iter__(self):
                return self

            def __next__(self):
                return programs(next(items))

        return self._work(Rows())
