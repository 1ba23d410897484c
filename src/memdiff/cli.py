"""The command line: parse, call, print.

Standard output carries the result, standard error progress and warnings. Exit codes: 0 done, 1 a
gate that the user set failed (or an experiment did), 2 bad usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

if TYPE_CHECKING:
    from memdiff.experiments import Progress

__all__ = ["main"]

_DATA = (
    "a folder of images or videos, a .npz, .npy, .pt, .safetensors, .csv or .parquet file, or a "
    "built-in: digits, mnist5k, rectangles, points20"
)


class _Parser(ArgumentParser):
    """Bad usage is one line on standard error and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        program = self.prog.replace(" [options]", "")
        print(f"{program}: {_usage_sentence(message)} (see {program} --help)", file=sys.stderr)
        raise SystemExit(2)


def _usage_sentence(message: str) -> str:
    """The parser's message in one line, with options as the user writes them."""
    text = " ".join(message.split())
    required = re.fullmatch(r"the following arguments are required: (.+)", text)
    if required:
        names = [f"--{name.split('.')[-1].replace('_', '-')}" for name in required[1].split(", ")]
        return f"missing {' and '.join(names)}"
    value = re.fullmatch(r'Parser key "([\w.]+)": Expected a (.+?)\. Got value: (.*)', text)
    if value:
        name, expected, got = value.groups()
        choices = re.findall(r"'([^']*)'", expected)
        kind = (
            " or ".join(choices) if "Literal" in expected else choices[0] if choices else expected
        )
        return f"--{name.split('.')[-1].replace('_', '-')}: expected {kind}, got {got}"
    union = re.fullmatch(r'Parser key "([\w.]+)": Does not validate .* Given value: (.*)', text)
    if union:
        kinds = re.findall(r"<class '(\w+)'>", text.split("Errors:")[0])
        expected = " or ".join("nothing" if kind == "NoneType" else kind for kind in kinds)
        return (
            f"--{union[1].split('.')[-1].replace('_', '-')}: expected {expected}, got {union[2]}"
        )
    return text.replace("Parser key", "option")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        arguments: Arguments without the program's name; those of the process by default.
    """
    parser, commands = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given or ["--help"])
    name = options.command
    try:
        code = commands[name](options[name])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(
            f"memdiff {name}: interrupted; what was finished is kept, the same command goes on.",
            file=sys.stderr,
        )
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        sys.stderr.close()
        code = 0
    except (ValueError, OSError, ImportError) as error:
        print(f"memdiff {name}: {' '.join(_sentence(error).split())}", file=sys.stderr)
        code = 2
    raise SystemExit(code)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _parser() -> tuple[_Parser, dict[str, Callable[[Namespace], int]]]:
    from memdiff.provenance import versions

    parser = _Parser(
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
            _reproduce_arguments,
            _reproduce,
        ),
        (
            "sample",
            "Draw samples without training, from a (regularised) empirical score.",
            "memdiff sample --train digits --regularizer tikhonov --strength auto "
            "--num 64 --out samples.npz",
            _sample_arguments,
            _sample,
        ),
        (
            "doctor",
            "Show versions, devices, threads, optional extras, and where weights are expected.",
            "memdiff doctor",
            lambda command: None,
            _doctor,
        ),
    ):
        command = _Parser(description=f"{summary} Example: {example}")
        arguments(command)
        command.add_argument("--json", action="store_true", help="Print the result as JSON.")
        command.add_argument("--quiet", action="store_true", help="Show no progress.")
        command.add_argument("--config", action=ActionConfigFile, help="A YAML file of options.")
        subcommands.add_subcommand(name, command, help=summary)
        commands[name] = run
    return parser, commands


def _reproduce_arguments(parser: _Parser) -> None:
    from memdiff.experiments import NAMES

    parser.add_argument(
        "--preset",
        type=Literal["quick", "paper"],
        default="quick",
        help="quick: all in under three minutes on two cores; paper: the paper's sizes.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        type=str,
        default=None,
        metavar="NAME",
        help=f"Run some of the experiments: {', '.join(NAMES)}.",
    )
    parser.add_argument(
        "--out", type=str, required=True, help="Folder for report.html, results.json, figures/."
    )
    parser.add_argument("--seed", type=int, default=0, help="The one source of randomness.")
    parser.add_argument(
        "--device", type=Literal["auto", "cpu"], default="auto", help="Experiments run on the CPU."
    )


def _reproduce(options: Namespace) -> int:
    from memdiff.experiments import ReproductionError, reproduce

    code = 0
    with _experiment_progress(options.quiet) as progress:
        try:
            results = reproduce(
                preset=options.preset,
                only=options.only,
                out=options.out,
                seed=options.seed,
                progress=progress,
            )
        except ReproductionError as error:
            print(f"memdiff reproduce: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(results, indent=1))
        return code
    for name, entry in results["experiments"].items():
        agreement = {True: "agrees", False: "DIFFERS", None: "-"}[entry["within"]]
        print(f"{name:24} {agreement:8} {entry['seconds']:6.1f} s  {entry['finding']}")
    print(f"report: {options.out}/report.html")
    return code


def _sample_arguments(parser: _Parser) -> None:
    from memdiff.generation import PROCESSES, REGULARIZERS, SAMPLERS, STOPPING_RULES

    parser.add_argument("--train", type=str, required=True, metavar="P", help=f"Data: {_DATA}.")
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        metavar="FILE.npz",
        help="Samples, as the array x; FILE.json beside it holds the settings.",
    )
    parser.add_argument("--num", type=int, default=100, help="Number of samples.")
    parser.add_argument(
        "--regularizer",
        type=Literal[REGULARIZERS],
        default="none",
        help="What keeps the score from memorising; none returns training data.",
    )
    parser.add_argument(
        "--strength",
        type=float | str,
        default="auto",
        metavar="X|auto",
        help="Strength of the regularizer: tikhonov c, empirical-bayes log floor, temperature and "
        "early-stop sigma/m, smoothed h; auto selects it by leave-one-out. early-stop also "
        f"takes {', '.join(STOPPING_RULES)}.",
    )
    parser.add_argument(
        "--process",
        type=Literal[PROCESSES],
        default="edm",
        help="Forward process.",
    )
    parser.add_argument(
        "--sampler",
        type=Literal[SAMPLERS],
        default="heun",
        help="Reverse sampler.",
    )
    parser.add_argument("--steps", type=int, default=40, help="Steps of a fixed-step sampler.")
    parser.add_argument(
        "--t-end", type=float | None, default=None, help="Final time; that of the sampler if none."
    )
    parser.add_argument("--batch-size", type=int, default=256, help="Samples at a time.")
    _add_data_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="The one source of randomness.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def _add_data_options(parser: _Parser) -> None:
    parser.add_argument(
        "--limit", type=int | None, default=None, help="Use the first LIMIT points."
    )
    parser.add_argument(
        "--size", type=int | None, default=None, help="Resize images to SIZE x SIZE pixels."
    )
    parser.add_argument(
        "--mode",
        type=Literal["L", "RGB", "RGBA"] | None,
        default=None,
        help="Convert images to grey, RGB or RGBA.",
    )
    parser.add_argument(
        "--key", type=str | None, default=None, help="The array to take from a file of several."
    )


def _sample(options: Namespace) -> int:
    from memdiff.data import load
    from memdiff.doctor import resolve_device
    from memdiff.generation import GenerationSettings, generate_to_file

    strength = options.strength
    settings = GenerationSettings(
        regularizer=options.regularizer,
        strength=strength if isinstance(strength, str) else float(strength),
        num=options.num,
        process=options.process,
        sampler=options.sampler,
        steps=options.steps,
        t_end=options.t_end,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    train = load(
        options.train,
        name="train",
        limit=options.limit,
        size=options.size,
        mode=options.mode,
        key=options.key,
    )
    device = resolve_device(options.device)
    with _bar(options.quiet) as progress:
        result = generate_to_file(train, settings, options.out, device=device, progress=progress)
    for warning in result.warnings:
        print(f"memdiff sample: warning: {warning}", file=sys.stderr)
    if settings.regularizer == "none":
        print(
            "memdiff sample: note: the unregularised empirical score returns training data; "
            "choose a --regularizer for samples that do not.",
            file=sys.stderr,
        )
    if options.json:
        selection = None if result.selection is None else result.selection.to_dict()
        print(json.dumps({"out": options.out, **result.resolved, "selection": selection}))
        return 0
    how = settings.regularizer
    if result.resolved["strength"] is not None:
        how += f", strength {result.resolved['strength']:.4g} ({result.resolved['parameter']})"
    print(f"{settings.num} samples of shape {tuple(train.shape)} in {options.out} ({how})")
    return 0


def _doctor(options: Namespace) -> int:
    from memdiff.doctor import examine

    found = examine()
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    print("versions  " + ", ".join(f"{name} {v}" for name, v in found["versions"].items()))
    print(f"machine   {found['platform']}")
    print(
        f"cpu       {found['cpu']}, {found['cores']} cores, {found['threads']} threads in use, "
        f"{found['memory_gib']} GiB"
    )
    print(f"devices   {', '.join(found['devices'])}")
    for name, extra in found["extras"].items():
        state = "installed" if extra["installed"] else f"missing: {extra['install']}"
        print(f"extra     {name}: {extra['for']} - {state}")
    print(f"weights   {found['weights']}")
    return 0


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar a stage on standard error; None where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


@contextmanager
def _experiment_progress(quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Bars for the experiments: all of them, and the running one."""
    with _bar(quiet) as bar:
        if bar is None:
            yield None
            return

        def report(event: Progress) -> None:
            bar(
                "experiments", event.index + (event.status in ("finished", "resumed")), event.total
            )
            if event.fraction is not None:
                bar(event.experiment, round(100 * event.fraction), 100)

        yield report
