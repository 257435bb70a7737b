"""Asking an instruct model: the conversation for a problem, its tokens, and the candidate that its answer makes.

    said = messages(problem, system="", instruction=INSTRUCTION)     # [{"role": "user", "content": ...}]
    ids = render(tokenizer, said)                                    # by the model's own chat template
    fields = candidate(answer, problem)                              # completion, completion_kind, response, extracted

What the answer holds is found by rrk/extract.py. A whole Python program gets the prompt's imports before it where it leaves them
out: HumanEval's `from typing import List` stands in the prompt, and evaluators execute both together.
"""

from __future__ import annotations

import ast
from typing import Any

from rrk import extract, rows
from rrk.errors import UsageError

INSTRUCTION = """Complete this program. Answer with the whole program in one fenced code block.

```{language}
{prompt}
```"""


def messages(problem: rows.Problem, system: str, instruction: str) -> list[dict[str, str]]:
    """The conversation. `{prompt}` and `{language}` stand for the problem's; an instruction without `{prompt}` goes before it."""
    name = (rows.LANGUAGES.get(problem.language) or (problem.language,))[0]
    text = instruction or INSTRUCTION
    if "{prompt}" not in text:
        text = text.rstrip() + "\n\n{prompt}"
    # Not str.format: prompts and instructions have braces of their own.
    told = text.replace("{language}", name).replace("{prompt}", problem.prompt.rstrip("\n"))
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": told}]


def render(tokenizer: Any, said: list[dict[str, str]]) -> list[int]:
    """Token ids by the model's chat template, up to where its answer begins. UsageError where it has none."""
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("--chat: this model has no chat template; leave --chat out, or choose an instruct model")
    text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes its own


def candidate(answer: str, problem: rows.Problem) -> dict[str, Any]:
    """The fields that an answer gives to its row: the program, how it was found, and the answer itself."""
    found = extract.extract(answer, problem.language, problem.entry_point)
    program = found.program
    if found.whole and problem.language == "py" and program:
        program = _imports(problem.prompt, program) + program
    kind = {"completion_kind": "full"} if found.whole else {}
    return {"completion": program, **kind, "response": answer, "extracted": found.fields()}


def _imports(prompt: str, program: str) -> str:
    """The prompt's own imports that the program lacks."""
    for text in (prompt, prompt.rstrip() + "\n    pass\n"):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        lines = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        lacking = [line for line in lines if line not in program]
        return "".join(f"{line}\n" for line in lacking)
    return ""
