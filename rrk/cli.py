"""The command line: which verbs there are, and the one place where errors and signals become exit codes.

A verb is the function of the same name in rrk/commands/VERB.py (`train-sft` -> rrk/commands/train_sft.py:train_sft). Only
the verb that runs is imported, and only typer and the standard library with it: `rrk --help` must stay instant.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
import signal
import sys
import tomllib
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from rrk import __version__, outputs
from rrk.errors import ClosedOutput, RrkError, Terminated, UsageError

COMMANDS = {
    "problems": "benchmarks (HumanEval, MBPP, EvalPlus, MultiPL-E) become Problem rows",
    "sample": "write n programs a problem with a code model",
    "execute": "run candidates against their problem's tests, in a sandbox",
    "rerank": "score the candidates of each problem and rank them",
    "mine": "pick (passing, failing) pairs worth learning from",
    "train-sft": "fine-tune a code model on correct solutions",
    "train-reranker": "train a reranker on pairs (Bradley-Terry)",
    "train-ppo": "train the generator against a reranker (PPO)",
    "train-fusion": "fit the model that combines all evidence (--method fused)",
    "eval": "pass@k, ranked pass@1, best-of-k, with intervals",
    "compare": "every way of choosing that a file allows, in one table: which to use",
    "show": "look at programs, verdicts and scores",
    "convert": "other tools' files (EvalPlus, MultiPL-E, bigcode, TRL) to rows and back",
    "doctor": "which sandbox layers and languages work here",
}

EXIT_CODES = """exit codes: 0 done, 1 a failure that one can act on, 2 usage, 3 a bad row, 4 done but some rows unjudged,
130 Ctrl-C, 141 closed pipe, 143 TERM"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `rrk ARGV` and exit."""
    # Threads of torch that wait by spinning take the cores from those that work: on a busy machine a hundred times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit code."""
    name = "rrk"
    try:
        signal.signal(signal.SIGTERM, _terminate)
        argv, config = _take_config(argv)
        if not argv or argv[0] in ("-h", "--help") or argv == ["help"]:
            print(_help())
            return 0 if argv else 2
        if argv[0] == "help":
            argv = [argv[1], "--help"]
        if argv[0] in ("-V", "--version"):
            print(f"rrk {__version__}")
            return 0
        if argv[0].partition("=")[0] in ("--show-completion", "--install-completion"):
            _complete(argv)
            return 0
        verb, *rest = argv
        if verb not in COMMANDS:
            near = difflib.get_close_matches(verb, COMMANDS, n=1)
            raise UsageError(f"no command '{verb}'" + (f"; did you mean '{near[0]}'?" if near else "; see rrk --help"))
        name = f"rrk {verb}"
        return _invoke(verb, rest, config)
    except RrkError as error:
        return _fail(name, error, error.exit_code)
    except KeyboardInterrupt as error:
        # A second Ctrl-C while this line is written should not bring a traceback either.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return _fail(name, error, 130, "interrupted")
    except Terminated as error:
        return _fail(name, error, 143, "terminated")
    except (ClosedOutput, BrokenPipeError):
        # Python flushes standard output at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        if told := _lacking(error) or _disk(error):
            return _fail(name, told, told.exit_code)
        line = traceback.format_exception_only(error)[-1].strip()
        return _fail(name, error, 1, f"internal error: {line} (RRK_TRACEBACK=1 shows where; please report it)")


def _complete(argv: Sequence[str]) -> None:
    """`--show-completion [SHELL]` prints the script, `--install-completion [SHELL]` puts it where the shell looks."""
    from pathlib import Path

    from rrk import completion

    option, _, given = argv[0].partition("=")
    shell = given or (argv[1] if len(argv) > 1 else os.path.basename(os.environ.get("SHELL", "")) or "bash")
    if option == "--show-completion":
        print(completion.script(shell, list(COMMANDS)), end="")
        return
    made = completion.install(shell, list(COMMANDS), Path.home())
    print(f"rrk: {made} is written; a new {shell} completes rrk's commands and options", file=sys.stderr)


