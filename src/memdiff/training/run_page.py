"""Page of a training run: verdict, curves, samples next to training images, settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from memdiff.audit.page.banner import verdict_banner
from memdiff.data import Dataset, load
from memdiff.neighbors import nearest
from memdiff.report import (
    Banner,
    Callout,
    Document,
    Figure,
    KeyValues,
    Paragraph,
    Section,
    Table,
)
from memdiff.report.document import Block
from memdiff.report.pictures import ImageRow, image_grid
from memdiff.training.assessment import Assessment, summary
from memdiff.training.monitor import Monitor
from memdiff.training.observation import Observation
from memdiff.training.run_folder import SAMPLES
from memdiff.training.run_plots import copy_plot, loss_plot
from memdiff.training.training_run import TrainingRun

__all__ = ["compose"]

_COLUMNS = 8


def compose(run: TrainingRun, assessment: Assessment | None) -> Document:
    """Compose the page of a run.

    Args:
        run: The run.
        assessment: What was found in the samples of the kept model, or None.

    Returns:
        The document.
    """
    sections = [Section("What happened", _story(run), key="story")]
    if run.monitor is not None:
        sections.append(Section("Curves", _curves(run, run.monitor), key="curves"))
        pictures = _checkpoints(run, run.monitor)
        if pictures:
            sections.append(Section("Samples while training", pictures, key="samples"))
    if assessment is not None:
        sections.append(Section("Audit of the kept model", _audit(assessment), key="audit"))
    sections.append(Section("Settings and provenance", _settings(run), key="settings"))
    heldout = "no held-out data" if run.heldout is None else f"{len(run.heldout)} held out"
    return Document(
        "Training report",
        f"{run.config.network} on {len(run.train)} training points of shape "
        f"{tuple(run.train.shape)}, {heldout}; {run.step:,} steps.",
        lead=[_banner(run, assessment)],
        sections=sections,
        footer="The numbers of this page are in `report.json` beside it, the curves in "
        "`metrics.jsonl`.",
    )


def _banner(run: TrainingRun, assessment: Assessment | None) -> Banner:
    facts = {"Steps": f"{run.step:,}", "Kept model": f"step {run.kept_step:,}"}
    if run.monitor is not None:
        onset = run.monitor.onset.onset
        facts["Onset of memorisation"] = "none seen" if onset is None else f"step {onset:,}"
    if assessment is None:
        return Banner("Trained, not audited", _ending(run), "neutral", facts)
    decision = assessment.audit.decision
    facts["Copied fraction"] = (
        f"{decision.copied:.1%} ({decision.copied_low:.1%} to {decision.copied_high:.1%})"
    )
    return verdict_banner(decision, facts, of="The kept model")


def _ending(run: TrainingRun) -> str:
    return {
        "steps": f"The run did all its {run.step:,} steps.",
        "memorization": f"The monitor stopped the run at step {run.step:,}, when the onset of "
        "memorisation was confirmed.",
        "time": f"The time limit ended the run at step {run.step:,} of "
        f"{run.settings.training.steps:,}; the same command goes on.",
    }[run.ending]


def _story(run: TrainingRun) -> list[Block]:
    blocks: list[Block] = [Paragraph(_ending(run))]
    if run.monitor is None:
        note = Callout("No data were held out, so nothing was monitored.", "", "caution")
        return [*blocks, note]
    if run.split:
        blocks.append(
            Paragraph(
                f"No held-out data were given: {len(run.heldout or ())} points, drawn with the "
                f"seed, were held out of the training data; the model saw the other "
                f"{len(run.train)}."
            )
        )
    onset = run.monitor.onset
    last = run.monitor.observations[-1]
    low, high = last.interval
    rows = [
        ("Generalisation reached (tau_gen)", onset.tau_gen, "held-out loss on its plateau"),
        (
            "Closer to train than fresh data (tau_close)",
            onset.tau_close,
            "the audit's test rejects, confirmed",
        ),
        (
            "Copies (tau_mem)",
            onset.tau_mem,
            "more samples than held-out points pass the ratio test, confirmed",
        ),
        (
            "Best model" if onset.onset is None else "Best model before the onset",
            run.choice.step,
            "best.safetensors: smallest held-out loss, confirmed by fresh samples"
            if run.choice.confirmed
            else "best.safetensors: smallest held-out loss",
        ),
        ("Kept model", run.kept_step, "model.safetensors"),
    ]
    blocks.append(Table("Steps", ("What", "Step", "How it is told"), rows))
    blocks.append(
        Paragraph(
            f"At the last look, step {last.step:,}, {last.fraction:.1%} of "
            f"{run.settings.monitor.samples} samples passed the ratio test (95% interval "
            f"{low:.1%} to {high:.1%}; held-out points: {last.null_fraction:.1%}), and "
            f"{last.closer_to_train:.1%} were nearer to training than to held-out points "
            f"(expected without memorisation: {last.null_closer:.1%})."
        )
    )
    blocks.extend(_confirmations(run))
    if run.kept_step != run.choice.step and onset.onset is not None and run.ending == "steps":
        blocks.append(
            Callout(
                "The run went on past the onset, and the last model was kept. The best one before "
                "it is in `best.safetensors`; `--stop-on-memorization` keeps that one.",
                "The kept model is past the onset",
                "caution",
            )
        )
    if run.ending == "memorization" and run.choice.step is None:
        blocks.append(
            Callout(
                "The tests rejected at every look, so there is no earlier model to keep: the last "
                "one was kept. Look more often, or train with a regulariser.",
                "No model before the onset",
                "bad",
            )
        )
    return blocks


def _confirmations(run: TrainingRun) -> list[Block]:
    looks = run.choice.confirmations
    if not looks:
        return []
    settings = run.settings.monitor
    table = Table(
        f"Confirmation by {settings.confirm} fresh samples",
        ("Step", "Ratio test passed", "Nearer to train (expected)", "p (copies)", "p (closeness)"),
        [
            (
                look.step,
                f"{look.fraction:.1%}",
                f"{look.closer_to_train:.1%} ({look.null_closer:.1%})",
                f"{look.p_fraction:.2g}",
                f"{look.p_close:.2g}",
            )
            for look in looks
        ],
        note="The best model first, then those before it, until both p-values are above "
        f"{settings.confirm_level:g}.",
    )
    if run.choice.confirmed:
        return [table]
    warning = Callout(
        "Fresh samples of every model that the looks passed are closer to the training data than "
        "held-out data are; the earliest one was kept. Look more often, with more samples, or "
        "train with a regulariser.",
        "No confirmed model",
        "bad",
    )
    return [table, warning]


def _curves(run: TrainingRun, monitor: Monitor) -> list[Block]:
    seen = monitor.observations
    if len(seen) < 2:
        return [Paragraph("There was one observation only, which makes no curve.")]
    return [
        Paragraph(
            "Every look has the same noise and the same latents, so the curves move by what the "
            "model learns and not by luck. Losses on training and on held-out data separate "
            "before samples are copies [Bo25]: the cheap early warning."
        ),
        Figure(
            "losses",
            loss_plot(run, monitor),
            "Denoising loss per value against the step, at fixed small noise levels: 1 is what "
            "predicting no noise scores. Dotted: excess empirical risk over the score that "
            "memorises, which is 0 for it. Bands: two standard errors of the difference.",
            "Denoising loss on training and held-out data against the training step, one panel a "
            f"noise level. At the last step the held-out loss is {seen[-1].heldout_loss:.3g} and "
            f"the training loss {seen[-1].train_loss:.3g}, averaged over the levels.",
        ),
        Figure(
            "copies",
            copy_plot(run, monitor),
            "Left: share of samples that pass the ratio test, with its 95% interval, and of "
            "held-out points (grey). Right: share of samples nearer to training than to held-out "
            "points; grey is what is expected if the model treats both alike.",
            "Memorised fraction and share of samples nearer to train, against the training step: "
            f"{seen[-1].fraction:.1%} and {seen[-1].closer_to_train:.1%} at the last step.",
        ),
    ]


def _checkpoints(run: TrainingRun, monitor: Monitor) -> list[Block]:
    """Samples of the same latents at up to five steps, each over its nearest training image."""
    if run.train.kind != "images" or run.config.shape[0] not in (1, 3):
        return []
    blocks: list[Block] = [
        Paragraph(
            "The same latents at every look. Under each row of samples are the nearest training "
            "images; a frame marks samples that pass the ratio test, and the number is the ratio "
            "d1/d2 of the distances to the two nearest training images."
        )
    ]
    for observation in _some(monitor.observations, run.kept_step):
        x = _drawn(run, observation)
        if x is None:
            continue
        found = nearest(x, run.train.x.to(x), k=2)
        ratios = found.distances[:, 0] / found.distances[:, 1].clamp_min(1e-300)
        rows = [
            ImageRow(x, "samples", marked=(ratios < run.settings.monitor.threshold).tolist()),
            ImageRow(
                run.train.x[found.indices[:, 0]],
                "nearest train",
                captions=[f"{value:.2f}" for value in ratios.tolist()],
            ),
        ]
        kept = ", kept" if observation.step == run.kept_step else ""
        blocks.append(
            Figure(
                f"samples-{observation.step}",
                image_grid(rows, value_range=_range(run.train)),
                f"Step {observation.step:,}{kept}: {observation.fraction:.0%} of all samples of "
                "this look pass the ratio test.",
                f"Samples at step {observation.step} above their nearest training images.",
            )
        )
    return blocks if len(blocks) > 1 else []


def _some(seen: Sequence[Observation], kept: int) -> list[Observation]:
    """The kept step, the last one, and others spread evenly: five at most."""
    later = [observation for observation in seen if observation.step > 0]
    if len(later) <= 5:
        return list(later)
    places = {round(i * (len(later) - 1) / 3) for i in range(4)}
    places |= {i for i, observation in enumerate(later) if observation.step == kept}
    return [later[place] for place in sorted(places)]


def _drawn(run: TrainingRun, observation: Observation) -> Tensor | None:
    if observation.samples is not None:
        return observation.samples[:_COLUMNS]
    path = run.folder / SAMPLES / f"step-{observation.step:08d}.npz"
    return load(path, key="x").x[:_COLUMNS] if path.is_file() else None


def _range(data: Dataset) -> tuple[float, float]:
    if data.value_range is not None:
        return data.value_range
    low, high = torch.quantile(
        data.x.flatten()[:: max(1, data.x.numel() // 100_000)].double(),
        torch.tensor([0.005, 0.995], dtype=torch.float64),
    ).tolist()
    return low, high if high > low else low + 1.0


def _audit(assessment: Assessment) -> list[Block]:
    result = assessment.audit
    blocks: list[Block] = [
        Paragraph(
            f"{len(assessment.samples)} samples of the kept model, from latents that the monitor "
            f"did not use: {result.decision.sentence} The whole audit is in `audit.html` beside "
            "this page."
        )
    ]
    if result.advice:
        blocks.append(
            Table(
                "Findings and what follows from them",
                ("Finding", "What to do"),
                [(one.finding, one.action) for one in result.advice],
                stacked=True,
            )
        )
    return blocks


def _table(run: TrainingRun) -> dict[str, str]:
    """Describe the encoding of a table."""
    if run.encoding is None:
        return {}
    constant = [one.name for one in run.encoding.columns if one.constant]
    count = len(run.encoding.coordinates)
    return {
        "unit": "one standard deviation of a column; different categories are one unit apart",
        "coordinates": f"{count} of the model, for {len(run.encoding.columns)} columns",
        **({"constant columns": ", ".join(constant)} if constant else {}),
    }


def _settings(run: TrainingRun) -> list[Block]:
    facts = summary(run, None)
    training = run.settings.training
    monitor = run.settings.monitor
    augmented = {f"augment {name}": v for name, v in vars(run.settings.augmentation).items() if v}
    model = {
        name: str(value) if isinstance(value, list) else value
        for name, value in facts["model"].items()
    }
    return [
        KeyValues({**model, "parameters": facts["parameters"]}, "Model"),
        KeyValues({**vars(training), "tikhonov": run.settings.tikhonov, **augmented}, "Training"),
        KeyValues(
            {
                "look every": run.settings.period,
                "noise levels": ", ".join(f"{r:.3g}" for r in facts["settings"]["noise_ratios"])
                if facts["settings"]["noise_ratios"]
                else None,
                **{
                    name: value
                    for name, value in vars(replace(monitor)).items()
                    if isinstance(value, (int, float))
                },
                "sampler": repr(monitor.sampler),
            },
            "Monitor",
        ),
        KeyValues(
            {
                "train": run.train.describe(),
                "heldout": None if run.heldout is None else run.heldout.describe(),
                **_table(run),
                "seconds": round(run.seconds, 1),
                "date": facts["provenance"]["date"],
                "commit": facts["provenance"]["commit"],
                "cpu": facts["provenance"]["cpu"],
            },
            "Data and machine",
        ),
    ]
