"""Tables for papers: what a reader of markdown, LaTeX or CSV gets is the figures, whole."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from rrk.evaluation import formats, report, statistics, tables
from tests.evaluation.test_report import rows_of
from tests.test_eval import encode

TABLE = ("a title", ["system", "pass@1", "p"], [["a_b & c|d", ".221 [.176, .267]", "<.001"], ["e", "-", "1.000"]])


def test_csv_gives_interval_ends_columns_of_their_own():
    rows = list(csv.reader(formats.written(TABLE, "csv").splitlines()))
    assert rows[0] == ["system", "pass@1", "pass@1 low", "pass@1 high", "p"]
    assert rows[1] == ["a_b & c|d", ".221", ".176", ".267", "<.001"]
    assert rows[2] == ["e", "", "", "", "1.000"]


def test_latex_escapes_what_it_reads_as_its_own():
    text = formats.written(TABLE, "latex")
    assert r"a\_b \& c|d & .221 {\scriptsize [.176, .267]} & $<$.001 \\" in text
    assert text.startswith("% a title\n\\begin{tabular}{lrr}\n")
    assert text.count("&") - text.count(r"\&") == 2 * 3


def test_markdown_cells_do_not_end_at_a_bar_of_their_own():
    lines = formats.written(TABLE, "markdown").splitlines()
    assert lines[:4] == ["**a title**", "", "| system | pass@1 | p |", "| --- | ---: | ---: |"]
    assert lines[4] == r"| a_b & c\|d | .221 [.176, .267] | <.001 |"


def test_the_command_writes_tables_alone_and_says_the_rest_aside(rrk):
    """With the seed and the resamples of the bootstrap: a figure can be had again."""
    done = rrk("eval", "--format", "csv", "--resamples", "300", "--seed", "7", input=encode(rows_of()))
    assert done.returncode == 0, done.stderr.decode()
    tables_of = done.stdout.decode().split("\n\n")
    assert len({len(row) for row in csv.reader(tables_of[0].splitlines())}) == 1
    assert b"300 resamples, seed 7" in done.stderr
    done = rrk("compare", "--format", "markdown", input=encode(rows_of()))
    assert done.stdout.startswith(b"**6 problems"), done.stderr.decode()
    refused = rrk("eval", "--format", "word", input=encode(rows_of()))
    assert refused.returncode == 2


def test_bca_is_scipys(monkeypatch):
    """Bias, acceleration and ends as in the reference implementation, up to the draws; skewed data, where it matters."""
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).beta(0.4, 2, size=60) ** 2
    ours = statistics.resample([values], repeats=20_000, seed=1)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.bca(0) == pytest.approx((theirs.low, theirs.high), rel=0.02)
    assert ours.bca(0)[1] > ours.interval(0)[1] + 0.02 * values.std(), "percentiles lag behind the long tail"


def test_a_report_has_both_intervals_and_shows_the_one_that_is_asked_for():
    samples = report.Samples()
    for row in rows_of(2, problems=12):
        samples.add(row)
    built = report.build(samples, repeats=400, seed=5)
    assert built["bootstrap"] == {"unit": "base problem", "resamples": 400, "seed": 5, "interval": "percentile"}
    figure = tables.with_bca(built)["oracle"]
    assert [figure["low"], figure["high"]] == built["oracle"]["bca"]
    assert "BCa bootstrap over base problems, 400 resamples, seed 5" in tables.bootstrap(tables.with_bca(built))
    low, high = built["gap_closed"]["bca"]
    assert low <= built["gap_closed"]["mean"] <= high
