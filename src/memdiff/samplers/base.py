"""What every sampler is: a frozen configuration that carries a batch down the reverse flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from memdiff.processes import ForwardProcess
from memdiff.samplers.flow import ReverseFlow
from memdiff.samplers.noise import BrownianMotion

__all__ = ["Path", "Sampler"]


@dataclass(frozen=True)
class Path:
    """What a sampler returns for one batch.

    Attributes:
        x: Final points with shape ``(B, *S)``, float64.
        times: Decreasing times with shape ``(K + 1,)``, float64.
        trajectory: Points at ``times`` with shape ``(K + 1, B, *S)``, float64, or None.
        accepted_steps: Steps taken, summed over the samples.
        rejected_steps: Steps tried and refused by error control, summed over the samples.
    """

    x: Tensor
    times: Tensor
    trajectory: Tensor | None
    accepted_steps: int
    rejected_steps: int = 0


class Sampler(ABC):
    r"""Base class of every sampler. A subclass is a frozen dataclass.

    ``memdiff.testing.check_sampler`` measures what the class attributes declare.

    Attributes:
        order: Order of convergence: the error after a smooth flow is :math:`O(h^{order})`. For a
            stochastic sampler, the strong order on a score that is smooth in ``x``.
        stochastic: Whether noise is injected on the way.
        ratio_end: Noise-to-signal ratio :math:`\sigma/m` at which sampling stops unless ``t_end``
            is given; 0 means the data, at ``t = 0``.
    """

    order: ClassVar[int]
    stochastic: ClassVar[bool] = False
    ratio_end: ClassVar[float] = 0.0

    @abstractmethod
    def integrate(
        self,
        flow: ReverseFlow,
        x: Tensor,
        t_end: float,
        noise: BrownianMotion,
        *,
        trajectory: bool = False,
        report: Callable[[float], None] | None = None,
    ) -> Path:
        """Carry ``x`` from ``flow.process.t_max`` down to ``t_end``.

        The result for a sample must not depend on the other samples of the batch.

        Args:
            flow: The reverse flow.
            x: Points at ``t_max`` with shape ``(B, *S)``, float64; not to be modified.
            t_end: Final time, in ``[0, t_max)``.
            noise: Brownian motions of the batch; deterministic samplers ignore them.
            trajectory: Whether to record the path.
            report: Called with the fraction of the work done so far.

        Returns:
            The path.

        Raises:
            ValueError: If the sampler cannot reach ``t_end``, or the score is not finite.
        """

    @abstractmethod
    def with_resolution(self, steps: int, process: ForwardProcess, t_end: float) -> Sampler:
        """The same method in ``steps`` steps from ``t_max`` to ``t_end``, without error control.

        Its error as ``steps`` grows is what ``order`` declares.

        Args:
            steps: Number of steps, at least 1.
            process: The forward process that will be reversed.
            t_end: Final time, positive and below ``t_max``.
        """
