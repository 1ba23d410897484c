"""Two images and a U-Net: distances, a run that learns, and its continuation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memdiff.data.builtin import rectangles
from memdiff.experiments import rectangles_network
from memdiff.experiments.experiment import Context
from memdiff.experiments.rectangles_network import (
    RectanglesStudy,
    distances,
    images,
    run_study,
    train_seed,
)
from memdiff.training import TrainingStep

STUDY = RectanglesStudy(8, 4, (1, 2, 2), 4, (5, 30), 2, 4)


def test_small_images_are_averages() -> None:
    assert torch.equal(images(64), rectangles().x)
    small = images(8)
    assert small.shape == (2, 1, 8, 8)
    assert torch.allclose(small.mean((1, 2, 3)), rectangles().x.mean((1, 2, 3)))


def test_distance_is_the_root_mean_square_a_pixel() -> None:
    data = images(8)
    x = torch.stack([data[0] + 0.1, data[1] - 0.3])
    assert distances(x, data).tolist() == pytest.approx([0.1, 0.3], rel=1e-5)


@pytest.mark.parametrize(
    ("start", "end", "within"), [(0.5, 0.05, True), (0.0, 0.05, False), (0.5, 0.2, False)]
)
def test_the_verdict_is_that_of_the_distances(
    start: float, end: float, within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = images(8)

    def planted(context: Context, study: RectanglesStudy, seed: int) -> list[dict[str, object]]:
        values = (start * (1 + 0.05 * seed), end)
        return [{"x": (data + value).numpy()} for value in values]

    monkeypatch.setattr(rectangles_network, "train_seed", planted)
    outcome = run_study(Context("paper", 0, tmp_path), STUDY)
    assert outcome.within is within
    assert outcome.measured["distance_per_pixel"][1] == pytest.approx(end, rel=1e-4)
    assert outcome.measured["share_of_copies"] == [float(start <= 0.1), float(end <= 0.1)]


def test_an_interrupted_training_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_seed(Context("quick", 0, tmp_path / "whole"), STUDY, 1)
    halves = Context("quick", 0, tmp_path / "halves")
    train_seed(halves, RectanglesStudy(8, 4, (1, 2, 2), 4, (5,), 2, 4), 1)
    starts, original = [], rectangles_network.train

    def counted(*arguments: Any, **named: Any) -> Iterator[TrainingStep]:
        starts.append(named["state"].step)
        return original(*arguments, **named)

    monkeypatch.setattr(rectangles_network, "train", counted)
    found = train_seed(halves, STUDY, 1)
    assert starts == [5]
    for a, b in zip(whole, found, strict=True):
        assert (a["x"] == b["x"]).all()
    monkeypatch.setattr(rectangles_network, "samples", lambda *_: pytest.fail("sampled twice"))
    train_seed(halves, STUDY, 1)
