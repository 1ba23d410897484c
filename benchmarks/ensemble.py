"""Training of many small networks: the batched pass against a loop over networks."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch

from benchmarks.floor import interleaved
from memdiff.processes import VP
from memdiff.training.ensemble import Ensemble, Member
from memdiff.training.networks import MLP
from memdiff.training.quadratic_losses import FullBatchScoreMatching

__all__ = ["run"]

STEPS = {"small": 100, "full": 300}
CASES = ((256, 1), (256, 4), (256, 8), (256, 20), (64, 8), (16, 20))
"""Width and number of members."""
LOSS = FullBatchScoreMatching(VP())


def _loop(data: torch.Tensor, member: Member, steps: int) -> Callable[[], None]:
    """Train one network as one would without an ensemble: autograd and torch's fused Adam."""
    process, net = VP(), deepcopy(member.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    average = [parameter.detach().clone() for parameter in net.parameters()]

    def train() -> None:
        for step in range(steps):
            if step % LOSS.block == 0:
                t, z = LOSS.noise(member.seed, step // LOSS.block, len(data), 2)
                m, sigma = process.scale(t)[..., None], process.std(t)[..., None]
            at = step % LOSS.block
            score = net(m[at] * data + sigma[at] * z[at], t[at])
            loss = (sigma[at] * score + z[at]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                with torch.no_grad():
                    torch._foreach_lerp_(average, list(net.parameters()), 1e-3)

    return train


def run(size: str, repeats: int) -> list[dict[str, float]]:
    """Measure.

    Args:
        size: ``"small"`` or ``"full"``.
        repeats: Runs of which the shortest counts.

    Returns:
        For each width and number of members: milliseconds a step and network in the loop (over
        one network, times their number) and in the ensemble, and the ratio of the loop to it.
    """
    steps, rows = STEPS[size], []
    data = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    for width, count in CASES:
        members = [
            Member(MLP((2,), width=width, depth=2, seed=seed), data, LOSS, seed)
            for seed in range(count)
        ]
        ensemble = Ensemble(members)
        times = interleaved(
            {
                "loop": _loop(data, members[0], steps),
                "ensemble": lambda ensemble=ensemble: ensemble.advance(steps),  # type: ignore[misc]
            },
            repeats,
        )
        each = times["ensemble"] / count
        rows.append(
            {
                "width": width,
                "members": count,
                "loop ms": 1e3 * times["loop"] / steps,
                "ensemble ms": 1e3 * each / steps,
                "loop / ensemble": times["loop"] / each,
            }
        )
    return rows
