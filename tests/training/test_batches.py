"""Batches are epochs end to end, and seeds of steps are distinct."""

import torch

from memdiff.training import batch_index, step_seed


def test_batches_are_epochs_end_to_end():
    order = torch.cat([batch_index(10, 4, seed=3, step=step) for step in range(5)])
    assert sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))
    assert not torch.equal(order[:10], order[10:])
    assert torch.equal(batch_index(10, 4, 3, 2), order[8:12])
    assert torch.equal(batch_index(10, None, 3, 2), torch.arange(10))
    assert torch.equal(batch_index(10, 99, 3, 2), torch.arange(10))
    assert len({step_seed(seed, step, s) for seed in (0, 1) for step in range(50) for s in (0, 1)})
    seeds = {step_seed(a, b, c) for a in (0, 1) for b in range(50) for c in (0, 1)}
    assert len(seeds) == 200
