"""``memdiff sample``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from memdiff.cli.choices import PROCESSES, REGULARIZERS, SAMPLERS, STOPPING_RULES
from memdiff.cli.consent import add_consent_option, expectation, require_room
from memdiff.cli.data_options import DATA, add_data_options, add_stream_option, load_sets
from memdiff.cli.outputs import add_output_options, writing
from memdiff.cli.parser import Parser
from memdiff.cli.progress import bar
from memdiff.cli.terminal import shown
from memdiff.cli.wording import as_options
from memdiff.run.ranks import joined

if TYPE_CHECKING:
    from memdiff.data import Dataset

__all__ = ["add_arguments", "run"]


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    required = parser.required_group()
    required.add_argument("--train", type=str, required=True, metavar="P", help=f"Data: {DATA}.")
    required.add_argument(
        "--out",
        type=str,
        required=True,
        metavar="FILE",
        help="Samples: a .npz with the array x, or for tables a .csv or .parquet; a .json of the "
        "same name beside it holds the settings.",
    )
    # torchrun takes --num for an abbreviation of an option of its own.
    parser.add_argument("--num", "--num-samples", type=int, default=100, help="Number of samples.")
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
        "early-stop sigma/m, smoothed h, in units of the data, for tables standard deviations of "
        "a column; auto selects it by leave-one-out. early-stop also takes "
        f"{', '.join(STOPPING_RULES)}.",
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
    add_data_options(parser)
    add_stream_option(parser)
    add_output_options(parser)
    add_consent_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="The one source of randomness.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
    out = Path(options.out)
    with writing(
        options,
        inputs={"train": options.train},
        files=[out, out.with_suffix(".json")] if out.name else [],
        folders=[out.with_suffix(".partial")] if out.name else [],
        is_folder=False,
    ):
        return _run(options)


def _run(options: Namespace) -> int:
    from memdiff.generate import GenerationSettings, generate_to_file
    from memdiff.run.devices import resolve_device

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
    ranks = joined()
    with ranks.one_fate():
        train = load_sets(options, {"train": options.train})["train"]
        device = resolve_device(options.device)
        size = settings.num * train.x[0].numel() * train.x.dtype.itemsize
        require_room(options, size, f"{settings.num:,} samples")
    with bar(options.quiet) as progress:
        result = generate_to_file(
            train,
            settings,
            options.out,
            device=device,
            progress=progress,
            ranks=ranks,
            forecast=expectation(options, "sample"),
        )
    for warning in result.warnings if not options.quiet else ():
        sentence = as_options(warning, options.keys())
        print(f"memdiff sample: warning: {sentence}", file=sys.stderr)
    if settings.regularizer == "none" and not options.quiet:
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
    if result.encoding is not None and settings.regularizer != "none":
        how += f"; the unit is {result.resolved['unit']}"
    print(f"{settings.num} {_noun(result.samples)} in {shown(options.out)} ({how})")
    return 0


def _noun(samples: Dataset) -> str:
    if samples.kind != "table":
        return f"samples of shape {tuple(samples.shape)}"
    hidden = 0 if samples.completion is None else len(samples.completion.indicators)
    return f"rows of {len(samples.columns) - hidden} columns"
