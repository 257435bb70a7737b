"""`random` seeds itself anew in every forked child: a tenth of a fork's price, which only programs that use it shall pay.

    load()              # once, in the process that candidates are forked from
    reseed(program)     # in each candidate's own process, before the program's first statement: seed() if drawn_by(program)

A program that gets at the module by a name that its text does not show (or through another module's own use of the shared
generator) draws the same numbers in every run; that is no secret, and no verdict rests on it.
"""

from __future__ import annotations

import os
import re

# Names of the module and of what `from random import *` gives, or what may draw from it; parts of words do no harm.
_USES = re.compile(
    r"random|rand(?:int|range|bytes|bits)|choice|shuffle|sample|uniform|triangular|gauss|variate|NormalDist|__import__|import_module"
)


def load() -> None:
    """Import `random` without its hook."""
    register = os.register_at_fork
    os.register_at_fork = lambda **_: None
    try:
        import random  # noqa: F401
    finally:
        os.register_at_fork = register


def drawn_by(program: str) -> bool:
    """Whether the program's text says that it may use the shared generator."""
    return _USES.search(program) is not None


def seed() -> None:
    """Seed the shared generator from the system."""
    import random

    random.seed()


def reseed(program: str) -> None:
    """seed(), if the program may use it."""
    if drawn_by(program):
        seed()
