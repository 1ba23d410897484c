"""``memdiff train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from memdiff.cli.consent import add_consent_option, expectation
from memdiff.cli.data_options import DATA, add_data_options, load_sets
from memdiff.cli.outputs import add_output_options, writing
from memdiff.cli.parser import Parser
from memdiff.cli.progress import bar
from memdiff.cli.settings import Option, Settings
from memdiff.cli.sweep import add_sweep_options, run_seeds
from memdiff.cli.terminal import shown

if TYPE_CHECKING:
    from memdiff.training import Assessment, RunSettings, TrainingRun

__all__ = ["SETTINGS", "add_arguments", "run"]

SETTINGS = Settings(
    "memdiff.training.loop_settings:TrainingSettings",
    {
        "steps": Option("Number of training steps."),
        "batch_size": Option("Points per step."),
        "learning_rate": Option("Learning rate of Adam.", name="lr"),
        "warmup": Option("Steps of linear warm-up."),
        "weight_decay": Option("Decoupled weight decay."),
        "clip": Option("Largest norm of the gradient."),
        "ema": Option("Decay of the averaged weights."),
        "precision": Option("auto: bfloat16 on a GPU that has it."),
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
        metavar="DIR",
        help="Folder of the run; the same command goes on with a run that was interrupted.",
    )
    parser.add_argument(
        "--heldout",
        type=str | None,
        default=None,
        metavar="P",
        help="Data of the same source that is not trained on; by default a share of the training "
        "data, drawn with the seed.",
    )
    parser.add_argument(
        "--heldout-share",
        type=float,
        default=0.2,
        help="That share; 0 trains on everything, with no monitor.",
    )
    _add_model_options(parser)
    _add_loop_options(parser)
    _add_monitor_options(parser)
    add_data_options(parser)
    add_output_options(parser)
    add_consent_option(parser)
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add_sweep_options(parser)


def _add_model_options(parser: Parser) -> None:
    parser.add_argument(
        "--network", type=Literal["mlp", "unet"], default="mlp", help="unet is for images."
    )
    parser.add_argument(
        "--width", type=int | None, default=None, help="Units of a layer; channels of a U-Net."
    )
    parser.add_argument(
        "--depth", type=int | None, default=None, help="Hidden layers; blocks a level of a U-Net."
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="Dropout of a U-Net.")
    parser.add_argument(
        "--process",
        type=Literal["edm", "ve", "vp", "linear"],
        default="edm",
        help="Forward process.",
    )
    parser.add_argument(
        "--parametrization",
        type=Literal["score", "noise", "denoiser", "velocity", "edm"],
        default="edm",
        help="What the network predicts.",
    )


def _add_loop_options(parser: Parser) -> None:
    SETTINGS.declare(parser)
    parser.add_argument(
        "--tikhonov",
        type=float,
        default=0.0,
        metavar="C",
        help="Strength c of the Tikhonov penalty, in squared units of the data; for tables the "
        "unit is one standard deviation of a column.",
    )
    parser.add_argument(
        "--augment-degrees",
        type=float,
        default=0.0,
        metavar="X",
        help="Turn training images at random, by at most so many degrees.",
    )
    parser.add_argument(
        "--augment-shift",
        type=float,
        default=0.0,
        metavar="X",
        help="Shift them, by at most this fraction of a side.",
    )
    parser.add_argument(
        "--augment-zoom",
        type=float,
        default=0.0,
        metavar="X",
        help="Zoom them, by at most this fraction.",
    )
    parser.add_argument(
        "--augment-mirror", action="store_true", help="Mirror half of them left to right."
    )
    parser.add_argument(
        "--time-limit",
        type=float | None,
        default=None,
        metavar="SECONDS",
        help="Save and leave after so long; the same command goes on.",
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="Write the curves for TensorBoard as well."
    )


def _add_monitor_options(parser: Parser) -> None:
    parser.add_argument(
        "--stop-on-memorization",
        action="store_true",
        help="Stop when memorisation sets in, and keep the best model that fresh samples confirm.",
    )
    parser.add_argument(
        "--monitor-every",
        type=int | None,
        default=None,
        metavar="STEPS",
        help="Steps between looks; a twentieth of the steps by default.",
    )
    parser.add_argument(
        "--monitor-samples", type=int, default=64, help="Samples drawn at each look."
    )
    parser.add_argument("--sampler-steps", type=int, default=18, help="Steps of the sampler.")
    parser.add_argument(
        "--audit-samples",
        type=int,
        default=500,
        help="Samples of the kept model for the audit, and before it as many to confirm which "
        "model to keep; 0 for neither.",
    )


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
    _check(options)
    if options.seeds is not None:
        with writing(options, inputs=_inputs(options)):
            return run_seeds(options, _report)
    done, assessment = _train(options)
    _print(done, assessment, as_json=options.json, quiet=options.quiet)
    return 0


def _check(options: Namespace) -> None:
    """What is wrong with the options is said before anything is loaded."""
    if options.audit_samples < 0 or options.audit_samples == 1:
        raise ValueError(f"--audit-samples must be 0 or at least 2, got {options.audit_samples}.")
    if options.seeds is None and (
        options.launcher != "here" or options.jobs is not None or options.launcher_options
    ):
        raise ValueError("--launcher, --jobs and --launcher-options are for --seeds: give it.")
    _settings(options)


def _report(options: Namespace) -> dict[str, Any]:
    """Do one run of several; what it has found, in plain JSON types."""
    from memdiff.training import summary

    return summary(*_train(options))


def _inputs(options: Namespace) -> dict[str, str | None]:
    return {"train": options.train, "heldout": options.heldout}


def _train(options: Namespace) -> tuple[TrainingRun, Assessment | None]:
    from memdiff.training.run_folder import FILES, FOLDERS

    out = Path(options.out)
    with writing(
        options,
        inputs=_inputs(options),
        apart=[out / name for name in FILES],
        folders=[out / name for name in FOLDERS],
    ):
        return _trained(options)


def _trained(options: Namespace) -> tuple[TrainingRun, Assessment | None]:
    from memdiff.run.devices import resolve_device
    from memdiff.run.ranks import joined
    from memdiff.training import train_and_report

    device = resolve_device(options.device)
    sources = {"train": options.train}
    if options.heldout is not None:
        sources["heldout"] = options.heldout
    ranks = joined()
    with ranks.one_fate():
        sets = load_sets(options, sources)
    model = ("network", "width", "depth", "dropout", "process", "parametrization")
    with bar(options.quiet) as progress:
        return train_and_report(
            sets["train"],
            options.out,
            {name: options[name] for name in model},
            _settings(options),
            heldout=sets.get("heldout"),
            device=device,
            progress=progress,
            ranks=ranks,
            overwrite=options.overwrite,
            forecast=expectation(options, "train", runs=options.get("runs", 1)),
        )


def _settings(options: Namespace) -> RunSettings:
    from memdiff.samplers import Heun
    from memdiff.training import (
        AffineAugmentation,
        MonitorSettings,
        RunSettings,
    )

    return RunSettings(
        training=SETTINGS.of(options),
        monitor=MonitorSettings(
            samples=options.monitor_samples,
            confirm=options.audit_samples,
            sampler=Heun(steps=options.sampler_steps),
            seed=options.seed,
        ),
        tikhonov=options.tikhonov,
        augmentation=AffineAugmentation(
            degrees=options.augment_degrees,
            shift=options.augment_shift,
            zoom=options.augment_zoom,
            mirror=options.augment_mirror,
        ),
        monitor_every=options.monitor_every,
        stop_on_memorization=options.stop_on_memorization,
        heldout_share=options.heldout_share,
        time_limit=options.time_limit,
        tensorboard=options.tensorboard,
    )


def _print(
    done: TrainingRun, assessment: Assessment | None, *, as_json: bool, quiet: bool
) -> None:
    folder = shown(str(done.folder))
    if done.split and done.heldout is not None and not quiet:
        print(
            f"memdiff train: note: {len(done.heldout)} of the training points were held out for "
            "the monitor; give --heldout, or --heldout-share 0 to train on everything.",
            file=sys.stderr,
        )
    if as_json:
        from memdiff.training import summary

        whole = summary(done, assessment)
        keys = ("schema", "ending", "step", "kept_step", "verdict", "decision", "onset", "seconds")
        found: dict[str, Any] = {key: whole[key] for key in keys}
        print(json.dumps({**found, "out": str(done.folder)}))
        return
    if done.ending == "time":
        print(f"time limit at step {done.step}; the same command goes on")
    elif done.ending == "memorization":
        print(f"stopped at step {done.step}: memorisation confirmed")
    else:
        print(f"done: {done.step} steps")
    print(f"kept: the model of step {done.kept_step}, {folder}/model.safetensors")
    if done.choice.confirmed is False and done.settings.stop_on_memorization:
        print("no model is confirmed by fresh samples: look more often (--monitor-every)")
    if done.monitor is not None:
        onset = done.monitor.onset.onset
        print(f"onset of memorisation: {'none seen' if onset is None else f'step {onset}'}")
    if assessment is not None:
        print(f"audit: {assessment.audit.verdict}: {assessment.audit.decision.sentence}")
    print(f"report: {folder}/report.html")
