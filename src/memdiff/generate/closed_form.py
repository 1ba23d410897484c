"""The closed form as a generative model: a regularised score of centred data, and a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from memdiff.data import Dataset, StreamedDataset
from memdiff.generate.families import EARLY_STOP, EMPIRICAL_BAYES, TEMPERATURE, Family
from memdiff.generate.selection import Selection, regularised
from memdiff.generate.settings import (
    FAMILIES,
    PROCESSES,
    SAMPLERS,
    STOPPING_RULES,
    GenerationSettings,
    named,
)
from memdiff.processes import EDM, ForwardProcess
from memdiff.run.memory import require_memory
from memdiff.run.ranks import Ranks
from memdiff.samplers import Sampler
from memdiff.scores import EmpiricalScore, Score
from memdiff.sources import Rows

__all__ = ["ClosedFormModel", "Progress", "closed_form_model", "family_of"]

Progress = Callable[[str, int, int], None]
"""Receives (stage, done, total)."""


@dataclass(frozen=True)
class ClosedFormModel:
    """A score ready to sample from, in centred coordinates."""

    score: Score
    sampler: Sampler
    t_end: float | None
    centre: Tensor
    strength: float | None
    selection: Selection | None
    warnings: tuple[str, ...]


def closed_form_model(
    train: Dataset,
    settings: GenerationSettings,
    device: torch.device | str,
    progress: Progress | None,
    ranks: Ranks | None,
) -> ClosedFormModel:
    """Build the score that the settings ask for, of centred data, with the strength chosen.

    Args:
        train: Training data: points, or the vectors of a table.
        settings: What is asked.
        device: Where to compute.
        progress: Receives (stage, done, total) of a selection.
        ranks: Processes that share the training points.

    Returns:
        The model.

    Raises:
        ValueError: If the settings do not fit the data or the memory.
    """
    _require_memory(train, settings)
    centred, centre, scale = _centred(train, device)
    process = _process(settings.process, scale)
    empirical = EmpiricalScore(centred, process, ranks=ranks)
    warnings = []
    spread = float(process.ratio(process.t_max)) / scale if scale > 0 else float("inf")
    if spread < 2:
        warnings.append(
            f"sampling starts at {spread:.2g} standard deviations of the data, where the noised "
            "data still differ from the start of the sampler: use the process edm, or scale the "
            "data down."
        )
    score: Score = empirical
    strength: float | None = None
    selection: Selection | None = None
    t_end = settings.t_end
    if settings.regularizer != "none":
        family = family_of(settings.regularizer)
        asked = settings.strength
        if isinstance(asked, str) and asked in STOPPING_RULES:
            asked = float(named(STOPPING_RULES[asked])(empirical))
        score, strength, selection = regularised(
            empirical,
            family,
            "auto" if isinstance(asked, str) else asked,
            seed=settings.seed,
            progress=None if progress is None else lambda i, n: progress("selection", i, n),
        )
        if selection is not None and selection.at_edge:
            warnings.append(
                f"the selected strength {strength:.4g} is at the edge of its grid: the loss may "
                "have its minimum outside."
            )
        if family is TEMPERATURE and t_end is None:
            warnings.append(
                "a temperature, also by the published rule per level, only delays the collapse "
                "onto training points as sigma goes to 0: stop at a positive t_end, or use "
                "another regularizer."
            )
        if family is EMPIRICAL_BAYES and strength < -0.5 * train.x[0].numel():
            warnings.append(
                f"a log floor of {strength:.4g}, below -d/2 = {-0.5 * train.x[0].numel():g}, is "
                "under the kernel sum that a sample has near a training point: most samples "
                "still end there. Use a higher floor, or another regularizer."
            )
        if family is EARLY_STOP:
            score = empirical
            t_end = float(process.time_at_ratio(strength)) if t_end is None else t_end
    return ClosedFormModel(
        score=score,
        sampler=_sampler(settings),
        t_end=t_end,
        centre=centre,
        strength=strength,
        selection=selection,
        warnings=tuple(warnings),
    )


def family_of(name: str) -> Family:
    """Return the family of regularisers with this name."""
    found: Family = named(FAMILIES[name])
    return found


def _process(name: str, scale: float) -> ForwardProcess:
    """The forward process; the levels of EDM are in units of the data."""
    kind = named(PROCESSES[name])
    if kind is EDM:
        unit = scale / 0.5 if scale > 0 else 1.0
        return EDM(sigma_min=0.002 * unit, sigma_max=80.0 * unit)
    process: ForwardProcess = kind()
    return process


def _sampler(settings: GenerationSettings) -> Sampler:
    """The sampler; adaptive ones choose their steps."""
    kind = named(SAMPLERS[settings.sampler])
    has_steps = any(field.name == "steps" for field in fields(kind))
    sampler: Sampler = kind(steps=settings.steps) if has_steps else kind()
    return sampler


def _require_memory(train: Dataset, settings: GenerationSettings) -> None:
    """Refuse samples, a batch or a grid of times that do not fit."""
    values, itemsize = train.x[0].numel(), train.x.dtype.itemsize
    require_memory(
        2 * settings.num * values * itemsize,  # the batches, and all of them together
        f"num={settings.num} samples of shape {tuple(train.shape)}",
        "draw fewer, or several times with other seeds",
    )
    batch = min(settings.batch_size, settings.num)
    require_memory(
        4 * 8 * batch * values, f"batch_size={batch}", "give a smaller one: samples are the same"
    )
    require_memory(4 * 8 * settings.steps, f"steps={settings.steps}", "take fewer steps")


def _centred(train: Dataset, device: torch.device | str) -> tuple[Tensor | Rows, Tensor, float]:
    """Data minus their mean, the mean, and the root mean square of what is left."""
    if isinstance(train, StreamedDataset):
        found = train.x.moments()
        centre = found.mean.reshape(train.shape)
        rows = train.x.map(_Centring(centre, train.x.dtype)).to(device)
        return rows, centre, float((found.scatter.mean() / len(train)).sqrt())
    data = train.x.to(torch.float64)
    centre = data.mean(0)
    centred = (data - centre).to(train.x.dtype).to(device)
    return centred, centre, float(centred.to(torch.float64).pow(2).mean().sqrt())


@dataclass(frozen=True, eq=False)
class _Centring:
    """Subtracts the mean from blocks of points that are on disk."""

    centre: Tensor
    dtype: torch.dtype

    def __call__(self, points: Tensor) -> Tensor:
        return (points.to(torch.float64) - self.centre.to(points.device)).to(self.dtype)
