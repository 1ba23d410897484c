import pytest
import torch

from memdiff.metrics import Distances
from memdiff.metrics.fidelity import fidelity


def _dense(generated, train, k):
    """The definitions, from whole matrices of direct differences."""

    def between(x, y):
        return (x[:, None] - y[None]).square().sum(-1).sqrt()

    radii = between(train, train).sort(1)[0][:, k]
    own = between(generated, generated).sort(1)[0][:, k]
    pairs = between(generated, train)
    held = pairs <= radii
    return (
        held.any(1).double().mean(),
        (pairs <= own[:, None]).any(0).double().mean(),
        held.double().sum() / (k * len(generated)),
        held.any(0).double().mean(),
    )


@pytest.mark.parametrize("memory_limit", [2**30, 40_000])
def test_against_dense_definitions(planted, memory_limit):
    data = planted(3, 120)
    train = data.train.double()
    generated = (0.8 * torch.cat([data.copies(50), data.fresh(87)])).double()
    generated[:30] = train[:30]
    distances = Distances(generated=generated, train=train, memory_limit=memory_limit)
    result = fidelity(distances=distances, neighbors=3)
    found = (result.precision, result.recall, result.density, result.coverage)
    for ours, theirs in zip(found, _dense(generated, train, 3), strict=True):
        assert ours.value == pytest.approx(float(theirs), abs=1e-12)
        assert ours.value in ours.interval
    assert result.value == result.coverage.value
    assert float(result.covered.double().mean()) == result.coverage.value
    assert float(result.recalled.double().mean()) == result.recall.value


def test_collapse_to_one_real_point(planted):
    """Precision 1 and recall near 0; the other way round if the two are exchanged."""
    data = planted(8, 300)
    result = fidelity(generated=data.train[:1].expand(300, -1), train=data.train)
    assert result.precision.value == 1
    assert result.recall.value == pytest.approx(1 / 300)
    assert result.value < 0.2
    assert result.value < result.null.value - 0.5


def test_copies_look_perfect(planted):
    data = planted(8, 300)
    result = fidelity(generated=data.train, train=data.train)
    assert result.precision.value == result.recall.value == result.value == 1
    assert result.interval.high == 1
    assert result.interval.low > 0.98


def test_narrow_and_wide_samples(planted):
    data = planted(8, 400)
    narrow = fidelity(generated=0.3 * data.fresh(), train=data.train)
    wide = fidelity(generated=3 * data.fresh(), train=data.train)
    assert narrow.precision.value > 0.95 > 0.5 > narrow.recall.value
    assert wide.recall.value > 0.95 > 0.5 > wide.precision.value


@pytest.mark.parametrize(("n", "m"), [(150, 150), (200, 80)])
def test_expectations_and_intervals_on_fresh_samples(planted, n, m):
    density, coverage, hits, recalls = [], [], 0, []
    for seed in range(30):
        data = planted(6, n, seed)
        result = fidelity(generated=data.fresh(m), train=data.train, heldout=data.heldout)
        density.append(result.density.value)
        coverage.append(result.value)
        recalls.append(result.recall.value - result.recall.null.value)
        hits += result.null.value in result.interval
    density, coverage, recalls = (torch.tensor(x) for x in (density, coverage, recalls))
    for values, expected in ((density, 1.0), (coverage, result.null.value), (recalls, 0.0)):
        error = float(values.std()) / 30**0.5
        assert float(values.mean()) == pytest.approx(expected, abs=3.5 * error)
    assert hits >= 27
    assert result.recall.null.source == f"{m} held-out points"


def test_expected_coverage_by_counting():
    """Of two other training points and two samples, the nearest is a sample half of the time."""
    points = torch.tensor([[0.0], [1.0], [5.0]])
    result = fidelity(generated=points[:2] + 0.1, train=points, neighbors=1)
    assert result.null.value == pytest.approx(0.5)
    result = fidelity(generated=points + 0.1, train=points, neighbors=2)
    assert result.null.value == pytest.approx(1 - 2 / 5 * 1 / 4)


def test_duplicates_of_a_real_point_hold_their_copies():
    train = torch.cat([torch.zeros(6, 2), torch.randn(30, 2) + 10])
    result = fidelity(generated=torch.zeros(7, 2), train=train, neighbors=5)
    assert result.precision.value == 1


def test_ties_are_decided_exactly():
    """A sample at the very distance of the k-th neighbour, far from the origin."""
    train = torch.tensor([[1e6], [1e6 + 0.1], [1e6 + 0.3]], dtype=torch.float64)
    sample = train[1:2]
    distances = Distances(generated=sample.repeat(2, 1), train=train)
    result = fidelity(distances=distances, neighbors=1)
    # Radii 0.1, 0.1, 0.2: the middle point lies on the edge of the balls of both others.
    assert result.scores.tolist() == [3.0, 3.0]


def test_bad_input(planted):
    data = planted(2, 10)
    with pytest.raises(ValueError, match="below the number of points of generated 5 and of train"):
        fidelity(generated=data.train[:5], train=data.train)
    few = fidelity(generated=data.fresh(), train=data.train, heldout=data.heldout[:3])
    assert few.recall.null is None
    assert few.precision.null is not None
