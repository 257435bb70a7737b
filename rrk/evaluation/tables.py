"""A report in tables of text: (title, header, rows), for a terminal, a pipe or HTML alike.

for title, header, lines in tables.report(built): ...
tables.remarks(built)             # what a reader should not miss, in words
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rrk.evaluation import contamination
from rrk.evaluation import cost as costing

Table = tuple[str, list[str], list[list[str]]]


def number(value: float | None, digits: int = 3) -> str:
    """`.221`, `1.000`, `-.042`; `-` for what is not known."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def figure(found: Mapping[str, Any] | None) -> str:
    """`.221 [.176, .267]`."""
    if found is None or found.get("mean") is None:
        return "-"
    mean = number(found["mean"])
    return mean if found.get("low") is None else f"{mean} [{number(found['low'])}, {number(found['high'])}]"


def p_value(p: float | None) -> str:
    return "-" if p is None else "<.001" if p < 0.001 else number(p)


UNTIL = "programs were drawn until one passed its examples"  # sample --until-examples


def with_bca(found: Any) -> Any:
    """The same report with BCa intervals where percentiles stood."""
    if isinstance(found, dict):
        out = {name: with_bca(value) for name, value in found.items()}
        if "bca" in out:
            out["low"], out["high"] = out["bca"]
        if "bootstrap" in out:
            out["bootstrap"] = {**out["bootstrap"], "interval": "BCa"}
        return out
    return type(found)(with_bca(value) for value in found) if isinstance(found, (list, tuple)) else found


def bootstrap(found: Mapping[str, Any]) -> str:
    """`95 % interval: percentile bootstrap over base problems, 10000 resamples, seed 0`."""
    how = found.get("bootstrap")
    if not how:
        return "95 % interval over base problems"
    return f"95 % interval: {how['interval']} bootstrap over base problems, {how['resamples']} resamples, seed {how['seed']}"


def sizes(section: Mapping[str, Any]) -> str:
    """`20`, or `16-33` where problems differ."""
    low, high = section["n"]
    return str(low) if low == high else f"{low}-{high}"


def systems(sections: Mapping[str, Mapping[str, Any]], first: str) -> Table:
    """A row a system, language or group."""
    scored = any("ranked_pass@1" in s for s in sections.values())
    greedy = any("greedy" in s for s in sections.values())
    header = [first, "problems", "n", "pass@1", *(["greedy"] if greedy else [])]
    header += ["ranked pass@1", "oracle", "gap closed", "AUC"] if scored else ["oracle"]
    lines = []
    for name, s in sections.items():
        row = [name, str(s["problems"]), sizes(s), figure(s["random"]), *([figure(s.get("greedy"))] if greedy else [])]
        if scored:
            row += [figure(s.get(key)) for key in ("ranked_pass@1", "oracle", "gap_closed", "auc")]
        else:
            row += [figure(s["oracle"])]
        lines.append(row)
    return "", header, lines


def by_k(report: Mapping[str, Any]) -> Table:
    """pass@k and best-of-k by k."""
    curve = {point["k"]: point for point in report.get("best_of_k", [])}
    ks = [int(k) for k in report["pass@k"]]
    header = ["k", "pass@k", *(["best of k"] if curve else [])]
    lines = []
    for k in ks:
        lines.append([str(k), figure(report["pass@k"].get(str(k))), *([figure(curve.get(k))] if curve else [])])
    return "", header, lines


def card(report: Mapping[str, Any]) -> list[Table]:
    """The score's report card: ordering, calibration, risk and coverage."""
    found = report.get("card") or {}
    if not found:
        return []
    c = found.get("calibration", {})
    pairs = [
        ("Kendall's tau of score and verdict, within a problem", number(found.get("kendall"))),
        ("rank correlation of score and length", number(found.get("length_score"))),
        ("rank correlation of verdict and length", number(found.get("length_passed"))),
    ]
    if c:
        pairs += [
            ("calibration error (ECE), of a cross-fitted probability", number(c["ece"])),
            ("Brier score (always saying the mean: " + number(c["brier_constant"]) + ")", number(c["brier"])),
        ]
    tables: list[Table] = [("", ["the score", ""], [list(pair) for pair in pairs])]
    lines = [
        [f"{row['coverage']:.0%}", str(row["problems"]), number(row["accuracy"]), f"{row['threshold']:.3g}"]
        for row in found.get("risk_coverage", [])
    ]
    if lines:
        tables.append(("", ["answering the surest", "problems", "correct", "best score at least"], lines))
    return tables


