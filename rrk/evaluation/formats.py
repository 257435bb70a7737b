"""A table for a paper or a chat: markdown, LaTeX, CSV.

written(("", ["system", "pass@1"], [["a", ".221 [.176, .267]"]]), "latex")
"""

from __future__ import annotations

import csv
import io
import re

from rrk.evaluation.tables import Table

FORMATS = ("table", "markdown", "latex", "csv")
_CELL = re.compile(r"(-?[\d.]+[A-Za-z]?) \[(-?[\d.]+[A-Za-z]?), (-?[\d.]+[A-Za-z]?)\]")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
_LATEX |= {"<": "$<$", ">": "$>$"}


def written(shown: Table, how: str) -> str:
    """The table as markdown, LaTeX (`tabular`, nothing to load) or CSV, where an interval's ends have columns of their own."""
    title, header, lines = shown
    if how == "csv":
        return _csv(header, lines)
    if how == "markdown":
        rule = ["---", *["---:"] * (len(header) - 1)]
        body = [header, rule, *[[cell.replace("|", "\\|") for cell in line] for line in lines]]
        return (f"**{title}**\n\n" if title else "") + "".join(f"| {' | '.join(line)} |\n" for line in body)
    rows = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in [header, *lines]]
    out = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\hline", rows[0], r"\hline", *rows[1:]]
    return "\n".join([*([f"% {title}"] if title else []), *out, r"\hline", r"\end{tabular}", ""])


def _latex(cell: str) -> str:
    text = "".join(_LATEX.get(c, c) for c in cell)
    return _CELL.sub(r"\1 {\\scriptsize [\2, \3]}", text)


def _csv(header: list[str], lines: list[list[str]]) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    wide = [any(_CELL.fullmatch(line[i]) for line in lines) for i in range(len(header))]
    names = [[name, f"{name} low", f"{name} high"] if wide[i] else [name] for i, name in enumerate(header)]
    writer.writerow([name for part in names for name in part])
    for line in lines:
        out: list[str] = []
        for i, cell in enumerate(line):
            found = _CELL.fullmatch(cell)
            out += list(found.groups()) if found else [cell, "", ""] if wide[i] else [cell]
        writer.writerow(["" if cell == "-" else cell for cell in out])
    return sink.getvalue()
