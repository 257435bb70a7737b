"""CodeT's table on CodeT's own candidates (CodeGen-16B, HumanEval, 100 a problem) with the tests the same model wrote.

python -m tests.benchmarks.codet_table SHARED/data [--evidence evidence.jsonl] [-j 2] [--limit PROBLEMS] [--uncut]

The candidates are cut where something outside of the function begins (`rrk convert --stop`), judged, and given evidence
(`rrk execute --evidence`; what is there already is kept). Then every method on the same rows: pass rate of the best-ranked
candidate (the expectation over ties), with a bootstrap interval over problems, and `fused`, cross-fitted over 5
problem-disjoint folds and 3 fold seeds, against `codet`, paired; beside them the three methods by execution with
`--ties ngram`, which learns nothing. The verdicts are the labels; no method but the oracle sees
them. --uncut: the candidates as published, with what the model wrote behind the function. The paper: codet .367.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from rrk import jsonl, rows
from rrk.evaluation.estimators import ranked_pass_at_1
from rrk.evaluation.statistics import bootstrap, compare
from rrk.reranking import evidence, fusion
from rrk.reranking.ranking import places
from tests.conftest import environment, rrk_command

SEEDS = (0, 1, 2)


# CodeT's own, which these candidates have been cut by, and what else begins a statement outside of the function.
STOPS = ("\\nclass", "\\ndef", "\\n#", "\\nif", "\\nprint")
STOPS += ("\\nassert", "\\nimport", "\\nfrom", '\\n"""', "\\n'''", "\\n@")


def gather(data: Path, out: Path, jobs: int, limit: int | None, uncut: bool) -> None:
    published = candidates = data / "candidates" / "codet_humaneval_codegen16b.jsonl.gz"
    tests = data / "candidates" / "codet_humaneval_codegen16b_generated_tests.jsonl.gz"
    execute = ("execute", "-p", data / "problems" / "humaneval.jsonl.gz", "-j", jobs, "--resume")
    if limit:
        execute += ("--limit", 100 * limit)
    if not uncut:
        cut, candidates = out.with_suffix(".cut.jsonl"), out.with_suffix(".judged.jsonl")
        rrk("convert", *[part for stop in STOPS for part in ("--stop", stop)], published, "-o", cut)
        rrk(*execute, cut, "-o", candidates)
    rrk(*execute, "--evidence", tests, candidates, "-o", out)


def rrk(*command: object) -> None:
    done = subprocess.run(rrk_command(*map(str, command)), env=environment(), check=False)
    if done.returncode not in (0, 4):  # 4: no evidence for some rows, which then agree with nobody
        raise SystemExit(done.returncode)


def load(path: Path) -> list[list[dict]]:
    """Candidates by problem. Where no evidence could be gathered, no test counts as passed."""
    problems: dict[str, list[dict]] = {}
    for row in jsonl.read([str(path)]):
        problems.setdefault(rows.task_id(row), []).append(row)
    for own in problems.values():
        width = max((len((row.get("evidence") or {}).get("passed") or "") for row in own), default=0)
        for row in own:
            if len((row.get("evidence") or {}).get("passed") or "") != width:
                row["evidence"] = {"passed": "0" * width, "outputs": []}
    return list(problems.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--evidence", type=Path, default=Path("codet_evidence.jsonl"))
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--uncut", action="store_true")
    given = parser.parse_args()
    if not given.evidence.exists():
        gather(given.data, given.evidence, given.jobs, given.limit, given.uncut)
    problems = load(given.evidence)
    passed = [[bool(row["passed"]) for row in own] for own in problems]

    def top(score) -> list[float]:
        return [ranked_pass_at_1(score(own), labels) for own, labels in zip(problems, passed, strict=True)]

    def with_ngram(score):
        return lambda own: places(score(own), evidence.ngram(own))

    found = {
        "random": [sum(labels) / len(labels) for labels in passed],
        "most tests passed": top(lambda own: evidence.passed_matrix(own).sum(axis=1).tolist()),
        **{name: top(score) for name, score in evidence.SCORERS.items()},
        **{f"{name} --ties ngram": top(with_ngram(evidence.SCORERS[name])) for name in ("mbr-exec", "codet", "b4")},
        "oracle": [float(any(labels)) for labels in passed],
    }
    models = [fusion.fit(problems, folds=5, seed=seed) for seed in SEEDS]
    runs = [top(model.score) for model in models]
    found["fused"] = [sum(values) / len(values) for values in zip(*runs, strict=True)]
    print(f"{len(problems)} problems, {sum(map(len, problems))} candidates; best-ranked candidate passes:")
    for name, values in found.items():
        interval = bootstrap(values)
        print(f"  {name:21} {interval['mean']:.3f}  [{interval['low']:.3f}, {interval['high']:.3f}]")
    print("  fused by fold seed", ", ".join(f"{sum(values) / len(values):.3f}" for values in runs))
    for better, worse in (
        ("ngram", "random"), ("ngram", "codet"), ("codet --ties ngram", "codet"), ("b4 --ties ngram", "codet"),
        ("b4 --ties ngram", "b4"), ("fused", "codet"), ("fused", "b4"), ("fused", "random"),
    ):  # fmt: skip
        paired = compare(found[worse], found[better])
        print(
            f"  {better} - {worse}: {paired['difference']:+.3f} [{paired['low']:+.3f}, {paired['high']:+.3f}], p {paired['p']:.4f}"
        )


if __name__ == "__main__":
    main()
