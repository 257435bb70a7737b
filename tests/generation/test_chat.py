"""Asking an instruct model: what it is asked, by which tokens, and what becomes of its answer."""

from __future__ import annotations

import json

import pytest

from rrk import jsonl, rows
from rrk.errors import RrkError, UsageError
from rrk.generation import chat, models
from rrk.generation.openai import Engine
from rrk.generation.tasks import Order, Sample, Tasks, output_rows, task
from tests.generation.test_openai import serve  # noqa: F401 - a fixture
from tests.generation.tiny import make_model

PROMPT = 'from typing import List\n\n\ndef f(a: List[int]) -> int:\n    """Sum {of} all."""\n'
ROW = {"task_id": "t/0", "prompt": PROMPT, "entry_point": "f", "stop_tokens": ["\ndef"]}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def test_the_conversation_has_the_problem_and_its_language():
    """Braces of the prompt stay; an instruction without a place for the prompt goes before it."""
    problem = rows.problem(ROW, tests=False)
    [user] = chat.messages(problem, "", "")
    assert PROMPT.rstrip() in user["content"]
    assert "```python" in user["content"]
    system, user = chat.messages(problem, "Be brief.", "Only code, in {language}.")
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"].startswith("Only code, in python.\n\nfrom typing")


def test_the_answers_program_gets_the_prompts_imports_and_stands_alone():
    """HumanEval's own import stands in the prompt; without it the annotation of a right program fails."""
    problem = rows.problem(ROW, tests=False)
    answer = "Sure:\n```python\ndef f(a: List[int]) -> int:\n    return sum(a)\n```\nIt sums."
    made = chat.candidate(answer, problem)
    space: dict = {}
    exec(made["completion"], space)
    assert space["f"]([1, 2]) == 3
    assert (made["completion_kind"], made["response"]) == ("full", answer)
    assert chat.candidate("I cannot.", problem)["completion"] == ""


def test_rows_keep_the_answer_and_the_problems_prompt():
    """A ranker reads the problem's prompt, not the conversation."""
    order = Order("m", samples=1, chat=True)
    asked = task(ROW, order)
    assert asked.stop == ()
    [row] = output_rows(asked, [Sample("```\ndef f(a):\n    return 0\n```", -1.0, 9, "eos")], order)
    assert row["prompt"] == PROMPT
    assert row["completion"].endswith("def f(a):\n    return 0\n")
    assert (row["logprob"], row["tokens"], row["finish_reason"]) == (-1.0, 9, "eos")


def test_the_models_own_template_makes_the_tokens(tmp_path):
    """Special tokens are the template's alone; a model without one is refused in one line."""
    _, tokenizer = models.load(make_model(tmp_path), "cpu", "float32")
    said = [{"role": "user", "content": "hi"}]
    with pytest.raises(UsageError, match="no chat template"):
        chat.render(tokenizer, said)
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(chat.render(tokenizer, said)) == "<user>hi<assistant>"


def test_the_command_asks_and_takes_the_program_out(rrk, tmp_path):
    """End to end on a model of random weights: the raw answer is kept, whatever it is."""
    folder = make_model(tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    done = rrk("sample", "-m", str(folder), "--chat", "-n", "2", "--max-tokens", "8", input=jsonl.dumps(ROW))
    assert done.returncode == 0, done.stderr
    made = [jsonl.loads(line) for line in done.stdout.splitlines()]
    assert len(made) == 2
    assert all({"response", "extracted", "completion"} <= row.keys() for row in made)
    assert rrk("sample", "-m", str(folder), "--system", "x", input=jsonl.dumps(ROW)).returncode == 2


class Items:
    """A stage's items: one row."""

    def __init__(self):
        self._rows = iter([ROW])

    def __next__(self):
        return next(self._rows)

    def ready(self):
        return True


def sampled(server, order) -> list[Sample]:
    engine = Engine(order, server.url, None, 1, 5.0, print, tries=1, first_pause=0.0)
    return [sample for _, drawn in engine(Tasks(Items(), order)) for sample in drawn]


def test_a_chat_server_is_asked_for_messages(serve):  # noqa: F811
    """/chat/completions, with log-probabilities where it gives them."""
    message = {"content": "```\ndef f(a): return 1\n```"}
    choice = {
        "message": message,
        "finish_reason": "stop",
        "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1}]},
    }
    server = serve(lambda number, body: (200, {}, {"choices": [choice]}))
    [sample] = sampled(server, Order("m", samples=1, chat=True))
    assert (sample.logprob, sample.tokens, sample.finish) == (-1.5, 2, "eos")
    assert server.seen[0]["path"].endswith("/chat/completions")
    assert server.seen[0]["messages"][0]["role"] == "user"
    assert "prompt" not in server.seen[0]


@pytest.mark.parametrize("choice", [{"text": None}, {"message": {"content": "x"}}, {"finish_reason": "stop"}])
def test_an_answer_without_text_is_an_error(serve, choice):  # noqa: F811
    """Never an empty program that ended by itself."""
    server = serve(lambda number, body: (200, {}, {"choices": [choice]}))
    with pytest.raises(RrkError, match="without text"):
        sampled(server, Order("m", samples=1))


@pytest.mark.parametrize("reason", ["abort", "content_filter", "length"])
def test_an_answer_that_was_ended_is_no_eos(serve, reason):  # noqa: F811
    """Its reason is kept as the server says it."""
    server = serve(lambda number, body: (200, {}, {"choices": [{"text": "x", "finish_reason": reason}]}))
    assert [sample.finish for sample in sampled(server, Order("m", samples=1))] == [reason]
