"""What commands show to people: tables and programs, in colour on a terminal, as aligned plain text down a pipe.

    terminal.table(["language", "pass@1"], [["py", ".221"]], title="...")
    terminal.code(program, "py"); terminal.line("HumanEval/3 ...")

Programs and their output come from models and from whatever those programs printed. Everything passes through visible(),
so that no escape sequence, carriage return or direction override ever acts on the reader's terminal.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# C0 without tab and newline, DEL, C1, direction overrides and isolates, line separators, byte order mark, surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LEXERS = {"cs": "csharp", "sh": "bash", "rkt": "racket", "adb": "ada", "jl": "julia", "luau": "lua", "d": "d"}


def visible(text: str) -> str:
    r"""The text with control characters spelt out (`\x1b`, `\u202e`); tabs and line ends stay."""
    return _UNSAFE.sub(_spell, text.replace("\r\n", "\n"))


def one_line(text: str, width: int = 0) -> str:
    r"""The same on one line; cut to `width` characters where one is given."""
    flat = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return flat if not width or len(flat) <= width else flat[: max(0, width - 3)] + "..."


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def coloured(choice: str = "auto") -> bool:
    """Whether standard output gets colours: `always`, `never`, or `auto` (a terminal)."""
    return choice == "always" or (choice == "auto" and sys.stdout.isatty())


@contextmanager
def pager(colour: str) -> Iterator[str]:
    """On a terminal what is written goes through $PAGER (less, which leaves a single screen as it is), as git does it.

    Yields the choice of colours to go on with: the pager's input is no terminal, its output is.
    """
    command = os.environ.get("PAGER", "less")
    if not sys.stdout.isatty() or command in ("", "cat") or shutil.which(command.split()[0]) is None:
        yield colour
        return
    sys.stdout.flush()
    child = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env={"LESS": "FRX", **os.environ})
    assert child.stdin is not None
    ours = os.dup(1)
    os.dup2(child.stdin.fileno(), 1)
    child.stdin.close()
    try:
        yield "always" if colour == "auto" else colour
        sys.stdout.flush()
    finally:
        # The pager's input ends with its last writer; then it waits for its reader.
        os.dup2(ours, 1)
        os.close(ours)
        child.wait()


def width() -> int:
    """Columns of the terminal; plenty where there is none."""
    return _console("auto").width if sys.stdout.isatty() else 10_000


def line(text: str = "", style: str = "", colour: str = "auto") -> None:
    """One or more lines of text, made visible."""
    text = visible(text)
    if style and coloured(colour):
        from rich.text import Text

        _console(colour).print(Text(text, style=style), soft_wrap=True)
    else:
        _plain(text)


def code(text: str, language: str, colour: str = "auto") -> None:
    """A program, highlighted where colours are wanted."""
    text = visible(text).rstrip("\n")
    if not coloured(colour):
        _plain(text)
        return
    from rich.syntax import Syntax

    lexer = _LEXERS.get(language, language)
    _console(colour).print(Syntax(text, lexer, background_color="default", theme="ansi_dark", word_wrap=True))


def side_by_side(left: str, right: str, language: str, titles: tuple[str, str]) -> bool:
    """Two programs beside each other where the terminal has room; False (nothing shown) where it has not."""
    if not sys.stdout.isatty() or width() < 120:
        return False
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    lexer = _LEXERS.get(language, language)
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(*(Text(visible(title), style="bold") for title in titles))
    shown = (visible(text).rstrip("\n") for text in (left, right))
    grid.add_row(*(Syntax(t, lexer, background_color="default", theme="ansi_dark", word_wrap=True) for t in shown))
    _console("auto").print(grid)
    return True


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", words: Collection[int] = (0,)) -> None:
    """Columns aligned: those in `words` to the left, numbers to the right."""
    cells = [[one_line("" if cell is None else str(cell)) for cell in row] for row in rows]
    lines = [list(header), *cells]
    if not sys.stdout.isatty():
        _plain("\n".join([*([visible(title)] if title else []), *_aligned(lines, words)]))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console("auto")
    if max(map(len, _aligned(lines, words))) + 2 * len(header) > console.width:
        # An interval goes under its figure before a narrow terminal cuts both.
        cells = [[cell.replace(" [", "\n[") for cell in row] for row in cells]
    if _width(header, cells) > console.width:
        cells = [[cell.replace("\n[", " [") for cell in row] for row in cells]
        # Every figure on a line of its own: a number that is cut is another number.
        names = max(map(len, header))
        blocks = [
            "\n".join(f"{name:<{names}}  {cell}" for name, cell in zip(header, row, strict=True)) for row in cells
        ]
        _plain("\n".join([*([visible(title)] if title else []), *blocks]))
        return
    shown = Table(box=box.SIMPLE_HEAD, title=Text(visible(title)) if title else None, title_justify="left")
    for number, name in enumerate(header):
        shown.add_column(Text(name), justify="left" if number in words else "right")
    for row in cells:
        shown.add_row(*map(Text, row))
    console.print(shown)


def _width(header: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Columns that rich needs for all of it; a heading may be wrapped between its words."""
    parts = [[*header[i].split(), *(part for row in cells for part in row[i].split("\n"))] for i in range(len(header))]
    return sum(max(map(len, column), default=0) + 2 for column in parts)


def _aligned(lines: list[list[str]], words: Collection[int]) -> list[str]:
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i in words else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    ]


def _plain(text: str) -> None:
    # A terminal or pipe that is not UTF-8 gets escapes instead of an error.
    if hasattr(sys.stdout, "reconfigure") and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text, flush=True)


def _console(colour: str) -> Any:
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure") and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(
        highlight=False, markup=False, emoji=False, force_terminal=True if colour == "always" else None, soft_wrap=False
    )
