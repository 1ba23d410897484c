"""The commands, and what is common to them."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import jsonargparse
from jsonargparse import ActionConfigFile, Namespace

from memdiff.cli import audit, doctor, reproduce, sample, train
from memdiff.cli.parser import Parser, config_file
from memdiff.cli.terminal import FAULT_EXIT, shown
from memdiff.cli.together import Voice, processes
from memdiff.cli.wording import as_options
from memdiff.run.ranks import DEAD_RANK_EXIT, RankError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: Arguments without the program's name; those of the process by default.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what it logs is not for the user
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as by >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with processes() as voice:
            code = _run(given, voice)
    except (ValueError, RankError) as error:  # there are no processes to run in
        sentence = " ".join(str(error).split())
        named = sentence.startswith("memdiff ")
        print(shown(sentence if named else f"memdiff: {sentence}"), file=sys.stderr)
        code = 2 if isinstance(error, ValueError) else DEAD_RANK_EXIT
    except OSError:  # what was wrong could not even be said, as on a full disk
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        code = 2
    raise SystemExit(code)


def _run(arguments: Sequence[str], voice: Voice) -> int:
    parser, commands = _parser()
    for one in (parser, *parser.commands.values()):
        one.given = arguments
    try:
        options = parser.parse_args(arguments)
    except SystemExit:
        voice.silent()  # the parser of the first process has said what is wrong
        raise
    except UnicodeDecodeError as error:
        program = f"memdiff {arguments[0]}" if arguments[0] in commands else "memdiff"
        raise ValueError(
            f"{program}: option file {config_file(arguments)!r} is no text in UTF-8 ({error})"
        ) from error
    name = options.command
    try:
        with _warnings_as_lines(name, quiet=options[name].quiet):
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
    except RankError:
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            traceback.print_exc()
            sentence = (
                f"{type(error).__name__}: {error}: this is a fault of memdiff, not of yours; "
                "please report it with the lines above."
            )
            code = FAULT_EXIT
        else:
            code = 2
            sentence = as_options(" ".join(sentence.split()), options[name].keys())
        voice.say(shown(f"memdiff {name}: {' '.join(sentence.split())}"))
        if isinstance(error, OSError):
            _give_up_output()
    raise SystemExit(code)  # not for the others to be waited for: they may not have failed


def _sentence(error: Exception) -> str | None:
    """What went wrong and is not our fault, or None."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return _out_of_memory(str(error))
    return str(error) if isinstance(error, ValueError | OSError | ImportError) else None


def _out_of_memory(message: str) -> str:
    """What numpy and torch say when memory has run out, in one sentence."""
    from memdiff.run.memory import available_memory, size_text

    asked = re.search(r"allocate (?:memory: you tried to allocate )?([\d.]+) ?(\w*)", message)
    what = f"{asked[1]} {asked[2]}".strip() if asked else "more"
    if asked and asked[2] == "bytes":
        what = size_text(float(asked[1]))
    left = available_memory()
    there = "" if left is None else f", and {size_text(left)} are available"
    return (
        f"there is not enough memory: {what} were asked for{there}; take fewer or smaller points, "
        "samples or layers."
    )


def _give_up_output() -> None:
    """Where standard output cannot be written, Python is not to try once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            sys.stdout.close()


@contextmanager
def _warnings_as_lines(name: str, *, quiet: bool) -> Iterator[None]:
    """Show a warning of memdiff as one line, once; those of its libraries are not for the user.

    Ours are plain UserWarnings. So are many of torch, which gives our lines as their place: they
    say where in torch they come from.
    """
    libraries = str(Path(jsonargparse.__file__).parents[1])  # site-packages
    inside = str(Path(__file__).parents[1])
    said: set[str] = set()

    def show(message: Warning | str, category: object, file: str, *_: object) -> None:
        text = " ".join(str(message).split())
        place = file.startswith(inside) or not file.startswith(libraries)
        ours = place and category is UserWarning and "Triggered internally" not in text
        if ours and not quiet and text not in said:
            said.add(text)
            print(shown(f"memdiff {name}: warning: {text}"), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _parser() -> tuple[Parser, dict[str, Callable[[Namespace], int]]]:
    from memdiff.run.provenance import versions

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
