import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control

from memdiff.metrics import benjamini_hochberg, conformal, conformal_local


def test_p_values_by_hand():
    train = torch.tensor([[0.0], [1000.0]])
    heldout = torch.tensor([[1.0], [2.0], [2.0], [3.0]])
    result = conformal(
        generated=torch.tensor([[0.5], [1.0], [2.0], [9.0]]), train=train, heldout=heldout
    )
    # Ties count against the sample.
    assert result.p_values.tolist() == pytest.approx([0.2, 0.4, 0.8, 1.0])


def test_local_p_values_by_hand():
    train, heldout = torch.tensor([[0.0], [100.0]]), torch.tensor([[2.0], [3.0], [10.0]])
    result = conformal_local(generated=torch.tensor([[1.5], [0.0]]), train=train, heldout=heldout)
    # Held-out statistics: 2/1, 3/1, 10/7.
    assert result.scores.tolist() == pytest.approx([3.0, 0.0])
    assert result.p_values.tolist() == pytest.approx([1.0, 0.25])
    both = conformal_local(generated=heldout[:1], train=heldout, heldout=heldout)
    assert both.scores.tolist() == [1.0]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.4])
def test_benjamini_hochberg_equals_scipy(rate):
    rng = np.random.default_rng(0)
    for m in (1, 7, 300):
        for power in (1, 4):
            p = rng.random(m) ** power
            expected = false_discovery_control(p) <= rate
            assert benjamini_hochberg(torch.from_numpy(p), rate).tolist() == expected.tolist()


def test_a_tie_with_the_line_is_rejected():
    # 3 * 0.1 is not 0.3 in binary: the last digit must not decide.
    p = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert benjamini_hochberg(p, 0.3).all()


@pytest.mark.parametrize("test", [conformal, conformal_local])
@pytest.mark.parametrize("d", [2, 16])
def test_p_values_are_valid_on_fresh_draws(planted, test, d):
    """One sample a data set, so that the p-values are independent."""
    p = []
    for seed in range(500):
        data = planted(d, 40, seed)
        p.append(
            float(test(generated=data.fresh(1), train=data.train, heldout=data.heldout).p_values)
        )
    p = np.array(p)
    for level in (0.01, 0.05, 0.1, 0.5):
        assert (p <= level).mean() <= level + 3 * (level / 500) ** 0.5
    assert (p <= 0.5).mean() >= 0.35


@pytest.mark.parametrize("test", [conformal, conformal_local])
def test_the_false_discovery_rate_holds_with_planted_copies(planted, test):
    false_share, found = [], []
    for seed in range(60):
        data = planted(8, 200, seed)
        result = test(
            generated=data.mixed(0.1),
            train=data.train,
            heldout=data.heldout,
            false_discovery_rate=0.2,
        )
        flagged = int(result.flagged.sum())
        false_share.append(int(result.flagged[20:].sum()) / max(flagged, 1))
        found.append(bool(result.flagged[:20].all()))
        assert result.value == flagged / 200
    error = np.std(false_share) / 60**0.5
    assert np.mean(false_share) <= 0.2 + 3 * error
    assert np.mean(found) > 0.9


def test_the_list_of_one_percent_copies_holds_them(planted):
    data = planted(32)
    generated = data.mixed(0.01)
    result = conformal(generated=generated, train=data.train, heldout=data.heldout)
    assert result.flagged[:10].all()
    assert (data.train[result.indices[:10]] == generated[:10]).all()
    assert int(result.flagged.sum()) >= result.least_flagged == 10


def test_no_list_is_possible_with_too_few_heldout_points(planted):
    data = planted(4, 100)
    result = conformal(generated=data.mixed(0.05), train=data.train, heldout=data.heldout[:20])
    assert result.least_flagged == 48
    assert not result.flagged.any()


def test_the_local_scale_spares_typical_samples(planted):
    # Too little variance, no copies: the raw statistic flags the centre of the cloud.
    data = planted(32)
    sets = {"generated": 0.3 * data.fresh(), "train": data.train, "heldout": data.heldout}
    assert conformal(**sets).value > 0.3
    assert conformal_local(**sets).value < 0.02


def test_bad_input(planted):
    data = planted(2, 20)
    sets = {"generated": data.fresh(), "train": data.train}
    with pytest.raises(ValueError, match="heldout must be given for conformal"):
        conformal(**sets)
    with pytest.raises(ValueError, match="heldout must be given for conformal"):
        conformal_local(**sets)
    with pytest.raises(ValueError, match="heldout must hold at least 2 points"):
        conformal_local(**sets, heldout=data.heldout[:1])
    with pytest.raises(ValueError, match="false_discovery_rate must lie"):
        conformal(**sets, heldout=data.heldout, false_discovery_rate=0.0)
