"""Pictures say by themselves what they show: which file, how much of it, which line is which, where the peak is."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("matplotlib")

from rrk.evaluation import plots


def figure(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def report(curve: list[float]) -> dict:
    n = len(curve)
    made = {"problems": 20, "n": [n, n], "random": figure(curve[0]), "oracle": figure(0.9)}
    made["pass@k"] = {str(k): figure(0.4 + 0.4 * k / n) for k in (1, n)}
    if n > 1:
        made["best_of_k"] = [{"k": k, **figure(mean)} for k, mean in enumerate(curve, 1)]
    return made


def test_a_curve_has_its_title_its_name_and_its_peak():
    text = plots.svg([("", report([0.4, 0.6, 0.55, 0.5]))], "verdicts.jsonl")
    assert "verdicts.jsonl: 20 problems, n = 4" in text
    assert "peak 0.600 at 2" in text
    assert "best of k" in text
    assert "a perfect choice" in text
    assert "peak" not in plots.svg([("", report([0.4, 0.5, 0.6]))])


def test_one_candidate_a_problem_is_a_level_line():
    text = plots.svg([("a", report([0.4, 0.5])), ("greedy", report([0.45]))])
    assert "greedy: one candidate" in text
    assert "n = 1 to 2" in text


def test_bands_only_where_few_curves_are():
    bands = lambda count: plots.svg([(str(i), report([0.4, 0.5])) for i in range(count)]).count("FillBetween")  # noqa: E731
    assert bands(4) == 4
    assert bands(5) == 0


def test_updates_are_whole_numbers_and_the_start_is_a_line(tmp_path):
    log = [{"update": u, "score": 0.1 * u, "kl": 0.2, "probe_pass@1": [0.3, 0.5, 0.4][u]} for u in range(3)]
    plots.ppo(log, str(tmp_path / "p.svg"), "log.jsonl")
    text = (tmp_path / "p.svg").read_text()
    assert "log.jsonl: 3 rows" in text
    assert "peak 0.500" in text
    assert "the SFT model" in text
    ticks = re.findall(r'id="xtick_\d+">.*?<text[^>]*>([^<]+)<', text, re.DOTALL)
    assert ticks[-3:] == ["0", "1", "2"]  # of the lower axes, which alone have labels
