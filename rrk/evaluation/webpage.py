"""A report as one HTML page: figures, curve, and the programs that matter. No script, nothing fetched, everything escaped.

    note = write("report.html", report, samples, title="scored.jsonl")      # samples gathered with keep=True

What the ranking fell for comes first: problems where a wrong program is scored best although a passing one was there, by
how far the wrong one is ahead. Then problems that no candidate solved, with their best-scored program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rrk import outputs, rows
from rrk.errors import RrkError
from rrk.evaluation import plots, tables
from rrk.evaluation.report import Judged, Samples

FOOLED = 20  # problems shown in full
_CODE_LIMIT = 8_000  # characters of a program or an output shown
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #009e73; --bad: #d55e00; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: #8881; padding: .6rem .8rem; overflow-x: auto; font-size: 13px; border-left: 3px solid var(--line); }
pre.good { border-color: var(--good); } pre.bad { border-color: var(--bad); }
details { border-top: 1px solid var(--line); padding: .3rem 0; } summary { cursor: pointer; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
.pair > div { min-width: 0; } figure { margin: 1rem 0; background: #fff; border-radius: 4px; } figure svg { max-width: 100%; height: auto; }
.note { border-left: 3px solid var(--bad); padding-left: .8rem; } small { opacity: .75; }
"""


def write(path: str, report: Mapping[str, Any], samples: Samples, title: str) -> str:
    """Write the page; returns a remark where something had to be left out, else ''."""
    note, picture = "", ""
    if report["problems"]:
        try:
            picture = plots.svg([("", report)])
        except RrkError as error:
            note = f"{path} has no curve: {error}"
    text = page(report, samples, title, picture)
    with outputs.whole(path, "--html") as sink:
        sink.write(text.encode())
    return note


def page(report: Mapping[str, Any], samples: Samples, title: str, picture: str = "") -> str:
    """The page's text. `picture` is SVG of our own and goes in as it is; all else is escaped."""
    body = [f"<h1>{text(title)}</h1>"]
    body.append(
        f"<p>{report['problems']} problems, {report['samples']} judged samples. "
        "Brackets are 95&nbsp;% intervals over base problems.</p>"
    )
    body += [f'<p class="note">{text(said)}</p>' for said in tables.remarks(report)]
    if report["problems"]:
        first, *rest = tables.report(report)
        body.append(table(first))
        if picture:
            body.append(f"<figure>{picture}</figure>")
        body += [table(t) for t in rest]
    if cost := tables.cost(report):
        body.append(f"<p>{text(cost)}</p>")
    if comparison := report.get("against"):
        body.append(table(tables.comparison(comparison, "this", comparison["file"])))
    body += _fooled(samples.samples())
    body += _unsolved(samples.samples())
    body += _every(report)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Even if something slipped through: no script runs, nothing is fetched.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>rrk eval: {text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Escaped for HTML, control characters spelt out."""
    spelt = _UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", str(value).replace("\r\n", "\n"))
    return escape(spelt, quote=True)


def table(shown: tables.Table) -> str:
    title, header, lines = shown
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    caption = f"<caption>{text(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _fooled(problems: Sequence[Judged]) -> list[str]:
    """Problems where a wrong program is ahead of every passing one."""
    found = []
    for p in problems:
        if p.scores and {True, False} <= p.best.keys():
            gap = float(p.best[False]["score"]) - float(p.best[True]["score"])
            if gap >= 0:
                found.append((gap, p))
    found.sort(key=lambda pair: -pair[0])
    if not found:
        return []
    out = [
        "<h2>What the ranking fell for</h2>",
        f"<p>{len(found)} problems have a passing candidate, but a wrong one is scored at least as high."
        f" The {min(FOOLED, len(found))} where it is furthest ahead:</p>",
    ]
    for gap, p in found[:FOOLED]:
        out.append(
            f"<details><summary>{text(p.task_id)} <small>{text(p.language)}, {sum(p.passed)} of {len(p.passed)} pass,"
            f" ahead by {gap:.3g}</small></summary>{_prompt(p.best[False])}"
            f'<div class="pair">{_program(p.best[False], "bad")}{_program(p.best[True], "good")}</div></details>'
        )
    return out


def _unsolved(problems: Sequence[Judged]) -> list[str]:
    none = [p for p in problems if p.passed and not any(p.passed)]
    if not none:
        return []
    out = [f"<h2>Unsolved</h2><p>No candidate passes in {len(none)} problems. The best-scored program of each:</p>"]
    if not none[0].scores:
        out = [f"<h2>Unsolved</h2><p>No candidate passes in {len(none)} problems. The first program of each:</p>"]
    for p in none[:FOOLED]:
        row = p.best[False]
        out.append(
            f"<details><summary>{text(p.task_id)} <small>{text(p.language)}, {len(p.passed)} candidates,"
            f" {text(row.get('status', ''))}</small></summary>{_prompt(row)}{_program(row, 'bad')}</details>"
        )
    if len(none) > FOOLED:
        out.append(
            f"<p><small>and {len(none) - FOOLED} more: {text(', '.join(p.task_id for p in none[FOOLED:]))}</small></p>"
        )
    return out


def _every(report: Mapping[str, Any]) -> list[str]:
    """All problems, the worst first."""
    tasks = sorted(report["tasks"], key=lambda t: (t["passed"] / t["n"], t["task_id"]))
    scored = any("ranked_pass@1" in t for t in tasks)
    header = ["problem", "language", "candidates", "pass rate", *(["best-scored passes", "AUC"] if scored else [])]
    lines = [
        [t["task_id"], t["language"], str(t["n"]), tables.number(t["passed"] / t["n"])]
        + ([tables.number(t.get("ranked_pass@1")), tables.number(t.get("auc"))] if scored else [])
        for t in tasks
    ]
    return [f"<h2>Every problem</h2><details><summary>{len(tasks)} problems, the hardest first</summary>"
            + table(("", header, lines)) + "</details>"]  # fmt: skip


def _prompt(row: Mapping[str, Any]) -> str:
    prompt = row.get("prompt")
    return f"<pre>{text(_cut(prompt))}</pre>" if isinstance(prompt, str) and not rows.is_full(dict(row)) else ""


def _program(row: Mapping[str, Any], kind: str) -> str:
    program = row.get("completion", row.get("solution", ""))
    head = "passes" if kind == "good" else f"wrong: {row.get('status') or 'failed'}"
    score = row.get("score")
    said = f" <small>score {score:.4g}</small>" if isinstance(score, (int, float)) else ""
    errors = str(row.get("stderr") or "").strip() if kind == "bad" else ""
    tail = f"<pre>{text(errors[-1000:])}</pre>" if errors else ""
    return f'<div><b>{text(head)}</b>{said}<pre class="{kind}">{text(_cut(str(program)))}</pre>{tail}</div>'


def _cut(program: str) -> str:
    if len(program) <= _CODE_LIMIT:
        return program
    return f"{program[:_CODE_LIMIT]}\n... {len(program) - _CODE_LIMIT} characters more"
