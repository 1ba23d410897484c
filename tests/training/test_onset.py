"""The rules of the onset on planted curves."""

import pytest

from memdiff.training import Reading, find_onset


def readings(p_fraction, p_close=None, losses=None):
    count = len(p_fraction)
    p_close = p_close or [1.0] * count
    losses = losses or [1.0] * count
    return [
        Reading(10 * (i + 1), loss, p, q)
        for i, (loss, p, q) in enumerate(zip(losses, p_fraction, p_close, strict=True))
    ]


def onset(*curves, patience=2, **named):
    return find_onset(readings(*curves, **named), alpha=0.01, patience=patience)


def test_one_rejection_is_no_onset():
    found = onset([0.5, 0.001, 0.5, 0.001, 0.5])
    assert found.onset is None and not found.suspicious
    assert onset([0.5, 0.001]).suspicious and onset([0.5, 0.001]).onset is None


def test_onset_is_the_first_of_the_run():
    found = onset([0.5, 0.001, 0.5, 0.01, 0.0, 0.9])
    assert found.tau_mem == found.onset == 40
    assert onset([0.5, 0.001, 0.001, 0.001], patience=3).tau_mem == 20
    assert onset([0.001, 0.5], patience=1).tau_mem == 10


def test_either_test_makes_an_onset_but_they_do_not_add_up():
    found = onset([0.5, 0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0, 0.0])
    assert (found.tau_mem, found.tau_close, found.onset) == (40, 20, 20)
    assert onset([0.0, 0.5, 0.0], [0.5, 0.0, 0.5]).onset is None


def test_best_is_before_the_onset_and_clean():
    losses = [0.9, 0.5, 0.6, 0.4, 0.3]
    assert onset([0.5, 0.5, 0.5, 0.0, 0.0], losses=losses).best == 20
    assert onset([0.5, 0.0, 0.5, 0.5, 0.5], losses=losses).best == 50
    assert onset([0.5, 0.0, 0.5, 0.0, 0.0], losses=losses).best == 30
    assert onset([0.0, 0.0], losses=[1.0, 0.5]).best is None
    assert onset([]).best is None and onset([]).onset is None


def test_best_is_known_when_it_is_seen():
    """What is best at the end was best when it was observed: its weights were kept then."""
    curves = (
        [0.5, 0.001, 0.5, 0.2, 0.001, 0.3, 0.001, 0.0, 0.0],
        [0.5, 0.5, 0.001, 0.5, 0.5, 0.5, 0.5, 0.001, 0.001],
    )
    losses = [0.9, 0.3, 0.4, 0.7, 0.2, 0.6, 0.1, 0.1, 0.1]
    kept = None
    for length in range(1, 10):
        found = onset(*(curve[:length] for curve in curves), losses=losses[:length])
        if found.best == 10 * length:
            kept = found.best
        assert found.best == kept


def test_generalisation_is_the_plateau_of_the_heldout_loss():
    losses = [1.0, 0.5, 0.23, 0.21, 0.2, 0.6]
    assert onset([0.5] * 6, losses=losses).tau_gen == 30
    assert onset([0.5] * 3, losses=[0.2, 0.3, 0.4]).tau_gen is None
    assert onset([0.5], losses=[1.0]).tau_gen is None


def test_refusals():
    with pytest.raises(ValueError, match="alpha must lie in"):
        find_onset([], alpha=0.0, patience=2)
    with pytest.raises(ValueError, match=r"must increase, got \[10, 10\]"):
        find_onset([Reading(10, 1, 1, 1), Reading(10, 1, 1, 1)], alpha=0.01, patience=1)
