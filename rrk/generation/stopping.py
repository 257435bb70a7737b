"""Stop strings, checked as tokens arrive, without decoding a row again at every token.

    stops = StopStrings(tokenizer, ["\\ndef ", "\\n#"])
    stops.ended(ids)         # True if the text of these tokens contains a stop string that the last token completed
    stops.cut(text)          # (text before the first stop string, whether there was one)

A stop string can only end in a token whose own text contains it or begins with one of its endings: only then is the tail
of the row decoded. The tail has more tokens than the stop string has bytes, so it holds the whole of it whatever the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

SLACK = 4  # tokens more than bytes: a tail may begin in the middle of a character


class StopStrings:
    """The stop strings of one problem; remembers what it learned about tokens."""

    def __init__(self, tokenizer, stops: Sequence[str]):
        self.tokenizer = tokenizer
        self.stops = tuple(dict.fromkeys(s for s in stops if s))
        self._endings = {s[i:] for s in self.stops for i in range(len(s))}
        self._tail = max((len(s.encode("utf-8", "replace")) for s in self.stops), default=0) + SLACK
        self._may_end: dict[int, bool] = {}

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the last token completes a stop string."""
        if not self.stops or not self._candidate(ids[-1]):
            return False
        text = decode(self.tokenizer, ids[-self._tail :])
        return any(stop in text for stop in self.stops)

    def cut(self, text: str) -> tuple[str, bool]:
        """The text up to the first stop string."""
        at = min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=-1)
        return (text, False) if at < 0 else (text[:at], True)

    def _candidate(self, token: int) -> bool:
        known = self._may_end.get(token)
        if known is None:
            own = decode(self.tokenizer, [token])
            # SentencePiece drops a token's leading space when it stands first; a part of a character decodes to U+FFFD.
            known = "\ufffd" in own or any(
                stop in text or any(text.startswith(ending) for ending in self._endings)
                for text in (own, " " + own)
                for stop in self.stops
            )
            self._may_end[token] = known
        return known


def decode(tokenizer, ids: Sequence[int]) -> str:
    """The text of tokens as the model wrote it: nothing skipped, no spaces tidied up."""
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
