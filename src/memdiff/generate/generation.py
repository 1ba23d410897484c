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
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from memdiff.data import TABLE_SUFFIXES, Dataset, TableEncoding, load, save_table
from memdiff.generate.closed_form import ClosedFormModel, Progress, closed_form_model, family_of
from memdiff.generate.generated import Generated
from memdiff.generate.settings import GenerationSettings
from memdiff.run.outputs import require_apart
from memdiff.run.pace import Forecast, Pace
from memdiff.run.provenance import provenance
from memdiff.run.ranks import Ranks
from memdiff.run.writing import save_arrays, write_json
from memdiff.samplers import sample

__all__ = ["generate", "generate_to_file"]


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
    model = closed_form_model(points, settings, device, progress, ranks)
    pace = Pace(None)
    parts = [
        _sample_batch(model, settings, start, device, progress, pace)
        for start in range(0, settings.num, settings.batch_size)
    ]
    return _collect(train, encoding, settings, model, parts)


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
    model = closed_form_model(points, settings, device, progress, ranks)
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


def _points(train: Dataset) -> tuple[Dataset, TableEncoding | None]:
    """What is modelled: the data themselves, or the vectors of a table."""
    if train.kind != "table":
        return train, None
    encoding = TableEncoding.fit(train).require_model(train)
    return encoding.encode(train), encoding


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


def _sample_batch(
    model: ClosedFormModel,
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
    model: ClosedFormModel,
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
        else family_of(settings.regularizer).parameter,
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
