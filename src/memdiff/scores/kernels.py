"""The kernels behind an empirical score, built when they are asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from memdiff.kernel import PosteriorEngine
from memdiff.kernel.labels import LabelledEngine
from memdiff.kernel.points import DiskPoints
from memdiff.kernel.shards import Engine, ShardedEngine
from memdiff.run.ranks import Ranks
from memdiff.scores.conditions import Conditions
from memdiff.sources import Rows

__all__ = ["Kernels"]

# Conditions that have so many points on average get kernels of their own.
_LEAST_POINTS = 256


class Kernels:
    r"""The posterior over all training points, and those by condition.

    Args:
        data: Training data ``(N, *S)``, in memory or on disk.
        log_prior: :math:`\log \pi_n`, ``(N,)``.
        conditions: Their conditions, or None.
        memory_limit: Bound in bytes of temporary memory.
        ranks: Processes that share the points.
    """

    def __init__(
        self,
        data: Tensor | Rows,
        log_prior: Tensor,
        conditions: Conditions | None,
        memory_limit: int,
        ranks: Ranks,
    ) -> None:
        self.data, self.log_prior, self.conditions = data, log_prior, conditions
        self.memory_limit, self.ranks = memory_limit, ranks
        self._whole: Engine | None = None
        self._labelled: LabelledEngine | None = None

    @property
    def whole(self) -> Engine:
        """The posterior over the flattened training points."""
        if self._whole is None:
            one = self.ranks.count == 1
            self._whole = self._over(range(len(self.data))) if one else self._sharded()
        return self._whole

    @property
    def labelled(self) -> LabelledEngine | None:
        """The kernels by condition.

        None where conditions are compared by a kernel or have few points each, and for data that
        lie on disk or are shared with other processes: there the conditions are terms of the
        logits.
        """
        conditions, data = self.conditions, self.data
        if conditions is None or conditions.bandwidth > 0 or not isinstance(data, Tensor):
            return None
        if self.ranks.count > 1 or len(conditions.known) * _LEAST_POINTS > len(data):
            return None
        if self._labelled is None:
            self._labelled = LabelledEngine(
                data.reshape(len(data), -1),
                conditions.labels,
                self.log_prior,
                memory_limit=self.memory_limit,
            )
        return self._labelled

    def _over(self, part: range) -> PosteriorEngine:
        some = slice(part.start, part.stop)
        points: Tensor | DiskPoints
        if isinstance(self.data, Rows):
            whole = len(part) == len(self.data)
            rows = self.data if whole else self.data.select(torch.arange(part.start, part.stop))
            points = DiskPoints(rows)
        else:
            points = self.data[some].reshape(len(part), -1)
        return PosteriorEngine(points, self.log_prior[some], memory_limit=self.memory_limit)

    def _sharded(self) -> ShardedEngine:
        part = self.ranks.part(len(self.data))
        return ShardedEngine(
            self._over(part) if len(part) else None,
            part,
            len(self.data),
            self.data.shape[1:].numel(),
            self.ranks,
            device=self.data.device,
        )
