"""The reviewer: what a prompt says is told from its code, and the score is the two mean log-probabilities, one text at a time."""

from __future__ import annotations

import pytest

from rrk.reranking import reviewer
from rrk.reranking.render import Rendering
from rrk.reranking.scorer import Question, Scorer
from tests.reranking import models
from tests.reranking.test_likelihood import slowly

SAYS = "Adds one.\n>>> f(1)\n2"
PROMPTS = {
    "py": ('import re\n\ndef f(x):\n    """Adds one.\n>>> f(1)\n2"""\n', "import re\ndef f(x):"),
    "cpp": ("#include<a>\n// Adds one.\n// >>> f(1)\n// 2\nlong f(long x) {\n", "#include<a>\nlong f(long x) {"),
    "sh": ("#!/bin/bash\n# Adds one.\n# >>> f(1)\n# 2\nf() {\n", "#!/bin/bash\nf() {"),
    "js": ("//Adds one.\n// >>> f(1)\n// 2\nfunction f(x){\n", "function f(x){"),
    "lua": ("-- Adds one.\n-- >>> f(1)\n-- 2\nlocal function f(x)\n", "local function f(x)"),
    "rkt": ("#lang racket\n\n;; Adds one.\n;; >>> f(1)\n;; 2\n(define (f x)\n", "#lang racket\n(define (f x)"),
    "d": ("/*\nAdds one.\n>>> f(1)\n2\n*/\nlong f(long x) {\n", "long f(long x) {"),
    "none": (SAYS, ""),
}


@pytest.mark.parametrize("language", PROMPTS)
def test_what_a_prompt_says_is_taken_out_of_its_code(language):
    prompt, code = PROMPTS[language]
    assert reviewer.parted(prompt, "py" if language == "none" else language) == (code, SAYS)


def test_the_score_is_coder_and_reviewer_one_text_at_a_time():
    model, tokenizer = models.network("qwen2", None), models.tokenizer()
    scorer = Scorer(model, tokenizer, Rendering(pooling="likelihood"))
    prompt = 'def f(x):\n    """Adds one."""\n'
    whole = 'def f(x):\n    """Adds one."""\n    return x + 2\n'
    found = reviewer.score(scorer, Question(prompt, ["    return x + 1\n", whole], "py", [False, True]), weight=0.25)
    read = {"    return x + 1\n": "def f(x):\n    return x + 1", whole: "def f(x):\n    return x + 2"}
    for got, (program, text) in zip(found, read.items(), strict=True):
        # A whole program that opens with its prompt is read as the continuation that it is.
        coder = slowly(model, tokenizer, prompt, program.removeprefix(prompt))
        assert got == pytest.approx(coder + 0.25 * slowly(model, tokenizer, text + reviewer.CUE, "Adds one."), abs=1e-4)


def test_a_program_that_repeats_its_problem_gains_nothing_with_the_reviewer():
    model, tokenizer = models.network("qwen2", None), models.tokenizer()
    scorer = Scorer(model, tokenizer, Rendering(pooling="likelihood"))
    ask = lambda program: Question("Adds one.", [program], "py", True)  # noqa: E731
    bare, wordy = "def f(x):\n    return x + 1", 'def f(x):\n    """Adds one."""\n    # Adds one.\n    return x + 1'
    review = [reviewer.score(scorer, ask(p), 1.0)[0] - scorer.score(*ask(p))[0] for p in (bare, wordy)]
    assert review[0] == pytest.approx(review[1], abs=1e-4)


def test_the_command_ranks_with_any_generator(tmp_path, rrk):
    base = models.save(tmp_path / "base", "qwen2")
    scorer = Scorer.load(base, dtype="float32", zero_shot="likelihood")
    for row in models.reranked(rrk, "reviewer", base):
        own = Question(row["prompt"], [row["completion"]], row.get("language"))
        assert row["score"] == pytest.approx(reviewer.score(scorer, own)[0], abs=1e-4)
