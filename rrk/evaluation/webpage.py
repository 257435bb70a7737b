"""A report as one HTML page: figures, curve, and the programs that matter. No script, nothing fetched, everything escaped.

Filters are radio buttons that the style sheet looks at (:has), for a page that shows hostile programs runs no script at all.

    note = write("report.html", report, samples, title="scored.jsonl")      # samples gathered with keep=True

What the ranking fell for comes first: problems where a wrong program is scored best although a passing one was there, by
how far the wrong one is ahead. Then problems that no candidate solved, with their best-scored program.
"""

from __future__ import annotations

import difflib
import math
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
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
h1 { overflow-wrap: anywhere; font-size: 1.6rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: #8881; padding: .6rem .8rem; overflow-x: auto; font-size: 13px; border-left: 3px solid var(--line); }
pre.good { border-color: var(--good); } pre.bad { border-color: var(--bad); }
details { border-top: 1px solid var(--line); padding: .3rem 0; } summary { cursor: pointer; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1rem; }
.pair > div { min-width: 0; } figure { margin: 1rem 0; background: #fff; border-radius: 4px; } figure svg { max-width: 100%; height: auto; }
@media (max-width: 62rem) { th, td { white-space: normal; padding: .25rem .35rem; } }
@media (max-width: 48rem) { body { font-size: 13px; padding: 0 .6rem; } .pair { grid-template-columns: minmax(0, 1fr); } }
.filter { display: flex; flex-wrap: wrap; gap: .2rem .9rem; margin: .3rem 0; border: 0; padding: 0; } .filter label { cursor: pointer; }
.plus { color: var(--good); } .minus { color: var(--bad); } a.link { text-decoration: none; opacity: .6; }
figure.bars { display: inline-block; padding: .5rem; } figcaption { color: #222; font-size: 12px; }
.k, .kn, .kc, .ow { color: #07a; } .s, .s1, .s2, .sd { color: #583; } .c, .c1, .cm { opacity: .6; font-style: italic; }
.mi, .mf { color: #a50; } .nf, .nc { font-weight: 600; }
@media (prefers-color-scheme: dark) { .k, .kn, .kc, .ow { color: #6cf; } .s, .s1, .s2, .sd { color: #9c6; } .mi, .mf { color: #fa6; } }
.ends { white-space: nowrap; }
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
    body = [f"<h1>{_heading(report)}</h1><p><small>{text(title)}</small></p>"]
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
    problems = samples.samples()
    if bars := _histogram(problems):
        body.append(bars)
    marks, style, controls = _filters(problems)
    body += controls
    body += _fooled(problems, marks)
    body += _unsolved(problems, marks)
    body += _every(report)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Even if something slipped through: no script runs, nothing is fetched.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>rrk eval: {text(title)}</title><style>{_STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _heading(report: Mapping[str, Any]) -> str:
    """`Ranked pass@1 .476 [.402, .555]`: what one came for."""
    metric = "ranked_pass@1" if report.get("ranked_pass@1") else "random"
    name = "Ranked pass@1" if metric == "ranked_pass@1" else "pass@1"
    return text(f"{name} {tables.figure(report.get(metric))}" if report["problems"] else "Nothing to evaluate")


def _histogram(problems: Sequence[Judged], bins: int = 30) -> str:
    """How the scores of passing and of failing candidates lie; '' without scores."""
    scored = [(s, bool(v)) for p in problems for s, v in zip(p.scores, p.passed, strict=False) if math.isfinite(s)]
    if not scored:
        return ""
    low, high = min(s for s, _ in scored), max(s for s, _ in scored)
    counts = {True: [0] * bins, False: [0] * bins}
    for score, verdict in scored:
        counts[verdict][min(bins - 1, int((score - low) / ((high - low) or 1.0) * bins))] += 1
    most = {verdict: max(max(own), 1) for verdict, own in counts.items()}
    drawn = []
    for verdict, colour, top in ((True, "#009e73", True), (False, "#d55e00", False)):
        for place, count in enumerate(counts[verdict]):
            height = 70 * count / most[verdict]
            y = 75 - height if top else 76
            drawn.append(f'<rect x="{place * 14}" y="{y:.1f}" width="13" height="{height:.1f}" fill="{colour}"/>')
    said = (
        f"Scores from {low:.4g} to {high:.4g}: above those of {sum(counts[True])} passing candidates, below those of "
        f"{sum(counts[False])} failing ones, each drawn to its own height"
    )
    picture = f'<svg viewBox="0 0 {14 * bins} 150" width="420" height="150">{"".join(drawn)}</svg>'
    return f'<figure class="bars">{picture}<figcaption>{text(said)}</figcaption></figure>'


def _filters(problems: Sequence[Judged]) -> tuple[dict[int, str], str, list[str]]:
    """(class names of each problem by id(), a style sheet, the controls): by language and by the wrong program's status."""
    marks: dict[int, list[str]] = {id(p): [] for p in problems}
    style, controls = [], []
    for letter, name, of in (
        ("l", "language", lambda p: p.language),
        ("s", "status of the wrong program", lambda p: str((p.best.get(False) or {}).get("status") or "")),
    ):
        values = {
            value: f"f{letter}{i}" for i, value in enumerate(sorted({of(p) for p in problems if False in p.best}))
        }
        for p in problems:
            marks[id(p)].append(values.get(of(p), ""))
        if len(values) < 2:
            continue
        buttons = [f'<label><input type="radio" name="{letter}" checked> all</label>']
        for value, mark in values.items():
            buttons.append(f'<label><input type="radio" name="{letter}" id="{mark}"> {text(value or "(none)")}</label>')
            style.append(f"body:has(#{mark}:checked) .problem:not(.{mark}) {{ display: none; }}\n")
        controls.append(f'<fieldset class="filter"><small>{name}:</small>{"".join(buttons)}</fieldset>')
    return {key: " ".join(["problem", *own]) for key, own in marks.items()}, "".join(style), controls


def _anchor(p: Judged) -> str:
    name = "p-" + re.sub(r"[^A-Za-z0-9]+", "-", f"{p.language}-{p.task_id}")
    return f'<div id="{name}"><a class="link" href="#{name}">link to this problem</a></div>'


def _difference(wrong: Mapping[str, Any], passing: Sequence[Mapping[str, Any]]) -> str:
    """A diff from the wrong program to the passing one that is nearest to it."""
    lines = _program_text(wrong).splitlines()
    others = [_program_text(row).splitlines() for row in passing]
    if not others:
        return ""
    nearest = max(others, key=lambda own: difflib.SequenceMatcher(None, lines, own, autojunk=False).ratio())
    told = []
    for line in [*difflib.unified_diff(lines, nearest, "wrong", "nearest that passes", lineterm="", n=3)][:200]:
        kind = {"+": "plus", "-": "minus"}.get(line[:1])
        told.append(f'<span class="{kind}">{text(line)}</span>' if kind else text(line))
    return f"<b>from it to the nearest program that passes</b><pre>{chr(10).join(told)}</pre>" if told else ""


def _program_text(row: Mapping[str, Any]) -> str:
    return _cut(str(row.get("completion", row.get("solution", ""))))


def _coloured(program: str, language: str) -> str:
    """Escaped, with spans for colours where Pygments (rich brings it) knows the language."""
    spelt = _spelt(program)
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import get_lexer_by_name

        lexer = get_lexer_by_name(
            {"sh": "bash", "cs": "csharp", "rs": "rust"}.get(language, language), stripnl=False, ensurenl=False
        )
        return str(highlight(spelt, lexer, HtmlFormatter(nowrap=True)))
    except Exception:  # no Pygments, no such language, or a program that its lexer stumbles over
        return escape(spelt, quote=True)


def text(value: Any) -> str:
    """Escaped for HTML, control characters spelt out."""
    return escape(_spelt(value), quote=True)


def _spelt(value: Any) -> str:
    return _UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", str(value).replace("\r\n", "\n"))


def table(shown: tables.Table) -> str:
    title, header, lines = shown
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    caption = f"<caption>{text(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cell(cell: str) -> str:
    """An interval stays in one piece where a narrow page breaks the line."""
    return re.sub(r"(\[[^\]]*\])", r'<span class="ends">\1</span>', text(cell))


def _fooled(problems: Sequence[Judged], marks: Mapping[int, str]) -> list[str]:
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
            f'<details class="{marks[id(p)]}">'
            + f"<summary>{text(p.task_id)} <small>{text(p.language)}, {sum(p.passed)} of {len(p.passed)} pass,"
            f" ahead by {gap:.3g}</small></summary>{_prompt(p.best[False])}"
            f'<div class="pair">{_program(p.best[False], "bad", p.language)}{_program(p.best[True], "good", p.language)}</div>'
            f"{_difference(p.best[False], p.passing)}{_anchor(p)}</details>"
        )
    return out


def _unsolved(problems: Sequence[Judged], marks: Mapping[int, str]) -> list[str]:
    none = [p for p in problems if p.passed and not any(p.passed)]
    if not none:
        return []
    out = [f"<h2>Unsolved</h2><p>No candidate passes in {len(none)} problems. The best-scored program of each:</p>"]
    if not none[0].scores:
        out = [f"<h2>Unsolved</h2><p>No candidate passes in {len(none)} problems. The first program of each:</p>"]
    for p in none[:FOOLED]:
        row = p.best[False]
        out.append(
            f'<details class="{marks[id(p)]}">'
            + f"<summary>{text(p.task_id)} <small>{text(p.language)}, {len(p.passed)} candidates,"
            f" {text(row.get('status', ''))}</small></summary>{_prompt(row)}{_program(row, 'bad', p.language)}{_anchor(p)}</details>"
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


def _program(row: Mapping[str, Any], kind: str, language: str) -> str:
    head = "passes" if kind == "good" else f"wrong: {row.get('status') or 'failed'}"
    score = row.get("score")
    said = f" <small>score {score:.4g}</small>" if isinstance(score, (int, float)) else ""
    errors = str(row.get("stderr") or "").strip() if kind == "bad" else ""
    tail = f"<pre>{text(errors[-1000:])}</pre>" if errors else ""
    return (
        f'<div><b>{text(head)}</b>{said}<pre class="{kind}">{_coloured(_program_text(row), language)}</pre>{tail}</div>'
    )


def _cut(program: str) -> str:
    if len(program) <= _CODE_LIMIT:
        return program
    return f"{program[:_CODE_LIMIT]}\n... {len(program) - _CODE_LIMIT} characters more"
