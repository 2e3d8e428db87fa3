"""`stpipe VERB ...`: finds the verb, runs it, and turns every outcome into an exit code of the contract."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from stpipe import __version__
from stpipe.config.suggest import unknown_name

#: Verb -> what it does, in the order of the help. The module of a verb is stpipe.cli.VERB.
VERBS: dict[str, str] = {
    "train": "compose, validate, prepare data, train, save, evaluate, write card and report",
    "validate": "every check that needs no data and no weights; shows what a configuration resolves to",
    "prepare": "tokenise and cache the data, without accelerator",
    "evaluate": "run evaluators on an existing model",
    "export": "write a model for other runtimes, and verify each export",
    "mine": "find hard negatives for pairs and write them as a data set",
    "compare": "runs against each other: paired tests over the same queries, differences of settings",
    "report": "write the report of a run anew, from the files in its directory",
    "publish": "publish the model of a run to a Hub",
    "track": "send a run, or what is missing of it, to experiment trackers",
    "card": "write the model card of a run or of a saved model anew",
    "fetch": "download every asset that a configuration names, for runs without a network",
    "slurm": "one run as a SLURM job: submit, script, status",
    "list": "recipes and options of each config group, one line each",
    "doctor": "versions, devices, caches, offline switches, what is missing",
}
MODULES = {"list": "listing"}
CONFIG_EXIT = 2
FAILURE_EXIT = 1
INTERRUPTED_EXIT = 130

HELP = """stpipe trains embedding models from YAML.

Usage: stpipe VERB [overrides and flags]

Verbs
{verbs}

Examples
  stpipe train +recipe=dense_quickstart +profile=offline     train on embedded data, nothing is downloaded
  stpipe train +recipe=mnrl_all_nli trainer.batch_size=128   change one key
  stpipe validate +recipe=mnrl_all_nli loss=cosent           why does this not fit together?
  stpipe list loss                                           which losses are there?
  stpipe VERB --help                                         flags and examples of a verb

Flags
  --help, -h           this text
  --version            version of stpipe
  --pdb                debugger at an unexpected error
  -sc install=bash     shell completion: eval "$(stpipe -sc install=bash)" (also zsh, fish)

Exit codes: 0 done, 1 failed in training, 2 configuration, 3 data, 4 gate failed, 5 partly done,
75 preempted (start me again), 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--pdb" in arguments
    arguments = [a for a in arguments if a != "--pdb"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:<10} {text}" for name, text in VERBS.items())
        print(HELP.format(verbs=verbs), end="")
        return 0 if arguments else CONFIG_EXIT
    if arguments[0] == "--version":
        print(f"stpipe {__version__}")
        return 0
    if arguments[0] in ("-sc", "--shell-completion"):
        from stpipe.cli.completion import run_completion

        return run_completion(arguments[1:])
    verb = arguments[0]
    if verb not in VERBS:
        print(f"stpipe: {unknown_name('verb', verb, VERBS)}", file=sys.stderr)
        return CONFIG_EXIT
    return _run(verb, arguments[1:], debug=debug)


def _run(verb: str, arguments: list[str], *, debug: bool) -> int:
    try:
        module = importlib.import_module(f"stpipe.cli.{MODULES.get(verb, verb)}")
        return int(module.run(arguments))
    except KeyboardInterrupt:
        print("stpipe: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT
    except BrokenPipeError:  # the reader of a pipe has seen enough (stpipe list | head)
        sys.stderr.close()
        return 0
    except Exception as error:
        from stpipe.cli.failures import report_failure

        return report_failure(error, command=[verb, *arguments], debug=debug)


if __name__ == "__main__":
    sys.exit(main())
