"""A training run in a folder: data in, model out, watched for memorisation, resumable.

The folder holds ``config.json`` and ``model.safetensors`` (:func:`memdiff.training.load_model`),
``metrics.jsonl``, ``state.safetensors`` (what a resume needs), ``candidates/`` (models that may be
kept), ``samples/`` (what the monitor drew), and after the end ``best.safetensors``,
``report.html``, ``report.json``, ``samples.npz`` and ``audit.html``. Of several processes the
first writes and watches; the others share its batches, and read the folder.

A table is trained on in the unit of its columns (:class:`~memdiff.data.TableEncoding`, which
``config.json`` holds), and its samples are tables in the format of the training data:
``samples.csv`` or ``samples.parquet``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from memdiff.data import (
    Dataset,
    TableEncoding,
    check_comparable,
    save_arrays,
    save_table,
    write_json,
)
from memdiff.data.outputs import require_apart
from memdiff.pace import Forecast, Pace
from memdiff.provenance import provenance
from memdiff.ranks import Ranks
from memdiff.scores.base import Score
from memdiff.training.candidates import Candidates, Choice, choose
from memdiff.training.checkpoints import (
    load_state,
    load_weights,
    read_header,
    save_state,
    save_weights,
)
from memdiff.training.events import Events
from memdiff.training.folder import remove_run, require_free, require_same
from memdiff.training.journal import Journal, read_journal
from memdiff.training.loop import TrainingState, TrainingStep, train
from memdiff.training.model import CONFIG, WEIGHTS, ModelConfig
from memdiff.training.monitor import Monitor
from memdiff.training.objective import Objective, TikhonovPenalty, edm_objective
from memdiff.training.observation import Observation
from memdiff.training.settings import RunSettings

__all__ = ["Ending", "TrainingRun", "train_in_folder"]

BEST, STATE, JOURNAL, SAMPLES, CANDIDATES, EVENTS = (
    "best.safetensors",
    "state.safetensors",
    "metrics.jsonl",
    "samples",
    "candidates",
    "tensorboard",
)
_LARGEST = 1e3  # a weight beyond it, where samples are not finite, says why they are not
_ASSESSMENT = (
    *("report.html", "report.json", "audit.html", "audit.json"),
    *("samples.npz", "samples.csv", "samples.parquet"),
)
FILES = (CONFIG, STATE, JOURNAL, WEIGHTS, BEST, *_ASSESSMENT)
FOLDERS = (SAMPLES, CANDIDATES, EVENTS)
"""All that a run writes into its folder."""

Ending = Literal["steps", "memorization", "time"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """Result of :func:`train_in_folder`.

    Attributes:
        folder: The folder.
        score: The kept model, on the CPU, in evaluation mode.
        ending: ``"steps"``, ``"memorization"`` (stopped), or ``"time"`` (to be gone on with).
        step: Steps done.
        kept_step: Step of the kept model.
        choice: The best model before an onset, ``best.safetensors``.
        monitor: The monitor with its observations, or None where nothing was held out.
        train: The training points that were used.
        heldout: The held-out points, or None.
        encoding: How the rows of a table are encoded for the model, or None.
        split: Whether the held-out points were split off the training data.
        config: How the model is built.
        settings: The settings.
        seconds: Wall time, over all parts of the run.
    """

    folder: Path
    score: Score
    ending: Ending
    step: int
    kept_step: int
    choice: Choice
    monitor: Monitor | None
    train: Dataset
    heldout: Dataset | None
    encoding: TableEncoding | None
    split: bool
    config: ModelConfig
    settings: RunSettings
    seconds: float


def train_in_folder(
    train: Dataset,
    out: str | Path,
    model: Mapping[str, Any] | None = None,
    settings: RunSettings | None = None,
    *,
    heldout: Dataset | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    overwrite: bool = False,
    forecast: Forecast | None = None,
) -> TrainingRun:
    """Train a model on a data set; a call after an interruption goes on where it stopped.

    Args:
        train: Training data.
        out: The folder of the run, new or that of the same run.
        model: Fields of :class:`ModelConfig` other than those that the data determine.
        settings: Settings; ``RunSettings()`` by default.
        heldout: Data of the same source, not trained on; without them a share of ``train``, drawn
            with the seed, is held out.
        device: Where to train.
        progress: Receives (stage, done, total).
        ranks: Processes that share each batch and see the same folder; each makes this call with
            the same arguments. By default this process alone.
        overwrite: Whether to start anew where the folder holds a run, and to remove its files.
        forecast: Where a single process trains for more than two seconds, receives the seconds
            that it will take, once; what it raises ends the call.

    Returns:
        The run, the same on all ranks.

    Raises:
        ValueError: If the data or settings do not fit, the folder holds another run or something
            else, or training diverges.
        ImportError: If TensorBoard is asked for and not installed.
        RankError: If another rank has ended.
    """
    settings = settings or RunSettings()
    folder = Path(out)
    sources = {"train": train.source, "heldout": None if heldout is None else heldout.source}
    require_apart(
        [folder, *(folder / name for name in FILES)],
        sources,
        folders=[folder / name for name in FOLDERS],
    )
    seed = settings.training.seed
    split = heldout is None and settings.heldout_share > 0.0
    if split:
        train.require_at_least(10, "to hold some out: give held-out data, or a heldout_share of 0")
        heldout, train = train.split(settings.heldout_share, seed=seed)
        heldout = heldout.renamed("heldout")
    encoding = TableEncoding.fit(train).require_model(train) if train.kind == "table" else None
    if heldout is not None:
        heldout = heldout if encoding is None else encoding.conform(heldout)
        check_comparable(train, heldout)
    elif settings.stop_on_memorization:
        raise ValueError(
            "stop_on_memorization needs held-out data to tell memorisation from chance: give "
            "held-out data, or a positive heldout_share."
        )
    if settings.augmentation.changes and train.kind != "images":
        raise ValueError(f"augmentation needs images, got training data of kind {train.kind!r}.")
    points = train if encoding is None else encoding.encode(train)
    config = ModelConfig.for_data(points.x, **{"seed": seed, **(model or {})})
    keeper = _Keeper(
        folder,
        config,
        settings,
        train,
        heldout,
        encoding,
        split,
        torch.device(device),
        ranks or Ranks(),
    )
    keeper.overwrite, keeper.forecast = overwrite, forecast
    return keeper.run(progress or (lambda stage, done, total: None))


def save_samples(
    path: Path, x: torch.Tensor, train: Dataset, encoding: TableEncoding | None
) -> Dataset:
    """Write samples in the format of the training data.

    Args:
        path: Where to write arrays; tables get the suffix of the training table, or ``.csv``.
        x: Samples as the model draws them.
        train: The training data.
        encoding: How a table is encoded for the model, or None.

    Returns:
        The samples in the units of the training data.
    """
    if encoding is None:
        path = save_arrays(path, x=x, encoding=train.encoding)
        return Dataset(x, train.kind, train.encoding, name="generated", source=str(path))
    parquet = train.source.lower().endswith(".parquet")
    path = path.with_suffix(".parquet" if parquet else ".csv")
    samples = encoding.decode(x, name="generated", source=str(path))
    save_table(path, samples)
    return samples


class _Keeper:
    """A run and its folder."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        settings: RunSettings,
        train: Dataset,
        heldout: Dataset | None,
        encoding: TableEncoding | None,
        split: bool,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.folder, self.config, self.settings = folder, config, settings
        self.train, self.heldout, self.split = train, heldout, split
        self.encoding = encoding
        score = config.build().to(device)
        self.state = TrainingState(score, settings.training)
        self.candidates = Candidates(folder / CANDIDATES)
        self.data = self._points(train).to(device, torch.float32)
        self.monitor = (
            None
            if heldout is None
            else Monitor(
                self.data,
                self._points(heldout).to(device, torch.float32),
                score.process,
                settings.monitor,
            )
        )
        self.window: list[float] = [0.0, 0.0, 0.0]
        self.seconds = 0.0
        self.ending: Ending | None = None
        self.start = -1  # the last step that the folder holds
        self.overwrite = False
        self.forecast: Forecast | None = None
        self.events: Events | None = None

    def _points(self, data: Dataset) -> torch.Tensor:
        """What the model sees of a set."""
        return data.x if self.encoding is None else self.encoding.encode(data).x

    def run(self, progress: Progress) -> TrainingRun:
        with self.ranks.one_fate():
            self._read()
        if len(set(self.ranks.texts(str(self.start)))) > 1:
            raise ValueError(
                f"out {str(self.folder)!r} is not the same folder for all processes: give one on "
                "a shared file system."
            )
        if self.ranks.is_first:
            with self._nothing_left():
                self._begin()
        started, before = time.perf_counter(), self.seconds
        limit = self.settings.time_limit
        first = self.ranks.is_first
        if first and self.ending is None and self.state.step == 0 and self.monitor is not None:
            with self._nothing_left():
                self._observe()
        steps = self.settings.training.steps
        pace = Pace(self.forecast if self.ranks.count == 1 and limit is None else None)
        begun = self.state.step
        if self.ending in (None, "time", "steps"):
            self.ending = None
            for step in train(
                self.state.score,
                self.data,
                self._objective(),
                self.settings.training,
                state=self.state,
                ranks=self.ranks,
            ):
                progress("training", step.step, steps)
                with self._nothing_left():
                    pace.at((step.step - begun) / (steps - begun))
                self.seconds = before + time.perf_counter() - started
                late = limit is not None and time.perf_counter() - started >= limit
                if first:
                    self._after(step)
                    if late and self.ending is None and step.step < steps:
                        self.ending = "time"
                if self._agree() is not None:
                    break
            self.ending = self.ending or "steps"
            if first:
                self._save()
        choice, kept = self._share(*(self._keep(progress) if first else (Choice(None), 0)))
        if self.events is not None:
            self.events.close()
        score = self.config.build()
        load_weights(score, self.folder / WEIGHTS)
        return TrainingRun(
            folder=self.folder,
            score=score.eval().requires_grad_(False),
            ending=self.ending,
            step=self.state.step,
            kept_step=kept,
            choice=choice,
            monitor=self.monitor,
            train=self.train,
            heldout=self.heldout,
            encoding=self.encoding,
            split=self.split,
            config=self.config,
            settings=self.settings,
            seconds=self.seconds,
        )

    @contextmanager
    def _nothing_left(self) -> Iterator[None]:
        """Remove the files of a run that is given up where it has just begun."""
        try:
            yield
        except BaseException:
            if self.start < 0:
                if self.events is not None:
                    self.events.close()
                remove_run(self.folder, FILES, FOLDERS)
            raise

    def _objective(self) -> Objective:
        c = self.settings.tikhonov
        penalty = TikhonovPenalty(c) if c > 0.0 else None
        augmentation = self.settings.augmentation if self.settings.augmentation.changes else None
        if self.config.process == "edm":
            return edm_objective(
                self.config.sigma_data, penalty=penalty, augmentation=augmentation
            )
        return Objective(penalty=penalty, augmentation=augmentation)

    def _agree(self) -> Ending | None:
        """What the first rank has decided: None to go on."""
        endings = (None, *get_args(Ending))
        code = self.ranks.broadcast(torch.tensor(endings.index(self.ending)))
        self.ending = endings[int(code)]
        return self.ending

    def _after(self, step: TrainingStep) -> None:
        """Log, observe, save as the step asks for; an ending means to stop."""
        settings, number = self.settings, step.step
        last = number == settings.training.steps
        for place, value in enumerate((step.denoising, step.penalty)):
            self.window[place] += value
        self.window[2] += 1
        if number % settings.log_every == 0 or last:
            denoising, penalty, count = self.window
            self.window = [0.0, 0.0, 0.0]
            self._record(
                {
                    "kind": "training",
                    "step": number,
                    "denoising_loss": denoising / count,
                    "penalty": penalty / count,
                    "gradient_norm": step.gradient_norm,
                    "learning_rate": step.learning_rate,
                    "seconds": round(self.seconds, 3),
                }
            )
        if self.monitor is not None and (number % settings.period == 0 or last):
            self._observe()
            if settings.stop_on_memorization and self.monitor.memorizing:
                self.ending = "memorization"
                return
        if number % (settings.save_every or settings.period) == 0:
            self._save()

    def _record(self, record: Mapping[str, Any]) -> None:
        self.journal.append(record)
        if self.events is not None:
            self.events.append(record)

    def _observe(self) -> None:
        assert self.monitor is not None
        step = self.state.step
        try:
            observation = self.monitor.observe(step, self.state.averaged)
        except ValueError as error:
            if self._is_finite():
                raise
            raise ValueError(self._diverged()) from error
        assert observation.samples is not None
        save_samples(
            self.folder / SAMPLES / f"step-{step:08d}.npz",
            observation.samples,
            self.train,
            self.encoding,
        )
        onset = self.monitor.onset
        if step and onset.onset is None and not onset.suspicious:
            self.candidates.add(step, self.state.averaged, onset.best)
        self._record({"kind": "monitor", **observation.to_dict()})

    def _is_finite(self) -> bool:
        """Whether the model answers with numbers, near the data and at the first level."""
        score = self.state.averaged
        x = self.data[:64]
        latents = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
        for t in (score.process.t_max, score.process.time_at_ratio(1.0)):
            noised = score.process.std(t).to(x.device) * latents
            if not bool(score(x + noised.to(x.dtype), float(t)).isfinite().all()):
                return False
        return all(bool(p.abs().max() < _LARGEST) for p in score.parameters() if p.numel())

    def _diverged(self) -> str:
        return (
            f"training has diverged by step {self.state.step}: the network answers with NaN, "
            f"infinity or numbers beyond all measure; lower the learning rate (--lr, now "
            f"{self.settings.training.learning_rate:g}) or clip the gradient (--clip), and start "
            "anew in another folder or with --overwrite."
        )

    def _save(self) -> None:
        facts = {
            "key": self._key(),
            "window": self.window,
            "seconds": self.seconds,
            "ending": self.ending,
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }
        save_state(self.state, self.folder / STATE, facts=facts)

    def _read(self) -> None:
        """Go on from the state in the folder, or start anew."""
        require_free(self.folder, CONFIG, STATE, (*FILES, *FOLDERS))
        path = self.folder / STATE
        if path.is_file() and not self.overwrite:
            try:
                kept = read_header(path)["facts"].get("key", {})
            except (ValueError, KeyError) as error:
                raise ValueError(self._lost(error)) from error
            require_same(self.folder, self._key(), kept)
            try:
                facts = load_state(path, self.state)
            except ValueError as error:
                raise ValueError(self._lost(error)) from error
            self.window, self.seconds = list(facts["window"]), facts["seconds"]
            self.ending = facts["ending"]
            if self.monitor is not None:
                self.monitor.load_state_dict(facts["monitor"])
            self.start = self.state.step
            for _ in read_journal(self.folder / JOURNAL):
                pass  # what is damaged in it is said before anything is written

    def _lost(self, error: Exception) -> str:
        """What a damaged state costs, and how to go on without it."""
        held = [name for name in (WEIGHTS, BEST) if (self.folder / name).is_file()]
        held += [
            f"{CANDIDATES}/step-{step:08d}.safetensors" for step in self.candidates.steps[-1:]
        ]
        left = f" and replaces its models, so copy those first ({', '.join(held)})" if held else ""
        return (
            f"{str(self.folder / STATE)!r} is damaged, and without it the run cannot go on from "
            f"where it was ({error}): move the file away, and the same command starts from "
            f"step 0{left}."
        )

    def _begin(self) -> None:
        """Make the folder that of this run; the first file says whose it is."""
        if self.overwrite:
            remove_run(self.folder, FILES, FOLDERS)
        write_json(
            self.folder / CONFIG,
            {
                "schema": 1,
                "model": self.config.to_dict(),
                "encoding": self.train.encoding,
                "kind": self.train.kind,
                "table": None if self.encoding is None else self.encoding.to_dict(),
                "run": self._key(),
                "provenance": provenance(seed=self.settings.training.seed),
            },
        )
        self.journal = Journal(self.folder / JOURNAL, upto=self.start)
        if self.settings.tensorboard:
            self.events = Events(self.folder / EVENTS, upto=self.start)

    def _key(self) -> dict[str, Any]:
        """What must be equal for a run to go on: all but its length and what follows its end."""
        settings = asdict(self.settings)
        monitor = settings["monitor"]
        monitor["sampler"] = repr(self.settings.monitor.sampler)
        settings["monitor_every"] = self.settings.period
        for name in ("time_limit", "save_every", "log_every", "tensorboard"):
            del settings[name]
        for name in ("confirm", "confirm_level"):
            del monitor[name]
        del settings["training"]["steps"]
        sets = {"train": self.train, "heldout": self.heldout}
        key = {
            "model": self.config.to_dict(),
            "settings": settings,
            "data": {name: None if data is None else data.sha256 for name, data in sets.items()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(key))
        return plain

    def _keep(self, progress: Progress) -> tuple[Choice, int]:
        """Write the weights that the run stands for, and the best ones; returns their steps."""
        choice = Choice(None)
        if self.monitor is not None and self.ending != "time":
            # Without an onset and without the wish to stop at one, the last model is kept anyway.
            asked = self.settings.stop_on_memorization or self.monitor.memorizing
            choice = choose(
                self.monitor, self.candidates, self.config.build, progress, confirm=asked
            )
        best = None
        if choice.step is not None:
            best = self.candidates.load(choice.step, self.config.build())
            save_weights(best, self.folder / BEST, facts={"step": choice.step})
        stopping = self.settings.stop_on_memorization
        if stopping and best is not None and choice.step is not None:
            save_weights(best, self.folder / WEIGHTS, facts={"step": choice.step})
            return choice, choice.step
        save_weights(self.state.averaged, self.folder / WEIGHTS, facts={"step": self.state.step})
        return choice, self.state.step

    def _share(self, choice: Choice, kept: int) -> tuple[Choice, int]:
        """Tell the other ranks what the first one has seen and kept."""
        if self.ranks.count == 1:
            return choice, kept
        known = {
            "seconds": self.seconds,
            "ending": self.ending,
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
            "kept": kept,
            "step": choice.step,
            "confirmed": choice.confirmed,
            "confirmations": [look.to_dict() for look in choice.confirmations],
        }
        found = json.loads(self.ranks.texts(json.dumps(known))[0])
        if self.ranks.is_first:
            return choice, kept
        self.seconds, self.ending = found["seconds"], found["ending"]
        if self.monitor is not None:
            self.monitor.load_state_dict(found["monitor"])
        looks = tuple(Observation.from_dict(look) for look in found["confirmations"])
        return Choice(found["step"], found["confirmed"], looks), found["kept"]
