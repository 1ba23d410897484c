r"""Generation without training: samples of a regularised empirical score.

The closed form of :mod:`memdiff.scores` is a generative model of its own. Unregularised it
returns its training data, which makes it a positive control; regularised, with a strength that
leave-one-out selection chooses, it draws new points from a smoothed training set.

The data are centred first, and every noise level is in units of the data. Tables are encoded
(:class:`~memdiff.data.TableEncoding`): there the unit of levels and strengths is one standard
deviation of a column, and samples are decoded into rows of the form of the table.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from memdiff.data import (
    TABLE_SUFFIXES,
    Dataset,
    StreamedDataset,
    TableEncoding,
    load,
    save_arrays,
    save_table,
    write_json,
)
from memdiff.data.outputs import require_apart
from memdiff.memory import require_memory
from memdiff.pace import Forecast, Pace
from memdiff.processes import EDM, VE, VP, ForwardProcess, LinearInterpolant
from memdiff.provenance import provenance
from memdiff.ranks import Ranks
from memdiff.samplers import (
    DDIM,
    RK45,
    Euler,
    EulerMaruyama,
    Heun,
    LogTime,
    Sampler,
    sample,
)
from memdiff.scores import (
    EmpiricalScore,
    Score,
    leave_one_out_likelihood,
    scott_bandwidth,
    silverman_bandwidth,
)
from memdiff.selection import (
    EARLY_STOP,
    EMPIRICAL_BAYES,
    FAMILIES,
    TEMPERATURE,
    Family,
    Selection,
    regularised,
)
from memdiff.sources import Rows

__all__ = [
    "PROCESSES",
    "REGULARIZERS",
    "SAMPLERS",
    "STOPPING_RULES",
    "Generated",
    "GenerationSettings",
    "generate",
    "generate_to_file",
]

REGULARIZERS = ("none", *(family.name for family in FAMILIES))
PROCESSES = ("edm", "ve", "vp", "linear")
SAMPLERS = ("heun", "euler", "ddim", "rk45", "logtime", "sde")
STOPPING_RULES: dict[str, Callable[[EmpiricalScore], float]] = {
    "silverman": lambda score: silverman_bandwidth(score.source),
    "scott": lambda score: scott_bandwidth(score.source),
    "likelihood": lambda score: leave_one_out_likelihood(score).best,
}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GenerationSettings:
    r"""What :func:`generate` does.

    Attributes:
        regularizer: One of :data:`REGULARIZERS`.
        strength: A number in the units of the regulariser (see ``memdiff.selection``), ``"auto"``
            for leave-one-out selection, or for ``early-stop`` a rule of :data:`STOPPING_RULES`.
        num: Number of samples.
        process: One of :data:`PROCESSES`. ``"edm"`` spans 0.002/0.5 to 80/0.5 standard deviations
            of the data (the levels of Karras et al. for their data of deviation 0.5); the others
            have the constants of the paper, in units of the data.
        sampler: One of :data:`SAMPLERS`; ``"sde"`` is Euler-Maruyama with eta = 1.
        steps: Steps of a fixed-step sampler; the tolerance of an adaptive one is 1e-5.
        t_end: Final time; None for that of the sampler, or of ``early-stop``.
        seed: Seed of latents, noise and selection. Sample ``i`` depends on it and on ``i`` alone.
        batch_size: Samples integrated together; also the unit in which a run resumes.
    """

    regularizer: str = "none"
    strength: float | str = "auto"
    num: int = 100
    process: str = "edm"
    sampler: str = "heun"
    steps: int = 40
    t_end: float | None = None
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("regularizer", self.regularizer, REGULARIZERS),
            ("process", self.process, PROCESSES),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
        for name, count in (("num", self.num), ("batch_size", self.batch_size)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}.")
        if isinstance(self.strength, str):
            words = ["auto", *(STOPPING_RULES if self.regularizer == EARLY_STOP.name else ())]
            if self.strength not in words:
                raise ValueError(
                    f"strength must be a number or {' or '.join(words)} for the regularizer "
                    f"{self.regularizer}, got {self.strength!r}."
                )
        elif self.regularizer == "none":
            raise ValueError(
                f"strength {self.strength:g} was given with no regularizer: name one of "
                f"{', '.join(REGULARIZERS[1:])}."
            )


@dataclass(frozen=True)
class Generated:
    """Samples and how they were made.

    Attributes:
        samples: Samples of the kind of the training data, ``(num, *S)``, in their units.
        settings: The settings that were asked for.
        resolved: What they came to: strength, process, sampler, final time, seconds, ...
        selection: The leave-one-out curve behind ``strength="auto"``, or None.
        warnings: What a reader should know.
        encoding: How a table was encoded, or None.
    """

    samples: Dataset
    settings: GenerationSettings
    resolved: dict[str, Any]
    selection: Selection | None = None
    warnings: tuple[str, ...] = field(default=())
    encoding: TableEncoding | None = None

    @property
    def x(self) -> Tensor:
        """The samples with shape ``(num, *S)``, in the units and dtype of the training data."""
        return self.samples.x

    def __repr__(self) -> str:
        """One line: how many, of what shape, and how they are kept from memorising."""
        strength = self.resolved.get("strength")
        how = self.settings.regularizer + (
            "" if strength is None else f", strength {strength:.4g}"
        )
        return f"Generated({len(self.x):,} samples of shape {tuple(self.x.shape[1:])}, {how})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        return f"<code>{html.escape(repr(self))}</code>" + (f"<ul>{notes}</ul>" if notes else "")


@dataclass(frozen=True)
class _Model:
    """A score ready to sample from, in centred coordinates."""

    score: Score
    sampler: Sampler
    t_end: float | None
    centre: Tensor
    strength: float | None
    selection: Selection | None
    warnings: tuple[str, ...]


def generate(
    train: Dataset,
    settings: GenerationSettings,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Generated:
    """Draw samples of a regularised empirical score.

    Args:
        train: Training data.
        settings: What to do.
        device: Where to compute.
        progress: Receives (stage, done, total).
        ranks: Processes that share the training points; each makes the same call, and gets the
            samples, which are those of one process up to rounding. By default this process does
            it all.

    Returns:
        The samples, on the CPU.

    Raises:
        ValueError: If the settings do not fit the data (one point where a selection needs two, a
            strength out of range, a table whose rows are all equal).
    """
    points, encoding = _points(train)
    model = _prepare(points, settings, device, progress, ranks)
    pace = Pace(None)
    parts = [
        _sample_batch(model, settings, start, device, progress, pace)
        for start in range(0, settings.num, settings.batch_size)
    ]
    return _collect(train, encoding, settings, model, parts)


def _points(train: Dataset) -> tuple[Dataset, TableEncoding | None]:
    """What is modelled: the data themselves, or the vectors of a table."""
    if train.kind != "table":
        return train, None
    encoding = TableEncoding.fit(train).require_model(train)
    return encoding.encode(train), encoding


def generate_to_file(
    train: Dataset,
    settings: GenerationSettings,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    forecast: Forecast | None = None,
) -> Generated:
    """As :func:`generate`, into ``out`` with the settings beside it.

    ``out`` is a ``.npz`` (array ``x``), or for tables a ``.csv`` or ``.parquet``.
    ``out`` with the suffix ``.json`` holds the settings, what they came to, the selection curve
    and the provenance. Finished batches are kept in ``out`` with the suffix ``.partial`` until
    the end: the same call after an interruption goes on where it stopped. Of several processes
    the first one reads and writes.

    Where a single process samples for more than two seconds, ``forecast`` receives the seconds
    that it will take, once; what it raises ends the call.

    Raises:
        ValueError: If ``out`` has a suffix that does not fit the data or is an input, or as
            :func:`generate`.
        ImportError: If a table is to be written and pandas or pyarrow is not installed.
    """
    out = Path(out)
    partial = out.with_suffix(".partial")
    require_apart([out, out.with_suffix(".json")], {"train": train.source}, folders=[partial])
    _check_suffix(out, train)
    points, encoding = _points(train)
    key = _key(train, encoding, settings)
    ranks = Ranks() if ranks is None else ranks
    model = _prepare(points, settings, device, progress, ranks)
    parts: list[Tensor] = []
    unsaved: dict[Path, int] = {}
    pace = Pace(forecast if ranks.count == 1 else None)
    for start in range(0, settings.num, settings.batch_size):
        path = partial / f"{key}-{start}.npz"
        kept = _kept_batch(path, settings, start, points, model.score.dtype, ranks)
        if kept is not None:
            parts.append(kept)
            continue
        parts.append(_sample_batch(model, settings, start, device, progress, pace))
        if settings.num > settings.batch_size and ranks.is_first:
            unsaved[path] = len(parts) - 1
            if pace.is_told:  # before, the run may yet be given up, and leaves nothing
                for file, index in unsaved.items():
                    save_arrays(file, x=parts[index], encoding="free")
                unsaved.clear()
    result = _collect(train, encoding, settings, model, parts)
    if not ranks.is_first:
        return result
    if out.suffix in TABLE_SUFFIXES:
        save_table(out, result.samples)
    else:
        save_arrays(out, x=result.x, encoding=train.encoding)
    write_json(
        out.with_suffix(".json"),
        {
            "schema": 1,
            "settings": asdict(settings),
            "resolved": result.resolved,
            "selection": None if result.selection is None else result.selection.to_dict(),
            "warnings": list(result.warnings),
            "table": None if encoding is None else encoding.to_dict(),
            "train": {"source": train.source, "sha256": train.sha256, "points": len(train)},
            "provenance": provenance(seed=settings.seed),
        },
    )
    if partial.is_dir():
        for path in partial.glob(f"{key}-*.npz"):
            path.unlink()
        if not any(partial.iterdir()):
            partial.rmdir()
    return result


def _check_suffix(out: Path, train: Dataset) -> None:
    """Whether the samples have a form in this file."""
    fitting = ".csv or .parquet" if train.kind == "table" else ".npz"
    if out.is_dir():
        raise ValueError(f"out {str(out)!r} is a folder: give the name of a {fitting} file in it.")
    plain = not (train.categories or train.forms.keys() - _whole(train) or train.completion)
    suffixes = TABLE_SUFFIXES if train.kind == "table" else ()
    if out.suffix not in (*suffixes, *((".npz",) if plain else ())):
        what = "a table with categories, dates or missing values" if not plain else f"{train.kind}"
        raise ValueError(f"out must name a {fitting} file for {what}, got {str(out)!r}.")


def _whole(train: Dataset) -> set[str]:
    return {name for name, form in train.forms.items() if form in ("integer", "boolean")}


def _kept_batch(
    path: Path,
    settings: GenerationSettings,
    start: int,
    train: Dataset,
    dtype: torch.dtype,
    ranks: Ranks,
) -> Tensor | None:
    """A batch that an earlier run has finished, on every rank, or None on every rank."""
    found = load(path, key="x").x if ranks.is_first and path.is_file() else None
    if ranks.count == 1 or not int(ranks.broadcast(torch.tensor(int(found is not None)))):
        return found
    shape = (min(settings.batch_size, settings.num - start), *train.shape)
    sent = torch.empty(shape, dtype=torch.float64) if found is None else found.to(torch.float64)
    return ranks.broadcast(sent).to(dtype)


def _key(train: Dataset, encoding: TableEncoding | None, settings: GenerationSettings) -> str:
    """Names a run: batches of other settings or data must not be taken for its own."""
    table = [] if encoding is None else [encoding.to_dict()]
    text = json.dumps([asdict(settings), train.sha256, *table], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _prepare(
    train: Dataset,
    settings: GenerationSettings,
    device: torch.device | str,
    progress: Progress | None,
    ranks: Ranks | None,
) -> _Model:
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
        family = _family(settings.regularizer)
        asked = settings.strength
        if isinstance(asked, str) and asked in STOPPING_RULES:
            asked = STOPPING_RULES[asked](empirical)
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
    return _Model(
        score=score,
        sampler=_sampler(settings),
        t_end=t_end,
        centre=centre,
        strength=strength,
        selection=selection,
        warnings=tuple(warnings),
    )


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


def _sample_batch(
    model: _Model,
    settings: GenerationSettings,
    start: int,
    device: torch.device | str,
    progress: Progress | None,
    pace: Pace,
) -> Tensor:
    """Samples ``start, start + 1, ...`` of the run, in the units of the data, on the CPU."""
    num = min(settings.batch_size, settings.num - start)

    def report(done: int, _: int) -> None:
        pace.at((start + done) / settings.num)
        if progress is not None:
            progress("sampling", start + done, settings.num)

    result = sample(
        model.score,
        num=num,
        sampler=model.sampler,
        t_end=model.t_end,
        seed=settings.seed,
        start=start,
        progress=report,
    )
    process = model.score.process
    m = float(process.scale(result.times[-1]))
    x = result.x.to(device="cpu", dtype=torch.float64) / m + model.centre
    return x.to(result.x.dtype)


def _collect(
    train: Dataset,
    encoding: TableEncoding | None,
    settings: GenerationSettings,
    model: _Model,
    parts: list[Tensor],
) -> Generated:
    process = model.score.process
    x = torch.cat(parts)
    samples = (
        Dataset(x, train.kind, train.encoding, name="samples")
        if encoding is None
        else encoding.decode(x)
    )
    resolved = {
        "score": type(model.score).__name__,
        "strength": model.strength,
        "parameter": None
        if settings.regularizer == "none"
        else _family(settings.regularizer).parameter,
        "process": repr(process),
        "sampler": repr(model.sampler),
        "t_end": model.t_end,
        "shape": list(train.shape),
        "num": settings.num,
    }
    if encoding is not None:
        resolved["unit"] = "one standard deviation of a column"
        resolved["coordinates"] = len(encoding.coordinates)
    return Generated(samples, settings, resolved, model.selection, model.warnings, encoding)


def _family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def _process(name: str, scale: float) -> ForwardProcess:
    if name == "edm":
        unit = scale / 0.5 if scale > 0 else 1.0
        return EDM(sigma_min=0.002 * unit, sigma_max=80.0 * unit)
    kinds: dict[str, type[ForwardProcess]] = {"ve": VE, "vp": VP, "linear": LinearInterpolant}
    return kinds[name]()


def _sampler(settings: GenerationSettings) -> Sampler:
    steps = settings.steps
    samplers: dict[Literal["heun"] | str, Callable[[], Sampler]] = {
        "heun": lambda: Heun(steps=steps),
        "euler": lambda: Euler(steps=steps),
        "ddim": lambda: DDIM(steps=steps),
        "sde": lambda: EulerMaruyama(steps=steps),
        "rk45": RK45,
        "logtime": LogTime,
    }
    return samplers[settings.sampler]()
