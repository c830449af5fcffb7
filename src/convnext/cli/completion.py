"""`convnext completion bash|zsh|fish`: a script with which a shell completes verbs, options, their choices and names."""

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field

from convnext.cli import main
from convnext.errors import ConvNextError, nearest

HELP = """usage: convnext completion bash|zsh|fish

Print a script that completes verbs, options and their choices, and the names of recipes, models and released checkpoints.

  convnext completion bash > ~/.local/share/bash-completion/completions/convnext
  convnext completion zsh  > ~/.convnext-completion.zsh        and in ~/.zshrc: source ~/.convnext-completion.zsh
  convnext completion fish > ~/.config/fish/completions/convnext.fish

The names are those of this version: print it again after an update.
"""

SECOND = {
    "data": ("check", "corrupt", "shard", "speed"),
    "report": ("curves", "figure1", "roadmap"),
    "completion": ("bash", "zsh", "fish"),
}
TOPICS = ("models", "peers", "recipes", "recipe", "roadmap", "catalog")


@dataclass
class Verb:
    """Words that may follow a verb.

    Attributes:
        options: every option with its choices, which may be none.
        names: words that the first argument may be, besides files.
    """

    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if argv[0] not in SHELLS or argv[1:]:
        raise ConvNextError(
            f"`convnext completion {' '.join(argv)}`: name one shell.{nearest(argv[0], SHELLS)} There are: {', '.join(SHELLS)}."
        )
    print(SHELLS[argv[0]](verbs()), end="")
    return 0


def verbs() -> dict[str, Verb]:
    """All verbs; the options are those that their --help shows."""
    from convnext import recipes, tasks
    from convnext.weights import catalog

    models, released, of_task = tasks.list_models(), catalog.names(), {r.task: n for n, r in recipes.recipes().items()}
    names = {
        "train": list(recipes.recipes()),
        "info": [*TOPICS, *recipes.recipes(), *models, *released],
        "benchmark": [*models, *released],
        **dict.fromkeys(("evaluate", "predict", "robustness", "export", "convert"), released),
        **SECOND,
    }
    helped = {"train": list(of_task.values()), "data": SECOND["data"], "report": SECOND["report"]}
    found = {}
    for verb in main.VERBS:
        options: dict[str, tuple[str, ...]] = {}
        for words in [[verb, word] for word in helped.get(verb, ())] or [[verb]]:
            options |= options_of(help_text([*words, "--help"]))
        found[verb] = Verb(options, tuple(names.get(verb, ())))
    return found


def help_text(argv: list[str]) -> str:
    """The help that a command prints, on lines that are not broken."""
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        with (
            redirect_stdout(printed),
            redirect_stderr(printed),
            suppress(SystemExit),
        ):  # the parser exits after printing
            main.run(argv)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return printed.getvalue()


def options_of(text: str) -> dict[str, tuple[str, ...]]:
    """Options in a help text, with the choices that stand in braces behind them."""
    found = re.findall(r"(--[a-z][\w.-]*)(?:[ ,]+\[?\{([^{}]*)\})?", text)
    options: dict[str, tuple[str, ...]] = {}
    for option, choices in found:
        options[option] = tuple(choices.split(",")) if choices else options.get(option, ())
    return options


def bash(verbs: dict[str, Verb]) -> str:
    choices = [
        f'    "{verb} {option}") words="{" ".join(words)}" ;;'
        for verb, known in verbs.items()
        for option, words in known.options.items()
        if words
    ]
    options = [f'        {verb}) words="{" ".join(known.options)}" ;;' for verb, known in verbs.items()]
    names = [f'        {verb}) words="{" ".join(known.names)}" ;;' for verb, known in verbs.items() if known.names]
    lines = [
        "# completion of convnext",
        "_convnext() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}" words="" files=""',
        '  case "$verb $prev" in',
        *choices,
        '    *) case "$COMP_CWORD$cur" in',
        f'      1*) words="{" ".join(verbs)}" ;;',
        '      *[0-9]-*) case "$verb" in',
        *options,
        "      esac ;;",
        '      2*) files=yes; case "$verb" in',
        *names,
        "      esac ;;",
        "    esac ;;",
        "  esac",
        "  local IFS=$' \\t\\n'",
        '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        '  if [ -n "$files" ]; then IFS=$\'\\n\'; COMPREPLY+=($(compgen -f -- "$cur")); fi',
        "}",
        "complete -o default -F _convnext convnext",
    ]
    return "\n".join(lines) + "\n"


def zsh(verbs: dict[str, Verb]) -> str:
    return "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" + bash(verbs)


def fish(verbs: dict[str, Verb]) -> str:
    lines = ["# completion of convnext"]
    for verb, known in verbs.items():
        about = main.VERBS[verb].replace("'", "\\'")
        lines.append(f"complete -c convnext -n __fish_use_subcommand -f -a {verb} -d '{about}'")
        seen = f"complete -c convnext -n '__fish_seen_subcommand_from {verb}'"
        if known.names:
            lines.append(f"{seen} -a '{' '.join(known.names)}'")
        for option, words in known.options.items():
            taken = f" -x -a '{' '.join(words)}'" if words else ""
            lines.append(f"{seen} -l {option.removeprefix('--')}{taken}")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
