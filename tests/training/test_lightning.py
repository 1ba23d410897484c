"""The callback in a real trainer, on a model whose memorisation is planted."""

import importlib
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from memdiff.processes import VE
from memdiff.samplers import Heun
from memdiff.scores import EmpiricalScore, GaussianScore
from memdiff.scores.base import Score
from memdiff.training import Monitor, MonitorSettings
from memdiff.training.lightning import MonitorCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec"),
]

D = 8
PROCESS = VE(t_max=1.5)
GENERATOR = torch.Generator().manual_seed(0)
TRAIN, HELDOUT = torch.randn(40, D, generator=GENERATOR), torch.randn(80, D, generator=GENERATOR)
EMPIRICAL = EmpiricalScore(TRAIN, PROCESS)
POPULATION = GaussianScore(torch.zeros(D), 1.0, PROCESS)
RATE = 0.3


class Between(Score):
    """(1 - a) population + a memorising score, with a trained a."""

    def __init__(self, share):
        super().__init__(PROCESS)
        self.share = share

    def forward(self, x, t, y=None):
        share = self.share.clamp(0.0, 1.0)
        return (1 - share) * POPULATION(x, t) + share * EMPIRICAL(x, t)

    def residual(self, x, t, y=None, *, exclude=None):
        share = self.share.clamp(0.0, 1.0)
        return (1 - share) * POPULATION.residual(x, t) + share * EMPIRICAL.residual(x, t)


class Average(Between):
    def __init__(self, share):
        Score.__init__(self, PROCESS)
        self.register_buffer("share", share)


class Model(LightningModule):
    """Each step of the optimizer moves a by RATE towards memorisation."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("ema", torch.tensor(0.0))

    def training_step(self, batch, index):
        return -self.share * batch.mean()

    def optimizer_step(self, *arguments):
        super().optimizer_step(*arguments)
        self.ema.lerp_(self.share.detach(), 0.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=RATE)


def monitor():
    return Monitor(TRAIN, HELDOUT, PROCESS, MonitorSettings(draws=64, sampler=Heun(steps=12)))


def fit(module, callback, folder, *, steps=8, resume=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[callback],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"logger": False, **options},
    )
    trainer.fit(module, DataLoader(torch.ones(8, 1), batch_size=1), ckpt_path=resume)
    return trainer


def driven(shares):
    """The plain monitor on the same models: where it finds the onset and the best."""
    plain = monitor()
    for step, share in enumerate(shares):
        plain.observe(step, Between(torch.tensor(share)))
        if plain.memorizing:
            break
    return plain


def test_stops_at_the_onset_and_keeps_the_best(tmp_path):
    module, callback = Model(), MonitorCallback(monitor(), lambda m: Between(m.share), every=1)
    trainer = fit(module, callback, tmp_path, logger=CSVLogger(tmp_path))
    expected = driven([RATE * step for step in range(9)])
    assert (
        expected.onset.onset is not None and trainer.global_step == len(expected.observations) - 1
    )
    assert trainer.global_step < 8
    assert callback.monitor.onset == expected.onset
    assert callback.best_step == expected.onset.best
    assert module.share.item() == pytest.approx(RATE * expected.onset.best)
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert "memorised fraction/samples" in lines[0]
    assert len(lines) == 1 + len(expected.observations)


def test_watches_the_moving_average(tmp_path):
    """The average is later: its onset is, and what is kept is the average, not the weights."""
    module, callback = Model(), MonitorCallback(monitor(), lambda m: Average(m.ema), every=1)
    trainer = fit(module, callback, tmp_path)
    share, ema, shares = 0.0, 0.0, [0.0]
    for _ in range(8):
        share += RATE
        ema += (share - ema) * 0.5
        shares.append(ema)
    expected = driven(shares)
    assert callback.monitor.onset == expected.onset
    assert module.ema.item() == pytest.approx(shares[expected.onset.best])
    assert module.share.item() == pytest.approx(RATE * trainer.global_step)


@pytest.mark.parametrize(("stop", "restore"), [(False, True), (False, False)])
def test_may_only_watch(tmp_path, stop, restore):
    module = Model()
    callback = MonitorCallback(
        monitor(), lambda m: Between(m.share), every=3, stop=stop, restore=restore
    )
    trainer = fit(module, callback, tmp_path)
    assert trainer.global_step == 8
    steps = [seen.step for seen in callback.monitor.observations]
    assert steps == [0, 3, 6, 8] and callback.monitor.memorizing
    expected = callback.best_step if restore else 8
    assert module.share.item() == pytest.approx(RATE * expected)


def test_accumulated_batches_are_one_step(tmp_path):
    callback = MonitorCallback(monitor(), lambda m: Between(m.share), every=1)
    fit(Model(), callback, tmp_path, steps=2, accumulate_grad_batches=3)
    assert [seen.step for seen in callback.monitor.observations] == [0, 1, 2]


def test_goes_on_from_a_checkpoint(tmp_path):
    first = MonitorCallback(monitor(), lambda m: Between(m.share), every=1)
    fit(Model(), first, tmp_path, steps=2).save_checkpoint(tmp_path / "at2.ckpt")
    module = Model()
    second = MonitorCallback(monitor(), lambda m: Between(m.share), every=1)
    fit(module, second, tmp_path, resume=tmp_path / "at2.ckpt")
    expected = driven([RATE * step for step in range(9)])
    assert second.monitor.onset == expected.onset
    assert module.share.item() == pytest.approx(RATE * expected.onset.best)


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        MonitorCallback(monitor(), lambda m: Between(m.share), every=0)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "memdiff.training.lightning")
    with pytest.raises(ImportError, match=r"pip install 'memdiff\[lightning\]'"):
        importlib.import_module("memdiff.training.lightning")