def statuses(report: Mapping[str, Any]) -> Table:
    total = sum(report["statuses"].values())
    lines = [[name, str(count), f"{count / total:.1%}"] for name, count in report["statuses"].items()]
    return "", ["status", "samples", "share"], lines


def cost(report: Mapping[str, Any]) -> str:
    """`cost: 812 CPU seconds executed (.050 a sample), 1200000 tokens sampled (60 a sample)`; empty if not known."""
    c, parts = report["cost"], []
    if "cpu_seconds" in c:
        each = c["cpu_seconds"] / c["cpu_seconds_rows"]
        parts.append(f"{c['cpu_seconds']:.1f} CPU seconds executed ({number(each)} a sample)")
    if "tokens" in c:
        parts.append(f"{c['tokens']} tokens sampled ({c['tokens'] / c['tokens_rows']:.0f} a sample)")
    if flops := c.get("answer", {}).get("flops"):
        about = "about " if c["estimated"] else ""
        parts.append(f"{about}{amounts(flops)} FLOPs an answer ({c['answer_is']})")
    return f"cost: {', '.join(parts)}" if parts else ""


def suspect(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A row a problem whose passing programs disagree (suspect.py)."""
    header = ["problem", "passing programs", "fresh inputs", "they differ on", "outvoted", "for one"]
    shown = [
        [
            line["task_id"],
            *(str(line[name]) for name in ("programs", "inputs", "differ")),
            number(line["outvoted"]),
            line["example"] if len(line["example"]) <= 60 else line["example"][:57] + "...",
        ]
        for line in lines
        if line["differ"]
    ]
    return "", header, shown


def overlap(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A row a problem (overlap.py)."""
    header = [
        "problem",
        "language",
        "prompt's n-grams",
        "shared",
        "solution's n-grams",
        "shared",
        "rows",
        "the first",
        "for one",
    ]
    shown = [
        [
            line["task_id"],
            line["language"],
            *(
                str(line["prompt_ngrams"]),
                number(line["prompt"]),
                str(line["solution_ngrams"]),
                number(line["solution"]),
            ),
            *(str(line["rows"]), line["first"] or "-", line["example"] or "-"),
        ]
        for line in lines
    ]
    return "", header, shown


def amount(value: float | None, digits: int = 3) -> str:
    """`1.23T`, `456M`, `12.3`: a large or small number at its size."""
    if value is None:
        return "-"
    size = next(
        (
            (s, name)
            for s, name in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
            if abs(value) >= s
        ),
        (1.0, ""),
    )
    return f"{value / size[0]:.{digits}g}{size[1]}"


def amounts(found: Mapping[str, Any] | None) -> str:
    """`1.23T [1.2T, 1.26T]`."""
    if found is None:
        return "-"
    mean = amount(found["mean"])
    return mean if found.get("low") is None else f"{mean} [{amount(found['low'])}, {amount(found['high'])}]"


def quality_and_cost(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """What a system's answers are worth and what they cost: a row for the best of its n, and of fewer where it has scores."""
    axes = [name for name in costing.AXES if any(name in found["cost"].get("answer", {}) for _, found in entries)]
    trained = any(found["cost"].get("training", {}).get("flops") for _, found in entries)
    header = ["system", "problems", "n", "an answer is", "passes", *(costing.AXES[name] for name in axes)]
    lines = []
    for name, found in entries:
        shown = name + (" ~" if found["cost"].get("estimated") else "")
        begin = [shown, str(found["problems"]), sizes(found)]
        for k, worth, spent in costing.fewer(found):
            kind = f"best of {k}" if k > 1 else "one sample"
            lines.append([*begin, kind, figure(worth), *(amounts(spent.get(axis)) for axis in axes)])
            lines[-1] += [""] if trained else []
        lines.append(
            [
                *begin,
                found["cost"].get("answer_is", "-"),
                figure(found.get(costing.quality(found))),
                *(amounts(found["cost"].get("answer", {}).get(axis)) for axis in axes),
                *([amount(found["cost"].get("training", {}).get("flops"))] if trained else []),
            ]
        )
    return "", header + (["FLOPs of training"] if trained else []), lines


def quality_against_cost(ours: str, theirs: str, found: Mapping[str, Any]) -> str:
    """`13B beats 33B: .520 against .470 (difference .050 [.010, .090], p .012), at .33 [.30, .36] times its FLOPs an answer`."""
    paired, spent = found["quality"], found["cost"]
    ours, theirs = (
        f"{name}'s best of {k}" if k and k > 1 else f"{name}'s one sample" if k else name
        for name, k in zip((ours, theirs), found.get("best_of", (None, None)), strict=True)
    )
    p = None if paired["p"] is None else max(paired["p"], paired["p_sign_flip"])
    verb = "is level with" if p is None or p >= 0.05 else "beats" if paired["difference"] > 0 else "is worse than"
    difference = figure({**paired, "mean": paired["difference"]})
    said = f"{ours} {verb} {theirs}: {number(paired['ours'])} against {number(paired['theirs'])} of answers pass"
    said += f" (difference {difference}, p {p_value(p)}, {paired['pairs']} problems)"
    ratio = amounts({**spent, "mean": spent["ratio"]})
    return said if spent["ratio"] is None else f"{said}, at {ratio} times its {costing.AXES[spent['by']]}"


def report(found: Mapping[str, Any]) -> list[Table]:
    """All tables of one report."""
    sections = {}
    if found["languages"]:
        sections["mean over languages"] = found
        sections |= found["languages"]
    else:
        sections[found.get("language") or "all"] = found
    return [systems(sections, "language"), by_k(found), *card(found), statuses(found)]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What the figures do not show by themselves."""
    said = []
    if falls := found.get("falls"):
        said.append(falling(falls))
    said += contamination.remarks(found.get("seen", {}))
    if (gap := found.get("gap_closed")) and gap["high"] is not None and gap["high"] < 0:
        said.append("the ranking is worse than a random pick")
    least, most = found["n"]
    if least < most:
        said.append(f"problems have {least} to {most} judged candidates; figures for k over {least} are left out")
    if found.get("until"):
        said.append(
            f"{UNTIL}: pass@1, pass@k and the oracle are not those of n samples; ranked pass@1 is what a user gets"
        )
    if found["unjudged"]:
        tail = f" ({found['unjudged_problems']} problems have nothing else)" if found["unjudged_problems"] else ""
        said.append(f"{found['unjudged']} samples could not be judged and are in no figure{tail}")
    if found["repeated"]:
        said.append(
            f"{found['repeated']} rows are there twice (same task, id, model and program): is a file given twice?"
        )
    return said


def falling(falls: Mapping[str, Any]) -> str:
    """`best-of-k peaks at k=4 (.712) and falls to .514 at k=16: ...`."""
    sentence = f"best-of-k peaks at k={falls['k']} ({number(falls['peak'])}) and falls to {number(falls['end'])}"
    drop = f"drop {figure(falls['drop'])}"
    sentence += f" at k={falls['n']}; {drop}: "
    if not falls["clear"]:
        return sentence + "within noise"
    if falls["k"] == 1:
        return sentence + "at its top, the score prefers wrong programs"
    return sentence + "the more it may choose from, the worse it chooses (over-optimised score)"


def comparison(found: Mapping[str, Any], ours: str = "this", theirs: str = "against") -> Table:
    """A row a metric of two systems compared in pairs."""
    lines = [
        [
            metric.replace("_", " ").replace("auc", "AUC"),
            number(c["theirs"]),
            number(c["ours"]),
            figure({"mean": c["difference"], "low": c["low"], "high": c["high"]}),
            p_value(c["p"]),
            p_value(c["p_sign_flip"]),
            str(c["pairs"]),
        ]
        for metric, c in found.items()
        if isinstance(c, dict)
    ]
    return "", ["paired", theirs, ours, "difference", "p", "p (sign flip)", "problems"], lines


def ledger(entries: Sequence[tuple[str, Mapping[str, Any]]], steps: Sequence[Mapping[str, Any] | None]) -> Table:
    """A row a round. `steps[i]` compares round i with the one before it (None for the first)."""
    header = ["round", "problems", "n", "pass@1", "ranked pass@1", "oracle", "gap closed", "AUC", "best k"]
    header += ["change of ranked", "p"]
    lines = []
    for (name, found), step in zip(entries, steps, strict=True):
        change = (step or {}).get("ranked_pass@1")
        curve = found.get("best_of_k") or []
        best = max(curve, key=lambda point: (point["mean"], -point["k"]))["k"] if curve else None
        lines.append(
            [
                name,
                str(found["problems"]),
                sizes(found),
                *(figure(found.get(key)) for key in ("random", "ranked_pass@1", "oracle", "gap_closed", "auc")),
                "-" if best is None else f"{best}{' of ' + str(found['n'][0]) if best < found['n'][0] else ''}",
                number(change["difference"]) if change else "-",
                p_value(change["p"]) if change else "-",
            ]
        )
    return "", header, lines
