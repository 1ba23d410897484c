"""``memdiff audit``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from memdiff.cli.data_options import (
    DATA,
    add_data_options,
    add_stream_option,
    load_sets,
)
from memdiff.cli.outputs import add_output_options, writing
from memdiff.cli.parser import Parser
from memdiff.cli.progress import bar
from memdiff.cli.settings import Option, Settings
from memdiff.cli.terminal import FAULT_EXIT, shown
from memdiff.features.forms import DESCRIPTOR_FORMS
from memdiff.run.ranks import joined

if TYPE_CHECKING:
    from memdiff.audit import AuditResult

__all__ = ["SETTINGS", "add_arguments", "run"]

SETTINGS = Settings(
    "memdiff.audit.settings:AuditSettings",
    {
        "features": Option(
            "One or several descriptors: auto (what fits the data), "
            f"{', '.join(DESCRIPTOR_FORMS)}.",
            metavar="NAME",
            many=True,
        ),
        "groups": Option(
            "Points that belong together (patients, videos): the column of a table, the folder "
            "of each file, or a regular expression whose first group in the file name is the "
            "label.",
            metavar="COLUMN|folder|REGEX",
        ),
        "drop_overlap": Option(
            "Leave out values that train and held-out share, and the samples on them: for a "
            "split that has leaked."
        ),
        "full": Option(
            "Use all points for the measurements beside the verdict, and not at most 1000."
        ),
        "invariance": Option(
            "Transforms under which a copy is still a copy: flip, rotate90, shift:PIXELS, or "
            "several with commas.",
            metavar="NAMES",
        ),
        "level": Option("False-positive rate of the verdict."),
        "resolution": Option("Copied fraction that should not go unseen."),
        "false_discovery_rate": Option("Level of the flagged list."),
        "duplicate_tolerance": Option(
            "Share of the typical distance of training points up to which two are duplicates."
        ),
        "fail_above": Option(
            "Gate: exit with 1 if the verdict is memorizing and the lower limit of the copied "
            "fraction, or the share of flagged samples, is above.",
            metavar="FRACTION",
        ),
        "seed": Option("The one source of randomness."),
    },
)


def add_arguments(parser: Parser) -> None:
    """Declare the options."""
    required = parser.required_group("required, but with --self-check")
    parser.needed = {"generated", "train", "out"}
    required.add_argument(
        "--generated", type=str | None, default=None, metavar="P", help=f"Samples: {DATA}."
    )
    required.add_argument(
        "--train",
        type=str | None,
        default=None,
        metavar="P",
        help="What the model was trained on.",
    )
    required.add_argument(
        "--out",
        type=str | None,
        default=None,
        metavar="DIR",
        help="Folder for report.html and report.json.",
    )
    parser.add_argument(
        "--heldout",
        type=str | None,
        default=None,
        metavar="P",
        help="Data of the same source that the model has not seen: strongly recommended.",
    )
    SETTINGS.declare(parser)
    parser.add_argument(
        "--cache", type=str | None, default=None, metavar="DIR", help="Keep features here."
    )
    parser.add_argument(
        "--sampler-settings",
        type=str | None,
        default=None,
        metavar="FILE.json",
        help="How the samples were made, for the report; memdiff sample writes such a file.",
    )
    parser.add_argument(
        "--self-check",
        action="store_true",
        help="Audit nothing: measure the error rates and the power of the audit on planted truth.",
    )
    parser.add_argument(
        "--preset",
        type=Literal["quick", "full"],
        default="quick",
        help="Size of the self-check: some five minutes on two cores, or about an hour.",
    )
    add_data_options(parser)
    add_stream_option(parser)
    add_output_options(parser)
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(options: Namespace) -> int:
    """Run the command; returns its exit code."""
    if options.self_check:
        return _self_check(options)
    needed = ("generated", "train", "out")
    if missing := [f"--{name}" for name in needed if options[name] is None]:
        raise ValueError(f"missing {' and '.join(missing)} (see memdiff audit --help)")
    out = Path(options.out)
    cache = [] if options.cache is None else [Path(options.cache)]
    inputs = {name: options[name] for name in ("generated", "train", "heldout")}
    inputs["sampler settings"] = options.sampler_settings
    weights = [part for name in options.features for part in name.split(":")[1:2]]
    inputs |= {f"weights {part}": part for part in weights}
    with writing(
        options,
        inputs=inputs,
        files=[out / "report.html", out / "report.json"],
        apart=cache,
    ):
        return _audit(options)


def _audit(options: Namespace) -> int:
    from memdiff.audit import audit
    from memdiff.features import parse_descriptor, parse_invariance
    from memdiff.run.devices import resolve_device

    # What is wrong with the options is said before anything is loaded.
    features = [name if name == "auto" else parse_descriptor(name) for name in options.features]
    if options.invariance is not None:
        parse_invariance(options.invariance)
    names = tuple(one if isinstance(one, str) else one.name for one in features)
    settings = SETTINGS.of(options, features=names)
    device = resolve_device(options.device)
    sampler_settings = _read_settings(options.sampler_settings)
    out = Path(options.out)
    ranks = joined()
    sources = {"generated": options.generated, "train": options.train}
    if options.heldout is not None:
        sources["heldout"] = options.heldout
    with ranks.one_fate():
        sets = load_sets(options, sources)
    with bar(options.quiet) as progress:
        result = audit(
            generated=sets["generated"],
            train=sets["train"],
            heldout=sets.get("heldout"),
            features=features,
            cache=options.cache,
            device=device,
            sampler_settings=sampler_settings,
            progress=None if progress is None else _stages(progress),
            ranks=ranks,
            **{name: getattr(settings, name) for name in SETTINGS.options if name != "features"},
        )
        if ranks.is_first:
            out.mkdir(parents=True, exist_ok=True)
            result.to_json(out / "report.json")
            result.to_html(out / "report.html")
    _print(result, out, as_json=options.json)
    if result.gate_failed:
        print(
            f"memdiff audit: gate failed: the copied fraction is at least "
            f"{result.decision.copied_low:.2%} and {len(result.flagged)} of "
            f"{len(result.inputs.generated)} samples are flagged, above "
            f"{options.fail_above:.6g} (--fail-above)",
            file=sys.stderr,
        )
        return 1
    return 0


def _self_check(options: Namespace) -> int:
    """The audit audited; the exit code of a fault if it is not as good as its word."""
    import os

    from memdiff.audit import self_check
    from memdiff.run.writing import write_json

    if not joined().is_first:
        return 0  # one process starts its own workers
    with bar(options.quiet) as progress:
        result = self_check(
            preset=options.preset,
            seed=options.seed,
            workers=os.cpu_count() or 1,
            progress=progress,
        )
    if options.out is not None:
        write_json(Path(options.out) / "self_check.json", result.to_dict())
    print(json.dumps(result.to_dict()) if options.json else result.table())
    for problem in result.problems:
        print(f"memdiff audit: {problem}", file=sys.stderr)
    return 0 if result.passed else FAULT_EXIT


def _print(result: AuditResult, out: Path, *, as_json: bool) -> None:
    if as_json:
        whole = result.to_dict()
        summary = {
            key: whole[key]
            for key in ("schema", "verdict", "decision", "copied", "gate", "advice")
        }
        summary["flagged"] = len(result.flagged)
        files = {"html": str(out / "report.html"), "json": str(out / "report.json")}
        print(json.dumps({**summary, "report": files}))
        return
    print(shown(f"{result.verdict}: {result.decision.sentence}"))
    for one in result.advice:
        print(shown(f"- {one.finding} {one.action}"))
    print(shown(f"report: {out / 'report.html'}"))


def _read_settings(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        settings = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"sampler settings ({path}) are no JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"sampler settings ({path}) must be a JSON object of names and values, got a "
            f"{type(settings).__name__}."
        )
    return settings


def _stages(show: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """Finish the bar of a stage that does not report its end when the next one begins."""
    pending: list[tuple[str, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        if pending and pending[0][0] != stage:
            name, whole = pending.pop()
            show(name, whole, whole)
        if ": " in stage and done < total:
            pending[:] = [(stage, total)]
        show(stage, done, total)

    return report
