"""Makes the slow compilers cheap: artefacts prepared once, and many programs compiled by one call.

    prepare(toolchain, box)                              # builds toolchain.cache_folder(), once a version of the tools
    verdicts = judge_batch(toolchain, jobs, new_box)     # jobs of one language; new_box() is a context manager with a fresh box

Both happen inside boxes, for a compiler that reads hostile text is not to be trusted either. Results leave a box as a tar
on stdout and are read as plain members only. A batch decides nothing alone: a program that the batch did not clearly
compile or clearly reject (the compiler crashed, ran out of time, or the program could reach into its neighbours) is judged
by itself, as without batches. Each program still runs in a box of its own.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rrk.errors import RrkError
from rrk.sandbox.jail.box import PROOF_FD, Box, Limits, Outcome, RunSpec
from rrk.sandbox.languages import recipes
from rrk.sandbox.languages.recipes import Plan, Unfit
from rrk.sandbox.languages.toolchain import Batch, Toolchain, all_there
from rrk.sandbox.verdict import Job, Verdict, verdict

NewBox = Callable[[], AbstractContextManager[Box]]


def prepare(toolchain: Toolchain, box: Box) -> Path | None:
    """Build what the language wants prepared, unless it is there. None if it wants nothing or lacks the means; a fresh box."""
    wanted, folder = toolchain.prepare, toolchain.cache_folder()
    if wanted is None or toolchain.missing() or not toolchain.usable(wanted):
        return None
    if toolchain.prepared():
        return folder
    values = toolchain.names_of_tools()
    for name, text in wanted.files.items():
        box.write(name, recipes.fill(text, {**values, "fd": str(PROOF_FD)}).encode())
    for step in wanted.steps:
        outcome = box.run(recipes.spec(step, values))
        if outcome.error or outcome.exit_code != 0:
            said = outcome.error or outcome.stderr.decode("utf-8", "replace")[-300:]
            raise RrkError(
                f"{toolchain.source.name}: preparing {toolchain.title} failed: {said}; programs are judged without it, slower"
            )
    outcome = box.run(
        RunSpec(["/bin/tar", "cf", "-", *wanted.keep], limits=Limits(60, 242, 2048, 1024, output_kb=1 << 20))
    )
    members = _members(outcome)
    if missing := [name for name in wanted.keep if not any(m == name or m.startswith(name + "/") for m in members)]:
        raise RrkError(f"{toolchain.source.name}: preparing {toolchain.title} left no {', '.join(missing)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Complete or absent: written beside, then renamed. Somebody else may have been faster; theirs is as good.
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fresh-"))
    try:
        for name, data in members.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        fresh.chmod(0o755)  # a box may run as another user
        try:
            os.rename(fresh, folder)
        except OSError:
            if not all_there(folder, wanted.keep):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def judge_batch(toolchain: Toolchain, jobs: Sequence[Job], new_box: NewBox) -> list[Verdict]:
    """The verdicts on jobs of one language, in order; compiled together where the language can."""
    verdicts: list[Verdict | None] = [None] * len(jobs)
    if toolchain.batch is not None and not toolchain.missing() and len(jobs) > 1:
        plans: dict[int, Plan] = {}
        for index, job in enumerate(jobs):
            try:
                plan = recipes.assemble(toolchain, job)
            except Unfit as error:
                verdicts[index] = verdict("SandboxError", stderr=str(error), reason="tests")
                continue
            text = plan.files[plan.values["file"]].decode("utf-8", "replace")
            if not (toolchain.batch.alone and toolchain.batch.alone.search(text)):
                plans[index] = plan
        indices = list(plans)
        for start in range(0, len(indices), toolchain.batch.most):
            chunk = indices[start : start + toolchain.batch.most]
            if len(chunk) > 1:
                _together(toolchain, toolchain.batch, {i: plans[i] for i in chunk}, jobs, new_box, verdicts)
    for index, job in enumerate(jobs):
        if verdicts[index] is None:
            with new_box() as box:
                verdicts[index] = recipes.judge(toolchain, job, box)
    return [v for v in verdicts if v is not None]


def _together(
    toolchain: Toolchain,
    batch: Batch,
    plans: dict[int, Plan],
    jobs: Sequence[Job],
    new_box: NewBox,
    verdicts: list[Verdict | None],
) -> None:
    """Compile these in one box; fill in the verdicts that the batch settles, and leave the others None."""
    values = toolchain.names_of_tools()
    with new_box() as box:
        for name, text in batch.files.items():
            box.write(name, recipes.fill(text, values).encode())
        for number, plan in plans.items():
            for name, data in plan.files.items():
                box.write(f"{number}/{name}", data)
        outcome = box.run(recipes.spec(batch.step, values))
    members = _members(outcome)
    log = members.pop("log", b"").decode("utf-8", "replace")
    errors = _errors(batch, log)
    common = {name: data for name, data in members.items() if not name.partition("/")[0].isdigit()}
    for number in errors.keys() & plans.keys():
        share = 1 / len(plans)
        cost = Outcome(exit_code=1, stderr=errors[number].encode(), cpu=outcome.cpu * share, wall=outcome.wall * share)
        verdicts[number] = recipes.rejected(plans[number], cost, "compile")
    rest = {number: plan for number, plan in plans.items() if number not in errors}
    if len(rest) < len(plans) and batch.again and batch.again.search(log):
        if len(rest) > 1:
            _together(toolchain, batch, rest, jobs, new_box, verdicts)
        return
    for number, plan in rest.items():
        prefix = f"{number}/"
        made = {name[len(prefix) :]: data for name, data in members.items() if name.startswith(prefix)}
        if not made or outcome.exit_code != 0:
            continue
        with new_box() as box:
            for name, data in {**plan.files, **common, **made}.items():
                box.write(name, data)
            verdicts[number] = recipes.executed(plan, jobs[number], box)


def _errors(batch: Batch, log: str) -> dict[int, str]:
    """The log's messages by program; lines that begin no error belong to the one before."""
    found: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in log.splitlines():
        if match := batch.error.match(line):
            current = found.setdefault(int(match[1]), [])
            line = line.removeprefix(match[1] + "/")
        if current is not None:
            current.append(line)
    return {number: "\n".join(lines) for number, lines in found.items()}


def _members(outcome: Outcome) -> dict[str, bytes]:
    """The regular files of the tar on stdout; nothing at all if it is not a whole tar."""
    if outcome.error or outcome.output_limit or outcome.timed_out:
        return {}
    members = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(outcome.stdout), mode="r:") as archive:
            for member in archive:
                name = os.path.normpath(member.name)
                if member.isreg() and not name.startswith(("..", "/")):
                    stream = archive.extractfile(member)
                    members[name] = stream.read() if stream else b""
    except (tarfile.TarError, ValueError, OSError):
        return {}
    return members
