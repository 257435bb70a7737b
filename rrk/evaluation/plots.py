"""Pictures by matplotlib (extra `plot`): SVG, PNG or PDF by the file's suffix.

    best_of_k([("round 0", report)], "curve.svg")     # one system or several
    ppo(log, "over.png")                              # the reranker's score against the probe's pass rate
    svg(report)                                       # the first, as text for an HTML page

Colours are Okabe and Ito's, told apart with colour-blind eyes; lines differ in marker too. The same figures give the same
bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rrk import outputs
from rrk.errors import RrkError, UsageError
from rrk.evaluation import cost as costing
from rrk.evaluation import ppo_log
from rrk.evaluation.tables import amount, sizes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FEW = 4  # curves up to which each has its band; more of them are mud
SUFFIXES = (".svg", ".png", ".pdf")


def check(path: str) -> None:
    """Before any work: a suffix that can be drawn, and matplotlib is there."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: the suffix says what to draw: {', '.join(SUFFIXES)}")
    _figure()


def _figure(width: float = 6.4, height: float = 4.2) -> Any:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise RrkError("plots need matplotlib: pip install 'rrk[plot]'") from None
    matplotlib.rcParams.update({"svg.hashsalt": "rrk", "svg.fonttype": "none", "font.size": 10})
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: str) -> None:
    suffix = Path(path).suffix.lower()
    # Dates in the file would make the same figures differ.
    metadata = {"Date": None} if suffix == ".svg" else {"CreationDate": None} if suffix == ".pdf" else {}
    with outputs.whole(path, "--plot") as sink:
        figure.savefig(sink, format=suffix[1:], dpi=150, metadata=metadata)


def best_of_k(entries: Sequence[tuple[str, Mapping[str, Any]]], path: str, title: str = "") -> None:
    """Best-of-k curves with their intervals between pass@1 and pass@k, which a perfect ranking would reach.

    A system of one candidate a problem (greedy decoding, say) is a level line. `title`: which files; their size follows it.
    """
    _save(_best_of_k(entries, title), path)


def svg(entries: Sequence[tuple[str, Mapping[str, Any]]], title: str = "") -> str:
    """The same as SVG text."""
    sink = io.StringIO()
    _best_of_k(entries, title).savefig(sink, format="svg", metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]


