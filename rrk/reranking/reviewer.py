"""Coder and reviewer: how likely the program is after its problem, and the problem after its program.

    scores = reviewer.score(scorer, question(rows))      # scorer: Scorer.load(MODEL, zero_shot="likelihood")
    code, statement = reviewer.parted('def f(x):\\n    \"\"\" Double x. \"\"\"\\n')

A program that is likely under the model but does something else (a usual one, a short one) makes its problem unlikely. Both
are mean log-probabilities a token of one generator, added: the normalised Coder-Reviewer score of Zhang et al. 2022
(arXiv 2211.16490, section 3), here with a weight. The reviewer reads the program without the problem's words: docstrings and
comments of the prompt are taken out of it, and out of whole programs, which like to repeat them.
"""

from __future__ import annotations

from rrk import comments, rows
from rrk.reranking.scorer import Question, Scorer
from rrk.reranking.served import Served

WEIGHT = 0.5  # of the reviewer beside the coder. Looked at on 67 problems of HumanEval alone: .25 to 1 differed by .001 in AUC
CUE = '\n\n\n# Docstring of the function above:\n"""'


def parted(prompt: str, language: str | None = None) -> tuple[str, str]:
    """(code, what comments and docstrings say). A prompt without either is all statement."""
    code, statement = comments.parted(prompt, rows.language_code(language or "py"))
    return (code, statement) if statement else ("", prompt.strip())


def score(scorer: Scorer | Served, asked: Question, weight: float = WEIGHT) -> list[float]:
    """One score a program, in nats a token; higher is better."""
    code, statement = parted(asked.prompt, asked.language)
    full = [asked.full] * len(asked.programs) if isinstance(asked.full, bool) else asked.full
    reviewed = []
    for program, whole in zip(asked.programs, full, strict=True):
        if whole:
            text = parted(program, asked.language)[0] or program
        else:
            text = f"{code}\n{program}" if code else program
        reviewed.append(Question(text.rstrip() + CUE, [statement], asked.language))
    coder, *reviewer = scorer.score_many([asked, *reviewed])
    return [a + weight * b for a, (b,) in zip(coder, reviewer, strict=True)]
