import pytest
import torch

import memdiff.metrics.distances as module
from memdiff.metrics import Distances, ratio, tolerance_fraction
from memdiff.neighbors import nearest


def test_searches_once(monkeypatch, planted):
    data = planted(3, 40)
    calls = []
    monkeypatch.setattr(
        module, "nearest", lambda *a, **k: (calls.append(a[2]), nearest(*a, **k))[1]
    )
    distances = Distances(generated=data.fresh(), train=data.train, heldout=data.heldout)
    wide = distances.to_train("generated", 5)
    narrow = distances.to_train("generated", 2, distinct=True)  # nothing is duplicated
    assert calls == [5]
    assert torch.equal(narrow.distances, wide.distances[:, :2])
    distances.to_train("generated", 6)
    distances.to_train("heldout")
    distances.to_heldout("generated")
    assert calls == [5, 6, 1, 1]


def test_leave_one_out(planted):
    data = planted(3, 40)
    data.train[7] = data.train[3]
    distances = Distances(generated=data.fresh(), train=data.train, heldout=data.heldout)
    assert distances.to_train("train").indices[[3, 7], 0].tolist() == [7, 3]
    assert (distances.to_train("train", distinct=True).distances > 0).all()
    assert (distances.to_heldout("heldout").distances > 0).all()


def test_metrics_agree_with_and_without_ready_distances(planted):
    data = planted(2, 100)
    sets = {"generated": data.mixed(0.1), "train": data.train, "heldout": data.heldout}
    for metric in (ratio, tolerance_fraction):
        once, ready = metric(**sets), metric(distances=Distances(**sets))
        assert torch.equal(once.scores, ready.scores)
        assert (once.value, once.interval, once.null) == (ready.value, ready.interval, ready.null)


def test_bad_input(planted):
    data = planted(2, 10)
    ready = Distances(generated=data.fresh(), train=data.train)
    with pytest.raises(ValueError, match="distances must not be combined"):
        ratio(distances=ready, train=data.train)
    with pytest.raises(ValueError, match="generated and train must both be given"):
        ratio(generated=data.fresh())
    with pytest.raises(ValueError, match="train must hold at least 2 points"):
        Distances(generated=data.fresh(), train=data.train[:1])
    with pytest.raises(ValueError, match="heldout must have rows of the shape of train"):
        Distances(generated=data.fresh(), train=data.train, heldout=torch.zeros(3, 3))
    for name in ("generated", "train", "heldout"):
        sets = {"generated": data.fresh(), "train": data.train, "heldout": data.fresh()}
        sets[name] = sets[name].clone()
        sets[name][4] = 0
        Distances(**sets)
        with pytest.raises(ValueError, match=f"{name} has a zero vector in row 4"):
            Distances(**sets, metric="cosine")
