"""The commands, and what is common to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from jsonargparse import ActionConfigFile, Namespace

from memdiff.cli import audit, doctor, reproduce, sample, train
from memdiff.cli.parser import Parser
from memdiff.cli.together import Voice, processes
from memdiff.ranks import DEAD_RANK_EXIT, RankError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: Arguments without the program's name; those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with processes() as voice:
            code = _run(given, voice)
    except (ValueError, RankError) as error:  # there are no processes to run in
        print(f"memdiff: {error}", file=sys.stderr)
        code = 2 if isinstance(error, ValueError) else DEAD_RANK_EXIT
    raise SystemExit(code)


def _run(arguments: Sequence[str], voice: Voice) -> int:
    parser, commands = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit:
        voice.silent()  # the parser of the first process has said what is wrong
        raise
    name = options.command
    try:
        code = commands[name](options[name])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        voice.say(
            f"memdiff {name}: interrupted; what was finished is kept, the same command goes on."
        )
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        return 0
    except (ValueError, OSError, ImportError) as error:
        voice.say(f"memdiff {name}: {' '.join(_sentence(error).split())}")
        code = 2
    raise SystemExit(code)  # not for the others to be waited for: they may not have failed


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _parser() -> tuple[Parser, dict[str, Callable[[Namespace], int]]]:
    from memdiff.provenance import versions

    parser = Parser(
        prog="memdiff",
        description="Memorisation in generative diffusion models: measure it, explain it, "
        "prevent it.",
        version=versions()["memdiff"],
    )
    subcommands = parser.add_subcommands(dest="command")
    commands: dict[str, Callable[[Namespace], int]] = {}
    for name, summary, example, arguments, run in (
        (
            "reproduce",
            "Run the paper's experiments and show measured next to published values.",
            "memdiff reproduce --preset quick --out reproduction",
            reproduce.add_arguments,
            reproduce.run,
        ),
        (
            "audit",
            "Do the samples memorise the training data? A verdict with its uncertainty.",
            "memdiff audit --generated samples.npz --train images/train --heldout images/test "
            "--out audit",
            audit.add_arguments,
            audit.run,
        ),
        (
            "sample",
            "Draw samples without training, from a (regularised) empirical score.",
            "memdiff sample --train digits --regularizer tikhonov --strength auto "
            "--num 64 --out samples.npz",
            sample.add_arguments,
            sample.run,
        ),
        (
            "train",
            "Train a score network, watched for memorisation.",
            "memdiff train --train images/train --heldout images/test --network unet "
            "--stop-on-memorization --out run",
            train.add_arguments,
            train.run,
        ),
        (
            "doctor",
            "Show versions, devices, threads, optional extras, and where weights are expected.",
            "memdiff doctor",
            doctor.add_arguments,
            doctor.run,
        ),
    ):
        command = Parser(description=f"{summary} Example: {example}")
        arguments(command)
        command.add_argument("--json", action="store_true", help="Print the result as JSON.")
        command.add_argument("--quiet", action="store_true", help="Show no progress.")
        command.add_argument("--config", action=ActionConfigFile, help="A YAML file of options.")
        subcommands.add_subcommand(name, command, help=summary)
        command.prog = f"memdiff {name}"
        parser.commands[name] = command
        commands[name] = run
    return parser, commands