def _lacking(error: Exception) -> RrkError | None:
    """A package of an extra that is not installed, wherever it was missed."""
    from rrk import machine

    missed = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = next((extra for extra, packages in machine.EXTRAS.items() if missed in packages), None)
    if extra is None:
        return None
    return RrkError(f"this needs {missed}: pip install 'rrk[{extra}]' (in a checkout: '.[{extra}]')")


def _disk(error: Exception) -> RrkError | None:
    """A full disk or a folder that may not be written, wherever it was met: nothing to report to us."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            # Perhaps standard output, which Python would try to flush once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return outputs.failure(error, "writing")
    # Weights are written by libraries in other languages, which keep the number to themselves.
    text = str(error)
    if re.search(
        r"os error (27|28|122)\b|No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing", text
    ):
        return RrkError(f"the disk is full ({text.splitlines()[0]}); make room")
    if re.search(r"os error (13|30)\b", text):
        return UsageError(text.splitlines()[0])
    return None


def _invoke(verb: str, args: list[str], config: dict[str, Any]) -> int:
    import typer

    module = importlib.import_module(f"rrk.commands.{verb.replace('-', '_')}")
    function = getattr(module, {"eval": "eval_"}.get(verb, verb.replace("-", "_")))
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(function)
    command = typer.main.get_command(app)
    names = {parameter.name for parameter in command.params}
    unknown = sorted(set(config.get(verb, {})) - names)
    if unknown:
        raise UsageError(f"--config: [{verb}] has no option '{unknown[0]}'; see rrk {verb} --help")
    defaults = {key: value for key, value in config.get("", {}).items() if key in names} | config.get(verb, {})
    prefix = f"RRK_{verb.replace('-', '_').upper()}"
    try:
        with command.make_context(f"rrk {verb}", args, default_map=defaults, auto_envvar_prefix=prefix) as context:
            command.invoke(context)
    except Exception as error:
        # typer brings its own copy of click in newer versions, so its exceptions are known by shape.
        if type(error).__name__ == "Exit":
            return int(getattr(error, "exit_code", 0))
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            raise UsageError(f"{error.format_message()} (see rrk {verb} --help)") from error
        raise
    return 0


def _take_config(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Split off `--config FILE` wherever it stands; sections are verbs, keys outside sections go to every verb."""
    rest, path = [], os.environ.get("RRK_CONFIG")
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--":
            rest += [argument, *arguments]
        elif argument == "--config":
            path = next(arguments, None)
            if path is None:
                raise UsageError("--config needs a file")
        elif argument.startswith("--config="):
            path = argument.partition("=")[2]
        else:
            rest.append(argument)
    if not path:
        return rest, {}
    try:
        with open(path, "rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config {path}: {error}") from None
    config: dict[str, Any] = {"": {}}
    for key, value in table.items():
        if isinstance(value, dict):
            if key not in COMMANDS:
                raise UsageError(f"--config {path}: no command '{key}'; sections are commands, as in [sample]")
            config[key] = {option.replace("-", "_"): setting for option, setting in value.items()}
        else:
            config[""][key.replace("-", "_")] = value
    return rest, config


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rrk COMMAND [OPTIONS] [INPUT]...",
            "",
            "Sample many programs from a code model, run them safely, rank them, and train the ranker.",
            "Stages read and write JSONL; '-' is standard input or output.",
            "",
            *lines,
            "",
            "  --config FILE   defaults from a TOML file, a section a command; RRK_* variables win over it, flags over both",
            "  --version       print the version",
            "  --show-completion, --install-completion [bash|zsh|fish]   commands and options by the tab key",
            "",
            "rrk COMMAND --help, or rrk help COMMAND, tells the rest.",
            EXIT_CODES,
        ]
    )


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _fail(name: str, error: BaseException, code: int, message: str | None = None) -> int:
    if os.environ.get("RRK_TRACEBACK"):
        traceback.print_exception(error)
    text = message or str(error) or type(error).__name__
    notes = "".join(f"\n{name}: {note}" for note in getattr(error, "__notes__", ()))
    print(f"{name}: {text}{notes}", file=sys.stderr, flush=True)
    return code
