"""The one way a (prompt, program) pair becomes tokens, for training, reranking and PPO alike.

    renderer = Renderer(tokenizer, Rendering(max_length=2048), encoder=False)
    text = renderer.render(prompt, ["    return a + b\\n"], language="py")[0]
    text.prefix, text.suffix        # token ids; the model reads prefix + suffix

Prompt and program are always tokenised apart and joined as ids, so the boundary between them is the same whatever follows,
and all programs of a problem share `prefix`. A decoder reads `[head] prompt [middle] program EOS`: head is the tokenizer's own
BOS where it has one, or the chat template's opening; the last token is always EOS, on which the score is read. An encoder
reads the tokenizer's own sentence pair. Where the score is the program's likelihood, EOS is left out (a program that was cut
at a stop string did not end so), and `suffix` begins with the token before the program, from which its first one is predicted.
Text never becomes a special token: a program cannot write its own EOS.

Template `answer` is for reward models that others trained on conversations: the program whole (prompt and completion) is the
answer, and the chat template stands to its end, on whose last token they read the score (Skywork-Reward, CodeScaler, AceCodeRM).

Template `judge` asks an instruct model whether the whole program is right; the score is read where its answer would begin, from
what the model's own head says of "Yes" and "No" (network.py).

A whole program (`completion_kind: full`, `solution`) that opens with its prompt, or that writes its prompt's function anew
(continuation.py), is rendered as the continuation that it is; any other stands after a blank line.

Too long: the prompt loses its beginning first, then the program loses its beginning; the program's end and EOS stay. Both are
counted (`prompt_cut`, `program_cut`), for callers to report. All settings are saved with the model (rrk/reranking/record.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrk import rows
from rrk.errors import RrkError, UsageError
from rrk.reranking.continuation import continuation

TEMPLATES = ("plain", "chat", "answer", "judge")
POOLINGS = ("last", "cls", "mean", "likelihood")
_PROMPT, _PROGRAM = "@@rrk:prompt@@", "@@rrk:program@@"
_JUDGE = f"Problem:\n{_PROMPT}\n\nProgram:\n```\n{_PROGRAM}\n```\n\nDoes the program solve the problem correctly? Answer Yes or No."


@dataclass(frozen=True)
class Rendering:
    """Settings that belong to a trained model.

    `pooling`: last (token; decoders), likelihood (a generator's mean log-probability of the program's tokens), cls (the
    encoder's own head) or mean.
    """

    template: str = "plain"
    language_tag: bool = False
    max_length: int = 2048
    pooling: str = "last"

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise UsageError(f"template '{self.template}': choose one of {', '.join(TEMPLATES)}")
        if self.pooling not in POOLINGS:
            raise UsageError(f"pooling '{self.pooling}': choose one of {', '.join(POOLINGS)}")
        if self.template == "judge" and self.pooling != "last":
            raise UsageError("template 'judge' reads an answer's first token: pooling last, a decoder")
        if self.max_length < 8:
            raise UsageError(f"a length of {self.max_length} tokens leaves no room for a program")


@dataclass(frozen=True)
class Rendered:
    """Token ids of one pair, the program from `ids[first]`; `prompt_cut` and `program_cut` are tokens that did not fit."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    first: int
    prompt_cut: int = 0
    program_cut: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prefix + self.suffix


class Renderer:
    """Settings applied with one tokenizer. `cuts` counts the programs whose prompt or own text was cut."""

    def __init__(self, tokenizer: Any, rendering: Rendering, *, encoder: bool):
        self.tokenizer, self.rendering, self.encoder = tokenizer, rendering, encoder
        self.cuts: Counter[str] = Counter()
        self.type_ids = encoder and "token_type_ids" in tokenizer.model_input_names
        self._answer = rendering.template == "answer" and not encoder
        head, middle, tail = (
            self._pair() if encoder else self._plain() if rendering.template == "plain" else self._chat()
        )
        self._head, self._middle, self._tail = tuple(head), tuple(middle), tuple(tail)
        spaced = f"\n{_PROGRAM}\n"
        self._trims = self._answer and spaced not in self._messages(_PROMPT, spaced)
        self._blank = () if encoder else tuple(self._tokens(["\n\n"])[0])

    def render(
        self, prompt: str, programs: Sequence[str], language: str | None = None, full: bool | Sequence[bool] = False
    ) -> list[Rendered]:
        """One Rendered a program. `full`: which programs stand alone (all of them, or one flag a program)."""
        flags = [full] * len(programs) if isinstance(full, bool) else list(full)
        texts: list[str] = []
        apart: list[bool] = []
        for program, stands_alone in zip(programs, flags, strict=True):
            if self._answer:
                found: str | None = self._trim(program if stands_alone else prompt + program)
            else:
                found = self._continued(prompt, program, language) if stands_alone else program
            texts.append(program if found is None else found)
            apart.append(found is None and bool(prompt))
        tag = f"[{rows.language_code(language)}]\n" if self.rendering.language_tag and language else ""
        opening, *bodies = self._tokens([self._trim(tag + prompt), *texts])
        # The judge is asked about whole programs; what they repeat of the prompt is read once.
        again = [opening if self.rendering.template == "judge" and not gap else [] for gap in apart]
        return [self._fit(opening, body, gap, own) for body, gap, own in zip(bodies, apart, again, strict=True)]

    def _continued(self, prompt: str, program: str, language: str | None) -> str | None:
        """The whole program as what follows the prompt, if it can be read so."""
        rest = program[len(prompt) :] if prompt.strip() and program.startswith(prompt) else None
        code = rows.language_code(language or "py")
        # A judge is asked about the program as it stands.
        if self.rendering.template == "judge" or (rest is not None and code == "py"):
            return rest
        # Behind a prompt that is repeated word for word stand the braces, too, that close what it opened.
        found = continuation(prompt, program, code)
        return rest if found is None else found

    def _fit(self, prompt: list[int], body: list[int], apart: bool, again: list[int]) -> Rendered:
        """`again`: what comes before the program's own text, and is the same for all."""
        program = [*again, *body]
        middle = self._middle or (self._blank if apart else ())
        room = self.rendering.max_length - len(self._head) - len(middle) - len(self._tail)
        program_cut = max(0, len(program) - room)
        prompt_cut = max(0, len(prompt) + len(program) - program_cut - room)
        self.cuts["programs"] += 1
        self.cuts["prompt_cut"] += prompt_cut > 0
        self.cuts["program_cut"] += program_cut > 0
        shared = 0 if program_cut else len(again)
        prefix = (*self._head, *prompt[prompt_cut:], *middle, *program[:shared])
        body = program[program_cut + shared :]
        if self.rendering.pooling != "likelihood":
            return Rendered(prefix, (*body, *self._tail), len(prefix), prompt_cut, program_cut)
        # Behind nothing a program is predicted from EOS, by which documents are set apart; an empty one is EOS itself.
        eos = self._tail[-1:]
        prefix, before = (prefix[:-1], prefix[-1:]) if prefix else ((), eos)
        return Rendered(prefix, (*before, *(body or eos)), len(prefix) + 1, prompt_cut, program_cut)

    def _trim(self, text: str) -> str:
        """As the chat template would: some (Llama's) strip what they are given."""
        return text.strip() if self._trims else text

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        # The tokenizers library refuses lone surrogates, which models do write.
        clean = [text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for text in texts]
        return self.tokenizer(
            clean,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # "longer than the model's maximum": we cut, and count it
        )["input_ids"]

    def _special(self, text: str) -> list[int]:
        """Ids of a template's own text, in which special tokens are meant."""
        ids = self.tokenizer(text, add_special_tokens=False, return_token_type_ids=False, verbose=False)["input_ids"]
        return list(ids)

    def _eos(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise RrkError(
                "the tokenizer has no end-of-sequence token, on which a decoder's score is read; set eos_token"
            )
        return self.tokenizer.eos_token_id

    def _plain(self) -> tuple[list[int], list[int], list[int]]:
        # Whatever the tokenizer puts before a text of its own accord (Llama: BOS; Qwen, GPT-2: nothing).
        with_specials, bare = self.tokenizer("a")["input_ids"], self._special("a")
        return list(with_specials[: _find(with_specials, bare)]), [], [self._eos()]

    def _chat(self) -> tuple[list[int], list[int], list[int]]:
        if not getattr(self.tokenizer, "chat_template", None):
            raise UsageError("the tokenizer has no chat template; use the plain template")
        judged = self.rendering.template == "judge"
        text = self._messages(_JUDGE) if judged else self._messages(_PROMPT, _PROGRAM)
        if text.count(_PROMPT) != 1 or text.count(_PROGRAM) != 1:
            raise UsageError("the chat template changes what it is given; use the plain template")
        head, _, rest = text.partition(_PROMPT)
        middle, _, tail = rest.partition(_PROGRAM)
        if judged or self._answer:
            return self._special(head), self._special(middle), self._special(tail)
        end, eos = self._special(tail), self._eos()
        # Nothing may follow EOS: the score is read on it.
        end = end[: len(end) - end[::-1].index(eos)] if eos in end else [*end, eos]
        return self._special(head), self._special(middle), end

    def _messages(self, *said: str) -> str:
        """The user's words, and the model's answer or the place where it would begin."""
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=False)]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(said) == 1)

    def _pair(self) -> tuple[list[int], list[int], list[int]]:
        a, b = self._special("a"), self._special("b")
        pair = self.tokenizer("a", "b")["input_ids"]
        first = _find(pair, a)
        second = first + len(a) + _find(pair[first + len(a) :], b)
        return list(pair[:first]), list(pair[first + len(a) : second]), list(pair[second + len(b) :])


def _find(ids: Sequence[int], part: Sequence[int]) -> int:
    for start in range(len(ids) - len(part) + 1):
        if list(ids[start : start + len(part)]) == list(part):
            return start
    raise RrkError("the tokenizer writes a text differently beside special tokens; rrk cannot render with it")