def _size(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """How much was measured: `164 problems, n = 16`."""
    counts = sorted({report["problems"] for _, report in entries})
    ns = [bound for _, report in entries for bound in report["n"]]
    low, high = min(ns), max(ns)
    return f"{' or '.join(map(str, counts))} problems, n = {high if low == high else f'{low} to {high}'}"


def _name_ends(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """(y, text, colour): a line's name where it ends, at the right edge, the names kept apart."""
    low, high = axes.get_ylim()
    step = 0.05 * (high - low)
    at = -float("inf")
    for y, text, colour in sorted(ends, key=lambda end: end[0]):
        at = max(at + step, y)
        axes.annotate(
            text, (axes.get_xlim()[1], y), (axes.get_xlim()[1] * 1.03, at), fontsize=8, color=colour, va="center"
        )


def _best_of_k(entries: Sequence[tuple[str, Mapping[str, Any]]], title: str = "") -> Any:
    figure = _figure(7.6)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, str]] = []
    few = sum(bool(report.get("best_of_k")) for _, report in entries) <= FEW
    most = 1
    seen: list[Any] = []
    for number, (name, report) in enumerate(entries):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        label = f"{name}: " if name else ""
        passing = [(int(k), f) for k, f in report["pass@k"].items() if f is not None]
        n = report["n"][0]
        if report["n"][1] == 1 and passing:
            level = passing[0][1]["mean"]
            axes.axhline(level, color=colour, linestyle="-.", linewidth=1)
            ends.append((level, f"{label}one candidate", colour))
            continue
        if report.get("oracle") and all(k != n for k, _ in passing) and report["n"][0] == report["n"][1]:
            passing.append((n, report["oracle"]))  # pass@n is the oracle
        passing.sort(key=lambda pair: pair[0])
        curve = report.get("best_of_k") or []
        if curve:
            if few:
                _band(axes, curve, colour)
            every = [i for i, point in enumerate(curve) if point["k"] & (point["k"] - 1) == 0 or i == len(curve) - 1]
            axes.plot(
                [p["k"] for p in curve],
                [p["mean"] for p in curve],
                color=colour,
                marker=marker,
                markersize=4,
                markevery=every,
            )
            ends.append((curve[-1]["mean"], f"{label}best of k by score", colour))
            peak = max(curve, key=lambda point: (point["mean"], -point["k"]))
            if peak["k"] < curve[-1]["k"]:
                axes.plot([peak["k"]], [peak["mean"]], color=colour, marker="*", markersize=11)
                where = f"peak {peak['mean']:.3f} at {peak['k']}"
                axes.annotate(
                    where, (peak["k"], peak["mean"]), (0, 8), textcoords="offset points", fontsize=7, ha="center"
                )
        # Two rankings of the same samples share these lines.
        drawn_before = passing in seen
        seen.append(passing)
        if passing and not drawn_before:
            if not curve and few:
                _band(axes, [{"k": k, **f} for k, f in passing], colour)
            axes.plot(
                [k for k, _ in passing],
                [f["mean"] for _, f in passing],
                color=colour,
                linestyle="--",
                linewidth=1,
                marker=None if curve else marker,
                markersize=4,
            )
            ends.append((passing[-1][1]["mean"], f"{label}pass@k, a perfect choice", colour))
        if report.get("random") and not drawn_before:
            axes.axhline(report["random"]["mean"], color=colour, linestyle=":", linewidth=1)
            ends.append((report["random"]["mean"], f"{label}pass@1", colour))
        most = max(most, n)
    axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(most.bit_length())]
    if most not in ticks and most / ticks[-1] > 1.3:
        ticks.append(most)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("k: candidates to choose from")
    axes.set_ylabel("problems solved")
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(1.0, high))
    axes.grid(alpha=0.25)
    _name_ends(axes, ends)
    axes.set_title(f"{title}: {_size(entries)}" if title else _size(entries), fontsize=9, loc="left")
    return figure


def _band(axes: Any, points: Sequence[Mapping[str, Any]], colour: str) -> None:
    known = [p for p in points if p.get("low") is not None]
    if known:
        xs = [p["k"] for p in known]
        axes.fill_between(
            xs, [p["low"] for p in known], [p["high"] for p in known], color=colour, alpha=0.15, linewidth=0
        )


def quality_and_cost(entries: Sequence[tuple[str, Mapping[str, Any]]], by: str, path: str) -> None:
    """A point a system, with its intervals on both axes; costs on a logarithmic one (cost.py). A system with scores is a line:
    the best of 1, 2, 4, ... n of its candidates."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = _figure(7.6)
    axes = figure.add_subplot()
    for place, (name, report) in enumerate(entries):
        points = [(str(k), worth, spent[by]) for k, worth, spent in costing.fewer(report) if by in spent]
        points.append((sizes(report), report[costing.quality(report)], report["cost"]["answer"][by]))
        points = [point for point in points if point[2]["mean"] > 0]
        if not points:
            continue
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        bars = {
            side: None if any(one["low"] is None for one in ones) else _bars(ones)
            for side, ones in (("xerr", [p[2] for p in points]), ("yerr", [p[1] for p in points]))
        }
        _, caps, lines = axes.errorbar(
            [spent["mean"] for _, _, spent in points],
            [worth["mean"] for _, worth, _ in points],
            **bars,
            color=colour,
            marker=marker,
            linewidth=1.5,
            elinewidth=0.7,
            capsize=2,
            label=name + (" (cost estimated)" if report["cost"].get("estimated") else ""),
        )
        for part in (*caps, *lines):
            part.set_alpha(0.45)
        for k, worth, spent in points if len(points) > 1 else []:
            where = (spent["mean"], worth["mean"])
            axes.annotate(k, where, (5, -10), textcoords="offset points", fontsize=7, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(costing.AXES[by])
    axes.set_ylabel("answers that pass (95 % interval)")
    axes.grid(alpha=0.25)
    figure.legend(fontsize=8, loc="outside lower center", ncols=min(3, len(entries)))
    _save(figure, path)


def _bars(ones: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Lengths of the error bars below and above, as matplotlib takes them."""
    return [[one["mean"] - one["low"] for one in ones], [one["high"] - one["mean"] for one in ones]]


