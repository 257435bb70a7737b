"""Completion of commands, options and files in a shell: `rrk --show-completion SHELL`, `rrk --install-completion`.

The scripts ask `rrk VERB --help` for its options, so they know those of the rrk that is installed.
"""

from __future__ import annotations

from pathlib import Path

from rrk.errors import UsageError

_BASH = r"""_rrk() {
  local word=${COMP_WORDS[COMP_CWORD]}
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "VERBS --help --version --config" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$(rrk "${COMP_WORDS[1]}" --help 2>/dev/null | grep -oE -- '(^|[ ,])--?[a-zA-Z][a-z-]*' | tr -d ' ,')" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -o bashdefault -F _rrk rrk
"""
_FISH = r"""complete -c rrk -n __fish_use_subcommand -f -a "VERBS"
complete -c rrk -n "not __fish_use_subcommand" -a "(rrk (commandline -opc)[2] --help 2>/dev/null | string match -ra -- '(?<![\w-])--[a-z][a-z-]*' | sort -u)"
"""
SHELLS = {"bash": _BASH, "zsh": "autoload -U +X bashcompinit && bashcompinit\n" + _BASH, "fish": _FISH}


def script(shell: str, verbs: list[str]) -> str:
    """The shell's script. UsageError for a shell that there is none for."""
    if shell not in SHELLS:
        raise UsageError(f"completion for '{shell}'? There is one for {', '.join(SHELLS)}")
    return SHELLS[shell].replace("VERBS", " ".join(verbs))


def install(shell: str, verbs: list[str], home: Path) -> Path:
    """Write it where the shell looks by itself (bash, fish), or beside a line in ~/.zshrc; the file written."""
    text = script(shell, verbs)
    places = {
        "bash": ".local/share/bash-completion/completions/rrk",
        "zsh": ".local/share/rrk/completion.zsh",
        "fish": ".config/fish/completions/rrk.fish",
    }
    target = home / places[shell]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    if shell == "zsh":
        line = f"source '{target}'"
        rc = home / ".zshrc"
        before = rc.read_text() if rc.exists() else ""
        if line not in before:
            rc.write_text(before + ("" if not before or before.endswith("\n") else "\n") + line + "\n")
    return target
