"""Training up to looks: resumable, and looks that were kept are not taken twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memdiff.experiments import network_training
from memdiff.experiments.network_sweep import Network
from memdiff.experiments.network_training import train_and_look
from memdiff.training.ensemble import Ensemble

NETWORKS = (Network(0, width=8), Network(1, width=8, parametrization="noise"))


def ensemble() -> Ensemble:
    return Ensemble([network.member() for network in NETWORKS])


def test_an_interrupted_training_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_training, "CHUNK", 15)
    whole, state = ensemble(), tmp_path / "state.safetensors"
    whole.advance(40)
    seen: list[int] = []
    kept: list[int] = []

    class Killed(Exception):
        pass

    def kill(step: int) -> None:
        if step > 30:
            raise Killed

    with pytest.raises(Killed):
        train_and_look(ensemble(), (20, 40), state, lambda step: seen.append(step), kill)
    resumed = ensemble()
    train_and_look(resumed, (20, 40), state, lambda step: seen.append(step), kept.append)
    assert (seen, kept) == ([20, 20, 40], [40])
    resumed.require_step(40)
    with pytest.raises(ValueError, match="step 20 is to be measured"):
        resumed.require_step(20)
    for index in range(2):
        networks = (one.network(index) for one in (whole, resumed))
        for a, b in zip(*(net.parameters() for net in networks), strict=True):
            assert torch.equal(a, b)


def test_a_look_can_end_the_training(tmp_path: Path) -> None:
    one = ensemble()
    train_and_look(one, (5, 10), tmp_path / "state.safetensors", lambda step: step == 5)
    assert one.step == 5