def methods(found: Mapping[str, Mapping[str, Any]], title: str, path: str) -> None:
    """A line a method with its interval, the best on top, between random and oracle (compare.py)."""
    figure = _figure(6.4, 1.4 + 0.32 * len(found))
    axes = figure.add_subplot()
    for place, (name, own) in enumerate(found.items()):
        colour = COLOURS[1] if own["best"] else COLOURS[6] if name in ("random", "oracle") else COLOURS[0]
        if own["low"] is not None:
            axes.plot([own["low"], own["high"]], [place, place], color=colour, linewidth=2, alpha=0.6)
        axes.plot([own["mean"]], [place], color=colour, marker="o", markersize=6)
        axes.annotate(
            f"{own['mean']:.3f}", (own["mean"], place), (0, 6), textcoords="offset points", fontsize=7, ha="center"
        )
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.8)
    axes.set_xlabel("problems whose best-ranked candidate passes (95 % interval)")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.25, axis="x")
    _save(figure, path)


def ppo(log: list[dict[str, Any]], path: str, title: str = "") -> None:
    """Above: the reranker's score and the probe's pass rate by update with its 95 % interval, its peak marked and the SFT model's
    rate as a level line; below: the KL to the SFT model."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(6.4, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    handles = []
    updates, scores = ppo_log.series(log, "score")
    if scores:
        handles += top.plot(
            updates, scores, color=COLOURS[1], linewidth=1.2, label="reranker's score, training samples"
        )
    updates, scores = ppo_log.series(log, "probe_score")
    if scores:
        handles += top.plot(
            updates, scores, color=COLOURS[1], linestyle="--", marker="s", markersize=4, label="reranker's score, probe"
        )
    top.set_ylabel("reranker's score", color=COLOURS[1])
    top.grid(alpha=0.25)
    updates, rates = ppo_log.series(log, "probe_pass@1")
    if rates:
        right = top.twinx()
        handles += right.plot(updates, rates, color=COLOURS[0], marker="o", markersize=5, label="pass@1, probe")
        bands = [{"k": row["update"], **ppo_log.rate(row)} for row in ppo_log.probes(log)]
        _band(right, bands, COLOURS[0])
        best = ppo_log.best(rates)
        top.axvline(updates[best], color="grey", linestyle=":", linewidth=1)
        peak = f"peak {rates[best]:.3f}"
        right.annotate(peak, (updates[best], rates[best]), (0, 7), textcoords="offset points", fontsize=7, ha="center")
        if updates[0] == 0:
            handles.append(
                right.axhline(rates[0], color=COLOURS[0], linestyle="-.", linewidth=0.8, label="the SFT model")
            )
        right.set_ylabel("pass@1 of held-out problems", color=COLOURS[0])
        right.set_ylim(0, min(1.0, max(*rates, *(b["high"] or 0 for b in bands)) * 1.25 + 0.02))
    top.legend(handles=handles, fontsize=8, framealpha=0.8, loc="lower right")
    updates, kl = ppo_log.series(log, "kl")
    bottom.plot(updates, kl, color=COLOURS[2], linewidth=1.2)
    bottom.set_ylabel("KL, nats")
    bottom.set_xlabel("update")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    top.set_title(f"{title}: {len(log)} rows" if title else f"{len(log)} rows", fontsize=9, loc="left")
    bottom.grid(alpha=0.25)
    _save(figure, path)
