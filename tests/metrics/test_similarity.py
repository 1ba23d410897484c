import numpy as np
import pytest
import torch

from memdiff.metrics import Distances, maximal_similarity


def test_equals_the_definition(planted):
    data = planted(10, 120)
    generated = data.fresh()
    result = maximal_similarity(
        generated=generated, train=data.train, heldout=data.heldout, threshold=0.7
    )
    unit = torch.nn.functional.normalize
    cosine = unit(generated.double()) @ unit(data.train.double()).T
    torch.testing.assert_close(result.scores, cosine.amax(1))
    assert torch.equal(result.indices, cosine.argmax(1))
    assert result.value == float((cosine.amax(1) > 0.7).double().mean())
    assert result.summary.above == result.value
    assert result.summary.quantile_90 == pytest.approx(np.quantile(cosine.amax(1), 0.9))
    assert result.summary.std == pytest.approx(float(cosine.amax(1).numpy().std()))
    between = unit(data.train.double()) @ unit(data.train.double()).T
    between.fill_diagonal_(-2)
    assert result.background.mean == pytest.approx(float(between.amax(1).mean()))
    assert result.null.value == result.heldout.above
    assert result.null.source == "held-out points"


def test_copies_and_opposites(planted):
    data = planted(64, 200)
    result = maximal_similarity(generated=5 * data.copies(), train=data.train, threshold=0.999)
    assert result.value == 1
    torch.testing.assert_close(result.scores, torch.ones(200, dtype=torch.float64))
    # An opposite vector is no copy (an absolute cosine would say so).
    assert maximal_similarity(generated=-data.train[:1], train=data.train).scores[0] < 0.6


def test_without_heldout_points_the_null_is_the_background(planted):
    data = planted(4, 100)
    result = maximal_similarity(generated=data.fresh(), train=data.train, threshold=0.95)
    assert result.heldout is None
    assert result.null.value == result.background.above
    assert 0 < result.null.value < 1


def test_a_doubled_training_set_shows_in_the_background(planted):
    data = planted(16, 50)
    result = maximal_similarity(generated=data.fresh(), train=torch.cat([data.train] * 2))
    assert result.background.mean == 1


def test_ready_distances_must_be_cosines(planted):
    data = planted(3, 30)
    sets = {"generated": data.fresh(), "train": data.train}
    ready = maximal_similarity(distances=Distances(**sets, metric="cosine"))
    assert torch.equal(ready.scores, maximal_similarity(**sets).scores)
    with pytest.raises(ValueError, match="distances must have metric='cosine'"):
        maximal_similarity(distances=Distances(**sets))
    with pytest.raises(ValueError, match="threshold must lie"):
        maximal_similarity(**sets, threshold=1.5)
    with pytest.raises(ValueError, match="zero vector in row 0"):
        maximal_similarity(generated=torch.zeros(1, 3), train=data.train)
