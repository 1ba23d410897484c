"""``memdiff sample``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from memdiff.cli.consent import add_consent_option, expectation, require_room
from memdiff.cli.data_options import DATA, add_data_options, add_stream_option, load_sets
from memdiff.cli.outputs import add_output_options, writing
from memdiff.cli.parser import Parser
from memdiff.cli.progress import bar
from memdiff.cli.settings import Option, Settings
from memdiff.cli.terminal import shown
from memdiff.cli.wording import as_options
from memdiff.generate.settings import PROCESSES, REGULARIZERS, SAMPLERS, STOPPING_RULES
from memdiff.run.ranks import joined

if TYPE_CHECKING:
    from memdiff.data import Dataset

__all__ = ["SETTINGS", "add_arguments", "run"]

SETTINGS = Settings(
    "memdiff.generate.settings:GenerationSettings",
    {
        # torchrun takes --num for an abbreviation of an option of its own.
        "num": Option("Number of samples.", also=("--num-samples",)),
        "regularizer": Option(
            "What keeps the score from memorising; none returns training data.",
            choices=REGULARIZERS,
        ),
        "strength": Option(
            "Strength of the regularizer: tikhonov c, empirical-bayes log floor, temperature and "
            "early-stop sigma/m, smoothed h, in units of the data, for tables standard "
            "deviations of a column; auto selects it by leave-one-out. early-stop also takes "
            f"{', '.join(STOPPING_RULES)}.",
            metavar="X|auto",
        ),
        "process": Option("Forward process.", choices=tuple(PROCESSES)),
        "sampler": Option("Reverse sampler.", choices=tuple(SAMPLERS)),
        "steps": Option("Steps of a fixed-step sampler."),
        "t_end": Option("Final time; that of the sampler if none."),
        "batch_size": Option("Samples at a time."),
        "seed": Option("The one source of randomness."),
    },
)


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
    SETTINGS.declare(parser)
    add_data_options(parser)
    add_stream_option(parser)
    add_output_options(parser)
    add_consent_option(parser)
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
    from memdiff.generate import generate_to_file
    from memdiff.run.devices import resolve_device

    strength = options.strength
    strength = strength if isinstance(strength, str) else float(strength)
    settings = SETTINGS.of(options, strength=strength)
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
