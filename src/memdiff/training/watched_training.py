"""Training in a folder with a monitor: logging, observing, saving, stopping, the kept model.

Of several processes the first writes and watches; the others share its batches and are told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Literal, get_args

import torch

from memdiff.run.pace import Forecast, Pace
from memdiff.run.ranks import Ranks
from memdiff.training.checkpoints import save_weights
from memdiff.training.loop import TrainingState, TrainingStep, train
from memdiff.training.model import WEIGHTS
from memdiff.training.model_choice import Choice, choose
from memdiff.training.monitor import Monitor
from memdiff.training.observation import Observation
from memdiff.training.run_folder import BEST, SAMPLES, RunFolder, save_samples
from memdiff.training.run_plan import RunPlan

__all__ = ["Ending", "Progress", "WatchedTraining"]

Ending = Literal["steps", "memorization", "time"]
"""Why a run ended: all steps done, memorisation confirmed, or the time limit."""

Progress = Callable[[str, int, int], None]
"""Receives (stage, done, total)."""

_LARGEST = 1e3  # a weight beyond it, where samples are not finite, says why they are not


class WatchedTraining:
    """A run in its folder.

    Args:
        folder: The folder.
        plan: What is trained, on what, and how.
        device: Where to train.
        ranks: Processes that share each batch.
        overwrite: Whether to start anew where the folder holds a run.
        forecast: Receives the seconds that the training will take, once, or None.

    Attributes:
        monitor: The monitor, or None where nothing was held out.
        ending: Why the training ended; None before it has.
        choice: The best model before an onset.
        kept_step: Step of the kept model.
        seconds: Wall time, over all parts of the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        plan: RunPlan,
        device: torch.device,
        ranks: Ranks,
        *,
        overwrite: bool,
        forecast: Forecast | None,
    ) -> None:
        self.folder, self.plan, self.settings = folder, plan, plan.settings
        self.ranks, self.overwrite, self.forecast = ranks, overwrite, forecast
        score = plan.config.build().to(device)
        self.state = TrainingState(score, self.settings.training)
        self.data = plan.points(plan.train).to(device)
        self.monitor: Monitor | None = None
        if plan.heldout is not None:
            heldout = plan.points(plan.heldout).to(device)
            self.monitor = Monitor(self.data, heldout, score.process, self.settings.monitor)
        self.window = [0.0, 0.0, 0.0]
        self.seconds, self.kept_step = 0.0, 0
        self.ending: Ending | None = None
        self.choice = Choice(None)

    def run(self, progress: Progress) -> Ending:
        """Take up the run, train to its end, and write the model that it keeps."""
        with self.ranks.one_fate():
            self._take_up()
        if len(set(self.ranks.texts(str(self.folder.start)))) > 1:
            raise ValueError(
                f"out {str(self.folder.path)!r} is not the same folder for all processes: give "
                "one on a shared file system."
            )
        if self.ranks.is_first:
            with self.folder.nothing_left():
                self.folder.begin(
                    self.plan.description(),
                    overwrite=self.overwrite,
                    tensorboard=self.settings.tensorboard,
                )
                if self.ending is None and self.state.step == 0 and self.monitor is not None:
                    self._observe(self.monitor)
        if self.ending in (None, "time", "steps"):
            self.ending = self._train(progress)
            if self.ranks.is_first:
                self._save()
        if self.ranks.is_first:
            self.choice, self.kept_step = self._keep(progress)
        self._tell()
        self.folder.close()
        assert self.ending is not None
        return self.ending

    def _take_up(self) -> None:
        facts = self.folder.read(self.plan.key(), self.state, overwrite=self.overwrite)
        if facts is not None:
            self.window, self.seconds = list(facts["window"]), facts["seconds"]
            self.ending = facts["ending"]
            if self.monitor is not None:
                self.monitor.load_state_dict(facts["monitor"])

    def _train(self, progress: Progress) -> Ending:
        started, before, begun = time.perf_counter(), self.seconds, self.state.step
        limit, steps = self.settings.time_limit, self.settings.training.steps
        pace = Pace(self.forecast if self.ranks.count == 1 and limit is None else None)
        self.ending = None
        for step in train(
            self.state.score,
            self.data,
            self.plan.objective(),
            self.settings.training,
            state=self.state,
            ranks=self.ranks,
        ):
            progress("training", step.step, steps)
            with self.folder.nothing_left():
                pace.at((step.step - begun) / (steps - begun))
            self.seconds = before + time.perf_counter() - started
            late = limit is not None and time.perf_counter() - started >= limit
            if self.ranks.is_first:
                self._after(step)
                if late and self.ending is None and step.step < steps:
                    self.ending = "time"
            ending = self._agree()
            if ending is not None:
                return ending
        return "steps"

    def _agree(self) -> Ending | None:
        """Return the ending that the first rank has decided on; None to go on."""
        endings = (None, *get_args(Ending))
        code = self.ranks.broadcast(torch.tensor(endings.index(self.ending)))
        return endings[int(code)]

    def _after(self, step: TrainingStep) -> None:
        """Log, observe, save as the step asks for; an ending means to stop."""
        settings, number = self.settings, step.step
        last = number == settings.training.steps
        for place, value in enumerate((step.denoising, step.penalty, 1.0)):
            self.window[place] += value
        if number % settings.log_every == 0 or last:
            denoising, penalty, count = self.window
            self.window = [0.0, 0.0, 0.0]
            self.folder.record(
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
            self._observe(self.monitor)
            if settings.stop_on_memorization and self.monitor.memorizing:
                self.ending = "memorization"
                return
        if number % (settings.save_every or settings.period) == 0:
            self._save()

    def _observe(self, monitor: Monitor) -> None:
        step = self.state.step
        try:
            observation = monitor.observe(step, self.state.averaged)
        except ValueError as error:
            if self._is_finite():
                raise
            raise ValueError(
                f"training has diverged by step {step}: the network answers with NaN, infinity "
                "or numbers beyond all measure; lower the learning rate (--lr, now "
                f"{self.settings.training.learning_rate:g}) or clip the gradient (--clip), and "
                "start anew in another folder or with --overwrite."
            ) from error
        assert observation.samples is not None
        path = self.folder.path / SAMPLES / f"step-{step:08d}.npz"
        save_samples(path, observation.samples, self.plan.train, self.plan.encoding)
        onset = monitor.onset
        if step and onset.onset is None and not onset.suspicious:
            self.folder.candidates.add(step, self.state.averaged, onset.best)
        self.folder.record({"kind": "monitor", **observation.to_dict()})

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

    def _save(self) -> None:
        facts = {
            "key": self.plan.key(),
            "window": self.window,
            "seconds": self.seconds,
            "ending": self.ending,
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }
        self.folder.save(self.state, facts)

    def _keep(self, progress: Progress) -> tuple[Choice, int]:
        """Write the weights that the run stands for, and the best ones; returns their steps."""
        choice, candidates, build = Choice(None), self.folder.candidates, self.plan.config.build
        stopping = self.settings.stop_on_memorization
        if self.monitor is not None and self.ending != "time":
            # Without an onset and without the wish to stop at one, the last model is kept anyway.
            asked = stopping or self.monitor.memorizing
            choice = choose(self.monitor, candidates, build, progress, confirm=asked)
        kept, step = self.state.averaged, self.state.step
        if choice.step is not None:
            best = candidates.load(choice.step, build())
            save_weights(best, self.folder.path / BEST, facts={"step": choice.step})
            if stopping:
                kept, step = best, choice.step
        save_weights(kept, self.folder.path / WEIGHTS, facts={"step": step})
        return choice, step

    def _tell(self) -> None:
        """Tell the other ranks what the first one has seen and kept."""
        if self.ranks.count == 1:
            return
        choice = self.choice
        known = {
            "seconds": self.seconds,
            "ending": self.ending,
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
            "kept": self.kept_step,
            "step": choice.step,
            "confirmed": choice.confirmed,
            "confirmations": [look.to_dict() for look in choice.confirmations],
        }
        found = json.loads(self.ranks.texts(json.dumps(known))[0])
        if self.ranks.is_first:
            return
        self.seconds, self.ending = found["seconds"], found["ending"]
        self.kept_step = found["kept"]
        if self.monitor is not None:
            self.monitor.load_state_dict(found["monitor"])
        looks = tuple(Observation.from_dict(look) for look in found["confirmations"])
        self.choice = Choice(found["step"], found["confirmed"], looks)
