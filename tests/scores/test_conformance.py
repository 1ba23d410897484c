"""The public conformance suite on every score that is not a regulariser (those have their own)."""

import pytest
import torch

from memdiff.processes import EDM, VE, VP, LinearInterpolant
from memdiff.scores import EmpiricalScore, GaussianMixtureScore, GaussianScore, Stopped, Tikhonov
from memdiff.testing import check_score

PROCESSES = [VE(), VP(), EDM(), LinearInterpolant()]


def data(num=40, shape=(2, 3)):
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(0))


def build(name, process):
    """(score, conditions) of each kind."""
    points = data()
    labels, vectors = torch.arange(40) % 4, torch.linspace(0, 1, 80).reshape(40, 2)
    empirical = EmpiricalScore(points, process)
    mixture = GaussianMixtureScore(
        torch.tensor([0.3, 0.7]), data(2), torch.tensor([0.5, 0.2]), process
    )
    return {
        "empirical": (empirical, None),
        "weighted": (EmpiricalScore(points, process, weights=torch.arange(1.0, 41.0)), None),
        "labels": (EmpiricalScore(points, process, conditions=labels), labels[:6]),
        "vectors": (
            EmpiricalScore(points, process, conditions=vectors, condition_bandwidth=0.2),
            vectors[:6],
        ),
        "stopped": (Stopped(empirical, float(process.time_at_ratio(0.3))), None),
        "conditional tikhonov": (
            Tikhonov(EmpiricalScore(points, process, conditions=labels), 0.1),
            labels[:6],
        ),
        "gaussian": (GaussianScore(data(1)[0], torch.tensor(0.4), process), None),
        "mixture": (mixture, None),
        "mixture component": (mixture, torch.tensor([0, 1, 1, 0, 1, 0])),
    }[name]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        "empirical",
        "weighted",
        "labels",
        "vectors",
        "stopped",
        "conditional tikhonov",
        "gaussian",
        "mixture",
        "mixture component",
    ],
)
def test_every_score_conforms(name, process):
    score, y = build(name, process)
    x = data(6) + 0.1
    check_score(score, x=x, t=float(process.time_at_ratio(0.4)), y=y)
