"""rrk: sample many programs from a code model, run them safely, rank them, and train the ranker.

The command line is `rrk.cli`; each verb is `rrk/commands/VERB.py` over a domain module that never prints.
"""

__version__ = "0.1.0"
